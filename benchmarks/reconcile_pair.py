"""The pairs that benchmarks/reconcile.py compares: a database and a collection, and a backup."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    import httpx

FAULTS = 10
BATCH = 5_000
_UUID = "md5(n::text)::uuid"
_KEY = {"int": "n", "uuid": _UUID}
_CONFIG = """
[postgres]
dsn = "{pair.dsn}"
[qdrant]
url = "{pair.url}"
collections = ["{pair.name}"]
[repository]
url = "file://{pair.repository}"
encryption = "none"
[watermark]
max_index_lag = "1s"
work_dir = "{pair.work_dir}"
[[link]]
name = "bench"
collection = "{pair.name}"
rows = [{{ table = "{pair.name}", key = "id", version = "version" }}]
point = {{ ref = "id", version = "payload:version" }}
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the rows and points of one kind of key are."""

    dsn: str
    url: str
    kind: str
    rows: int
    work_dir: Path

    @property
    def repository(self) -> Path:
        """Where its backup is."""
        return self.work_dir / f"{self.name}.repository"

    @property
    def name(self) -> str:
        """Of the table and of the collection."""
        return f"bench_{self.kind}_{self.rows}"


def fill(pair: Pair) -> None:
    """That many rows and points; FAULTS rows have no point, FAULTS points have no row."""
    fill_table(pair)
    fill_collection(pair)


def fill_table(pair: Pair) -> None:
    name, kind, rows = pair.name, pair.kind, pair.rows
    with psycopg.connect(pair.dsn, autocommit=True) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
        column = "bigint" if kind == "int" else "uuid"
        connection.execute(
            f"CREATE TABLE {name} (id {column} PRIMARY KEY, version bigint, body text)"
        )
        connection.execute(
            f"INSERT INTO {name} SELECT {_KEY[kind]}, n % 7, repeat('x', 200)"
            f" FROM generate_series(1, {rows}) n"
        )
        connection.execute(f"VACUUM (ANALYZE, FREEZE) {name}")


def fill_collection(pair: Pair) -> None:
    name, kind, rows = pair.name, pair.kind, pair.rows
    # Not at the top: the contenders are measured with what this module loads.
    import httpx

    with httpx.Client(base_url=pair.url, timeout=300) as http:
        http.delete(f"/collections/{name}")
        http.put(
            f"/collections/{name}",
            json={
                "vectors": {"size": 4, "distance": "Dot", "on_disk": True},
                "hnsw_config": {"m": 0},
                "optimizers_config": {"default_segment_number": 2},
            },
        ).raise_for_status()
        for points in _points(kind, rows):
            answer = http.put(
                f"/collections/{name}/points", params={"wait": "false"}, content=points
            )
            answer.raise_for_status()
        _settled(http, name, rows)


def database(dsn: str, name: str) -> str:
    """The DSN of a database of the pair's own: a backup holds all of its database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if not known.fetchone():
            connection.execute(f"CREATE DATABASE {name}")
    return make_conninfo(dsn, dbname=name)


def back_up(pair: Pair) -> None:
    """Make a repository with one backup of the pair."""
    shutil.rmtree(pair.repository, ignore_errors=True)
    file = pair.work_dir / f"{pair.name}.toml"
    file.write_text(_CONFIG.format(pair=pair))
    for command in ("init", "backup"):
        subprocess.run(
            [sys.executable, "-m", "vbackup", "--config", str(file), command],
            check=True,
            stdout=sys.stderr,
        )


def _points(kind: str, rows: int) -> Iterator[bytes]:
    for start in range(1, rows + 1, BATCH):
        numbers = [n for n in range(start, min(start + BATCH, rows + 1)) if n > FAULTS]
        if start + BATCH > rows:
            numbers += range(rows + 1, rows + FAULTS + 1)
        yield json.dumps(
            {
                "points": [
                    {
                        "id": n
                        if kind == "int"
                        else str(uuid.UUID(hashlib.md5(str(n).encode()).hexdigest())),
                        "vector": [1.0, 2.0, 3.0, 4.0],
                        "payload": {"version": n % 7, "title": "a title of some length"},
                    }
                    for n in numbers
                ]
            }
        ).encode()


def _settled(http: httpx.Client, name: str, rows: int) -> None:
    """Every point is there and no optimiser is at work."""
    while True:
        info = http.get(f"/collections/{name}").json()["result"]
        counted = http.post(f"/collections/{name}/points/count", json={"exact": True})
        if counted.json()["result"]["count"] == rows and info["status"] == "green":
            return
        time.sleep(1)
