"""A small pair on real servers, a configuration for it, and vbackup's command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from vbackup import redact
from vbackup.cli.main import run
from vbackup.sandbox.servers import PostgresServer, QdrantServer

ROWS = 300


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


@dataclass(frozen=True, slots=True)
class LivePair:
    """A table and a collection that agree; each row's point has its id and version."""

    dsn: str
    qdrant: httpx.Client
    collection: str

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)

    def count_rows(self) -> int:
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute("SELECT count(*) FROM documents").fetchone()
        assert row is not None
        return int(row[0])

    def count_points(self, name: str | None = None) -> int:
        path = f"/collections/{name or self.collection}/points/count"
        return int(self.qdrant.post(path, json={"exact": True}).json()["result"]["count"])

    def vectors(self, ids: list[int]) -> dict[int, list[float]]:
        """By id, of those points that exist."""
        path = f"/collections/{self.collection}/points"
        found = self.qdrant.post(path, json={"ids": ids, "with_vector": True}).json()["result"]
        return {point["id"]: point["vector"] for point in found}

    def remove(self, ids: list[int]) -> None:
        path = f"/collections/{self.collection}/points/delete"
        self.qdrant.post(path, params={"wait": "true"}, json={"points": ids}).raise_for_status()

    def collections(self) -> set[str]:
        listed = self.qdrant.get("/collections").json()["result"]["collections"]
        return {entry["name"] for entry in listed}


@pytest.fixture
def pair(database: str, qdrant_server: QdrantServer, collection_prefix: str) -> Iterator[LivePair]:
    headers = {"api-key": qdrant_server.api_key} if qdrant_server.api_key else {}
    with httpx.Client(base_url=qdrant_server.url, headers=headers, timeout=30) as client:
        found = LivePair(database, client, f"{collection_prefix}documents")
        found.sql("CREATE TABLE documents (id bigint PRIMARY KEY, body text, version int)")
        found.sql(
            f"INSERT INTO documents SELECT n, md5(n::text), 1 FROM generate_series(1, {ROWS}) n"
        )
        client.put(
            f"/collections/{found.collection}",
            json={"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 2},
        ).raise_for_status()
        points = [
            {"id": n, "vector": [n, 1, 2, 3], "payload": {"version": 1}} for n in range(1, ROWS + 1)
        ]
        client.put(
            f"/collections/{found.collection}/points",
            params={"wait": "true"},
            json={"points": points},
        ).raise_for_status()
        yield found


@pytest.fixture
def databases(pair: LivePair) -> Iterator[Callable[[], set[str]]]:
    """The databases of this pair, the live one and copies."""
    live = str(psycopg.conninfo.conninfo_to_dict(pair.dsn)["dbname"])
    with psycopg.connect(
        psycopg.conninfo.make_conninfo(pair.dsn, dbname="postgres"), autocommit=True
    ) as connection:

        def find() -> set[str]:
            rows = connection.execute("SELECT datname FROM pg_database").fetchall()
            return {name for (name,) in rows if name.startswith(live)}

        yield find
        for name in find() - {live}:
            gone = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(gone)


@pytest.fixture
def connections(
    database: str,
    postgres_server: PostgresServer,
    qdrant_server: QdrantServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], str]:
    """How a configuration reaches both servers, with the DSN in the environment, as `init` writes
    it; the collections are those that a glob matches."""
    monkeypatch.setenv("APP_DSN", database)
    monkeypatch.setenv("QDRANT_KEY", qdrant_server.api_key or "")
    bin_dir = f'bin_dir = "{postgres_server.bin_dir}"' if postgres_server.bin_dir else ""
    api_key = 'api_key = "${env:QDRANT_KEY}"' if qdrant_server.api_key else ""

    def sections(collections: str) -> str:
        return f"""
[postgres]
dsn = "${{env:APP_DSN}}"
{bin_dir}
[qdrant]
url = "{qdrant_server.url}"
collections = ["{collections}"]
{api_key}
"""

    return sections


@pytest.fixture
def config_file(pair: LivePair, connections: Callable[[str], str], tmp_path: Path) -> Path:
    """Encrypted."""
    path = tmp_path / "vbackup.toml"
    path.write_text(
        f"""
{connections(pair.collection)}
[repository]
url = "{(tmp_path / "repository").as_uri()}"
passphrase_file = "passphrase"
[watermark]
lead_in = "0s"
max_index_lag = "0s"
[[link]]
name = "documents"
collection = "{pair.collection}"
rows = [{{ table = "public.documents", key = "id", version = "version" }}]
point = {{ ref = "id", version = "payload:version" }}
""",
        encoding="utf-8",
    )
    return path


Run = Callable[..., Outcome]


@pytest.fixture
def vb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Run]:
    """Runs one command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VBACKUP_CONFIG", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)
    redact.forget()
