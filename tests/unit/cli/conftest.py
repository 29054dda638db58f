"""vbackup's command line in this process, in a folder of its own, over a real repository."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vbackup import redact, wiring
from vbackup.cli.main import run
from vbackup.cli.session import Session
from vbackup.config import RepositoryConfig
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.model.manifest import (
    CollectionPart,
    DatabaseFacts,
    DumpArtifact,
    Manifest,
    PatchPart,
    PostgresPart,
    QdrantPart,
    ShardPart,
    Statistics,
    WatermarkRecord,
)
from vbackup.model.patch import Reembed, encode

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

CONFIG = """
[postgres]
dsn = "postgresql://app:sesame-open@db.example/app"

[qdrant]
url = "http://qdrant.example:6333"

[repository]
url = "file://{folder}/repository"
encryption = "none"

[[link]]
name = "documents"
collection = "documents"
rows = [{{ table = "public.documents", key = "id", version = "version" }}]
point = {{ ref = "id", version = "payload:version" }}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


class FixedClock:
    """`ports.Clock` that stands still."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a command sets for its process is set back: logs, redaction, folder, environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("VBACKUP_CONFIG", "DATABASE_URL", "QDRANT_API_KEY", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    root, ours = logging.getLogger(), logging.getLogger("vbackup")
    before = root.handlers[:], root.level, ours.level
    # A passphrase is stretched for a tenth of a second in earnest; every command opens one.
    monkeypatch.setattr("vbackup.repository.keys._SCRYPT_N", 16)
    yield
    root.handlers[:], level, own = before
    root.setLevel(level)
    ours.setLevel(own)
    redact.forget()


@pytest.fixture
def clock() -> FixedClock:
    """The clock that commands run by."""
    return FixedClock()


@pytest.fixture
def vb(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line: `vb("list", "--json")`."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        session = Session()
        session.clock = FixedClock()
        code = run(arguments, session)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration for servers that nobody contacts, and an empty repository."""
    path = tmp_path / "vbackup.toml"
    path.write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    wiring.create_repository(_repository_config(path), FixedClock())
    return path


@pytest.fixture
def stored(config_file: Path) -> Callable[..., Manifest]:
    """Stores one backup: `stored("20261123T110000Z-aaaaaa", tags={...}, reembed=[...])`."""

    def store(
        backup_id: str = "20261123T110000Z-aaaaaa",
        *,
        at: datetime = NOW - timedelta(hours=1),
        tags: Mapping[str, str] | None = None,
        reembed: tuple[Reembed, ...] = (),
    ) -> Manifest:
        repository = wiring.open_repository(_repository_config(config_file), FixedClock())
        writer = repository.begin(backup_id)
        dump = writer.add("postgres/main", [b"dump " * 1000])
        shard = writer.add("qdrant/documents/0", [b"shard " * 1000])
        patch = writer.add("patch", map(encode, reembed)) if reembed else None
        return writer.publish(
            Manifest(
                id=backup_id,
                created_at=at,
                vbackup_version="0.1.0",
                host="host-1",
                watermark=WatermarkRecord("capture", "00000003-1", "0/16B3748", at),
                postgres=PostgresPart(FACTS, "16.4", (DumpArtifact("main", dump),), dump.length),
                qdrant=QdrantPart(
                    "1.17.0",
                    1,
                    (
                        CollectionPart(
                            name="documents",
                            config={},
                            payload_schema={},
                            aliases=("docs",),
                            shards=(ShardPart(0, None, shard, at, at),),
                            points=500,
                            bytes=shard.length,
                        ),
                    ),
                ),
                links=(LINK,),
                patch=PatchPart(patch, reembed=len(reembed)),
                statistics=Statistics(bytes_read=11_000, seconds=2.5),
                tags=dict(tags or {}),
            )
        )

    return store


FACTS = DatabaseFacts(
    database="app",
    server_version="16.4",
    server_version_num=160004,
    system_identifier="7000000000000000001",
    encoding="UTF8",
    collate="C",
    ctype="C",
)

LINK = Link(
    name="documents",
    collection="documents",
    rows=(RowSource(table="public.documents", key=("id",), version="version"),),
    version=PayloadPath.parse("version"),
)


def _repository_config(path: Path) -> RepositoryConfig:
    from vbackup.settings import load_repository

    return load_repository(path)
