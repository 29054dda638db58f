"""Rows that name the collection of their points: the same key is another row in another one."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
import pytest

from vbackup.sandbox.servers import QdrantServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
Run = Callable[..., Any]
Cardinality = Literal["one", "many"]

KEYS, LANGUAGES, PARTS = 20, ("de", "en"), 3
STEPS = 40


@dataclass(frozen=True)
class Texts:
    """A text in several languages, one collection a language; rows know no more than that."""

    dsn: str
    http: httpx.Client
    prefix: str
    config: Path
    cardinality: Cardinality

    def name(self, language: str) -> str:
        return f"{self.prefix}{language}"

    def sql(self, statement: str, *values: object, database: str = "") -> list[tuple[Any, ...]]:
        dsn = psycopg.conninfo.make_conninfo(self.dsn, **({"dbname": database} if database else {}))
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, key: int, language: str, version: int, parts: int) -> None:
        """The row, then its points; without parts the row goes."""
        if parts:
            self.sql(
                "INSERT INTO texts VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (id, lang) DO UPDATE SET version = excluded.version,"
                " parts = excluded.parts",
                key, language, version, parts,
            )  # fmt: skip
        else:
            self.sql("DELETE FROM texts WHERE id = %s AND lang = %s", key, language)
        self.index(key, language, version, parts)

    def index(self, key: int, language: str, version: int, parts: int) -> None:
        path = f"/collections/{self.name(language)}/points"
        kept = list(range(key * 10, key * 10 + parts))
        gone = [n for n in range(key * 10, key * 10 + PARTS) if n not in kept]
        if kept:
            points = [
                {"id": n, "vector": [version, n], "payload": {"doc": key, "version": version}}
                for n in kept
            ]
            self._call("PUT", path, {"points": points})
        if gone:
            self._call("POST", f"{path}/delete", {"points": gone})

    def points(self, collection: str) -> dict[int, dict[str, int]]:
        path = f"/collections/{collection}/points/scroll"
        found = self._call("POST", path, {"limit": 10_000})["points"]
        return {point["id"]: point["payload"] for point in found}

    def _call(self, method: str, path: str, body: object) -> Any:
        answer = self.http.request(method, path, params={"wait": "true"}, json=body)
        answer.raise_for_status()
        return answer.json()["result"]


@pytest.fixture(params=["one", "many"])
def texts(
    request: pytest.FixtureRequest, database: str, qdrant_server: QdrantServer,
    collection_prefix: str, connections: Callable[[str], str], tmp_path: Path,
) -> Iterator[Texts]:  # fmt: skip
    count = ", parts AS count" if request.param == "many" else ""
    query = (
        f"SELECT id AS key, '{collection_prefix}' || lang AS collection, version{count} FROM texts"
    )
    config = tmp_path / "vbackup.toml"
    config.write_text(
        f"""
{connections(f"{collection_prefix}*")}
[repository]
url = "{(tmp_path / "repository").as_uri()}"
encryption = "none"
[watermark]
lead_in = "200ms"
max_index_lag = "1s"
budget = "2s"
[[link]]
name = "texts"
collection = "{collection_prefix}*"
rows = [{{ sql = "{query}" }}]
point = {{ ref = "payload:doc", version = "payload:version", cardinality = "{request.param}" }}
"""
    )
    headers = {"api-key": qdrant_server.api_key} if qdrant_server.api_key else {}
    with httpx.Client(base_url=qdrant_server.url, headers=headers, timeout=60) as client:
        found = Texts(database, client, collection_prefix, config, request.param)
        found.sql(
            "CREATE TABLE texts (id int, lang text, version int, parts int, PRIMARY KEY (id, lang))"
        )
        for language in LANGUAGES:
            body = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 2}
            client.put(f"/collections/{found.name(language)}", json=body).raise_for_status()
            for key in range(KEYS):
                found.write(key, language, key + 1, 1)
        yield found
        for (name,) in found.sql("SELECT datname FROM pg_database WHERE datname LIKE '%restored%'"):
            if name.startswith(psycopg.conninfo.conninfo_to_dict(database)["dbname"]):
                found.sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_each_text_comes_back_in_its_language(texts: Texts, vb: Run) -> None:
    """Languages of one text change, come and go by themselves while the backup looks."""
    assert vb("init", "--config", str(texts.config)).code == 0
    stop, written = threading.Event(), threading.Event()

    def work() -> None:
        chance, version = random.Random(5), 1_000
        while not stop.is_set():
            version += 1
            most = PARTS if texts.cardinality == "many" else 1
            parts = chance.randint(0, most)
            texts.write(chance.randrange(KEYS), chance.choice(LANGUAGES), version, parts)
            if version > 1_000 + STEPS:
                written.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(work)
        try:
            while not written.wait(0.1):
                assert not writing.done(), writing.result()
            backup = vb("backup", "--config", str(texts.config), "--json")
        finally:
            stop.set()
        writing.result()
    assert backup.code == 0, backup.err
    listed = texts.config.parent / "todo.jsonl"
    done = vb(
        "restore", "latest", "--config", str(texts.config), "--json", "--reembed", str(listed)
    )
    assert done.code == 0, done.err
    todo = {
        (line["key"], line["collection"])
        for line in map(_parsed, listed.read_text(encoding="utf-8").splitlines())
    }

    rows = {
        (key, texts.name(language)): (version, parts)
        for key, language, version, parts in texts.sql(
            "SELECT * FROM texts", database=done.json["database"]
        )
    }
    found: dict[tuple[int, str], list[int]] = {}
    for original, restored in done.json["collections"].items():
        for payload in texts.points(restored).values():
            found.setdefault((payload["doc"], original), []).append(payload["version"])
    assert rows
    for row, (version, parts) in rows.items():
        expected = [] if (str(row[0]), row[1]) in todo else [version] * parts
        assert found.pop(row, []) == expected, row
    assert found == {}, "points of no row"


def _parsed(line: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(line)
    return found
