"""Reconcile against the plain script, side by side, on real servers.

    python benchmarks/reconcile.py --rows 1000000 --keys int,uuid

Starts PostgreSQL and Qdrant from the sandbox (or takes --dsn and --qdrant), fills both with
pairs that agree but for a few planted faults, then measures each contender in a process of its
own: wall and CPU seconds, peak memory. The plain script is what most people write: a
`qdrant-client` scroll into a set, a `SELECT` into a set, two set differences. `plain` compares
keys alone; `plain-versions` and vbackup compare versions as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pydantic import SecretStr

COLLECTION = "bench"
FAULTS = 10
BATCH = 5_000
_UUID = "md5(n::text)::uuid"
_KEY = {"int": "n", "uuid": _UUID}


# ------------------------------------------------------------ the pair


def fill(dsn: str, url: str, kind: str, rows: int) -> None:
    """`rows` pairs; the last FAULTS rows have no point, FAULTS points have no row."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench")
        column = "bigint" if kind == "int" else "uuid"
        connection.execute(
            f"CREATE TABLE bench (id {column} PRIMARY KEY, version bigint, body text)"
        )
        connection.execute(
            f"INSERT INTO bench SELECT {_KEY[kind]}, n % 7, repeat('x', 200)"
            f" FROM generate_series(1, {rows}) n"
        )
        connection.execute("VACUUM (ANALYZE, FREEZE) bench")
    with httpx.Client(base_url=url, timeout=300) as http:
        http.delete(f"/collections/{COLLECTION}")
        http.put(
            f"/collections/{COLLECTION}",
            json={
                "vectors": {"size": 4, "distance": "Dot", "on_disk": True},
                "hnsw_config": {"m": 0},
                "optimizers_config": {"default_segment_number": 2},
            },
        ).raise_for_status()
        for points in _points(kind, rows):
            answer = http.put(
                f"/collections/{COLLECTION}/points", params={"wait": "false"}, content=points
            )
            answer.raise_for_status()
        _settled(http, rows)


def _points(kind: str, rows: int) -> Iterator[bytes]:
    import hashlib
    import uuid

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


def _settled(http: httpx.Client, rows: int) -> None:
    """Every point is there and no optimiser is at work."""
    while True:
        info = http.get(f"/collections/{COLLECTION}").json()["result"]
        counted = http.post(f"/collections/{COLLECTION}/points/count", json={"exact": True})
        if counted.json()["result"]["count"] == rows and info["status"] == "green":
            return
        time.sleep(1)


# ------------------------------------------------------------ the contenders


def plain(dsn: str, url: str, _work_dir: Path) -> tuple[int, int]:
    """The usual script: both key sets in memory. (missing, orphans)."""
    points = {key for key, _ in _scrolled(url, with_payload=False)}
    with psycopg.connect(dsn) as connection:
        rows = {str(key) for (key,) in connection.execute("SELECT id FROM bench")}
    return len(rows - points), len(points - rows)


def plain_versions(dsn: str, url: str, _work_dir: Path) -> tuple[int, int]:
    """The same script, comparing what vbackup compares: versions as well. (missing, orphans)."""
    points = dict(_scrolled(url, with_payload=["version"]))
    with psycopg.connect(dsn) as connection:
        query = "SELECT id, version FROM bench"
        rows = {str(key): version for key, version in connection.execute(query)}
    stale = sum(1 for key, version in points.items() if rows.get(key, version) != version)
    if stale:
        raise SystemExit(f"{stale} stale points that nobody planted")
    return len(rows.keys() - points.keys()), len(points.keys() - rows.keys())


def _scrolled(url: str, **asked: Any) -> Iterator[tuple[str, Any]]:
    from qdrant_client import QdrantClient

    client = QdrantClient(url=url, timeout=300, check_compatibility=False)
    offset: Any = None
    while True:
        page, offset = client.scroll(
            COLLECTION, limit=10_000, offset=offset, with_vectors=False, **asked
        )
        for point in page:
            yield str(point.id), (point.payload or {}).get("version")
        if offset is None:
            return


def vbackup(dsn: str, url: str, work_dir: Path) -> tuple[int, int]:
    """Keys and versions, in constant memory. (missing, orphans)."""
    from vbackup.clock import SystemClock
    from vbackup.config import PostgresConfig, QdrantConfig
    from vbackup.engine.reconcile import Reconcile, ReconcileOptions, live_rows
    from vbackup.model.link import Link, PayloadPath, RowSource
    from vbackup.postgres.source import PostgresSource
    from vbackup.progress import SilentReporter
    from vbackup.qdrant.source import QdrantSource

    link = Link(
        "bench",
        COLLECTION,
        (RowSource(table="bench", key=("id",), version="version"),),
        version=PayloadPath.parse("version"),
    )
    clock = SystemClock()
    with (
        closing(PostgresSource(PostgresConfig(dsn=SecretStr(dsn)), clock=clock)) as records,
        closing(QdrantSource(QdrantConfig(url=url), clock)) as points,
    ):
        result = Reconcile(
            [link],
            [],
            live_rows(records),
            points,
            {COLLECTION: ()},
            ReconcileOptions(confirm=False, work_dir=work_dir),
            SilentReporter(),
            clock,
        ).run()
    report = result.reports[0]
    return report.missing, report.orphans


CONTENDERS = {"plain": plain, "plain-versions": plain_versions, "vbackup": vbackup}


# ------------------------------------------------------------ measuring


def measured(tool: str, dsn: str, url: str, kind: str, work_dir: str) -> dict[str, Any]:
    """Run one contender in a fresh process."""
    command = [sys.executable, __file__, "--one", tool, "--dsn", dsn, "--qdrant", url]
    command += ["--keys", kind, "--work-dir", work_dir]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["found"] != [FAULTS, FAULTS]:
        raise SystemExit(f"{tool} found {found['found']}, planted {[FAULTS, FAULTS]}")
    return found


def one(arguments: argparse.Namespace) -> None:
    """The body of that process."""
    work_dir = Path(arguments.work_dir)
    started = time.perf_counter()
    found = CONTENDERS[arguments.one](arguments.dsn, arguments.qdrant, work_dir)
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "found": found,
                "seconds": round(seconds, 2),
                "cpu": round(usage.ru_utime + usage.ru_stime, 2),
                "peak_mib": usage.ru_maxrss // 1024,
            }
        )
    )


def compare(arguments: argparse.Namespace) -> None:
    """Every size and kind of key, every contender, in turn."""
    with ExitStack() as stack:
        dsn, url = _servers(arguments, stack)
        for rows in (int(text) for text in arguments.rows.split(",")):
            for kind in arguments.keys.split(","):
                fill(dsn, url, kind, rows)
                for round_ in range(arguments.rounds):
                    for tool in CONTENDERS:
                        line = {"rows": rows, "keys": kind, "tool": tool, "round": round_ + 1}
                        line |= measured(tool, dsn, url, kind, arguments.work_dir)
                        print(json.dumps(line), flush=True)


def _servers(arguments: argparse.Namespace, stack: ExitStack) -> tuple[str, str]:
    if arguments.dsn and arguments.qdrant:
        return arguments.dsn, arguments.qdrant
    from vbackup.sandbox.provider import Provider

    provider = stack.enter_context(Provider(containers=False))
    return provider.postgres().dsn(), provider.qdrant().url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000000", help="sizes, separated by commas")
    parser.add_argument("--keys", default="int,uuid", help="int, uuid")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dsn", help="a database to make the table `bench` in")
    parser.add_argument("--qdrant", help="a server to make the collection `bench` on")
    parser.add_argument("--work-dir", default="/tmp")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
