"""One backup of a real application, and the command line that drills it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from vbackup import wiring
from vbackup.clock import SystemClock
from vbackup.config import (
    Config,
    PostgresConfig,
    QdrantConfig,
    RepositoryConfig,
    WatermarkConfig,
)
from vbackup.demo.application import Application
from vbackup.demo.scenario import Lag, Scenario
from vbackup.demo.vector_store import VectorStore
from vbackup.model.manifest import Manifest
from vbackup.progress import SilentReporter
from vbackup.repository.repository import Repository
from vbackup.sandbox.servers import PostgresServer, QdrantServer

VBACKUP = [sys.executable, "-m", "vbackup"]


@dataclass(frozen=True)
class Origin:
    """What was backed up: the application as it was then, come to rest."""

    app: Application
    role: str
    repository: Path
    manifest: Manifest
    postgres: PostgresServer
    qdrant: QdrantServer
    # Points that nobody wrote to while the backup was taken: it has them just so.
    stable: list[dict[str, Any]]


@dataclass
class Drilled:
    """How one drill ended."""

    code: int
    document: dict[str, Any]
    err: str
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checks = {check["name"]: check for check in self.document.get("checks", ())}

    def states(self, *names: str) -> set[str]:
        return {self.checks[name]["state"] for name in names}


@dataclass
class Drills:
    """Runs drills over a copy of the repository; `place` holds all that a drill may write."""

    origin: Origin
    folder: Path
    place: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def targets(self) -> str:
        """The servers of the application itself: a drill works beside the live pair there."""
        key = self.origin.qdrant.api_key
        api_key = f"qdrant_api_key = {json.dumps(key)}\n" if key else ""
        dsn = json.dumps(self.origin.postgres.admin_dsn)
        return f"postgres = {dsn}\nqdrant = {json.dumps(self.origin.qdrant.url)}\n{api_key}"

    def opened(self) -> Repository:
        return wiring.open_repository(
            RepositoryConfig(url=self.repository.as_uri(), encryption="none")
        )

    def republish(self, **changes: Any) -> str:
        """A backup that says other things of itself than the one that was taken; its id."""
        repository = self.opened()
        manifest = repository.load(self.origin.manifest.id)
        fresh = f"20991231T000000Z-{secrets.token_hex(3)}"
        repository.begin(fresh).publish(replace(manifest, id=fresh, **changes))
        return fresh

    def configure(self, drill: str, checks: str = "") -> Path:
        path = self.folder / "vbackup.toml"
        path.write_text(
            f'[repository]\nurl = "{self.repository.as_uri()}"\nencryption = "none"\n'
            f'[drill]\nwork_dir = "{self.place}"\n{drill}\n{checks}'
        )
        return path

    def command(self, *arguments: str) -> list[str]:
        config = str(self.folder / "vbackup.toml")
        return [*VBACKUP, "--config", config, "verify", "--level", "drill", *arguments]

    def run(self, *arguments: str) -> Drilled:
        done = subprocess.run(
            [*self.command(*arguments), "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        return Drilled(done.returncode, json.loads(done.stdout or "{}"), done.stderr)

    def left_behind(self) -> list[str]:
        """Files, processes, databases and collections that a drill did not take away."""
        found = [str(path) for path in self.place.iterdir()]
        found += _processes(str(self.place))
        with psycopg.connect(self.origin.postgres.admin_dsn) as connection:
            rows = connection.execute("SELECT datname FROM pg_database").fetchall()
        found += [name for (name,) in rows if "vbackup_drill" in name]
        store = self.origin.app.store
        assert isinstance(store, VectorStore)
        listed = store.call("GET", "/collections")["collections"]
        return found + [each["name"] for each in listed if "vbackup_drill" in each["name"]]


def _processes(text: str) -> list[str]:
    """Command lines of processes that know of this text, by argument or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            if text.encode() in line + (entry / "environ").read_bytes():
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.fixture(scope="session")
def origin(
    postgres_server: PostgresServer,
    qdrant_server: QdrantServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Origin]:
    """An application that was written to during its backup, with an owner of its own."""
    name, role = f"drill_{secrets.token_hex(4)}", f"drill_role_{secrets.token_hex(4)}"
    folder = tmp_path_factory.mktemp("drill")
    scenario = Scenario(seed=71, rows=300, shards=2, lag=Lag(slow=0.3), writes_per_second=60)
    key = qdrant_server.api_key or ""
    with Application(
        postgres_server.admin_dsn, qdrant_server.url, name, scenario, api_key=key
    ) as app:
        try:
            app.create()
            app.load()
            _execute(app.dsn, "CREATE ROLE {}", role)
            _execute(app.dsn, "GRANT SELECT ON chunks TO {}", role)
            before = _points(app)
            app.start()
            app.wait_for_writes(30)
            config = _config(app, postgres_server, qdrant_server, folder)
            wiring.create_repository(config.repository)
            manifest = wiring.backup(config, SilentReporter(), SystemClock()).manifest
            app.quiesce()
            after = _points(app)
            stable = [point for key, point in before.items() if after.get(key) == point]
            yield Origin(
                app, role, folder / "repository", manifest, postgres_server, qdrant_server, stable
            )
        finally:
            app.drop()
            with suppress(psycopg.Error):
                _execute(postgres_server.admin_dsn, "DROP ROLE {}", role)


def _points(app: Application) -> dict[Any, dict[str, Any]]:
    return {point["id"]: point for page in app.store.scroll() for point in page}


def _execute(dsn: str, statement: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _config(
    app: Application, postgres: PostgresServer, qdrant: QdrantServer, folder: Path
) -> Config:
    return Config(
        postgres=PostgresConfig(
            dsn=SecretStr(app.dsn), bin_dir=Path(postgres.bin_dir) if postgres.bin_dir else None
        ),
        qdrant=QdrantConfig(
            nodes=qdrant.urls,
            api_key=SecretStr(qdrant.api_key) if qdrant.api_key else None,
            collections=(app.name,),
        ),
        repository=RepositoryConfig(url=(folder / "repository").as_uri(), encryption="none"),
        watermark=WatermarkConfig(lead_in=0.5, max_index_lag=0.5, work_dir=folder / "work"),
        link=(app.link(),),
    )


@pytest.fixture
def drills(origin: Origin, tmp_path: Path) -> Iterator[Drills]:
    """Nothing of a drill may be left, however the test ends."""
    # Where the account that PostgreSQL runs as can go, too.
    place = Path(tempfile.mkdtemp(prefix="drill-test-", dir="/var/tmp"))
    place.chmod(0o711)
    shutil.copytree(origin.repository, tmp_path / "repository")
    found = Drills(origin, tmp_path, place)
    yield found
    left = found.left_behind()
    shutil.rmtree(place, ignore_errors=True)
    assert left == []
