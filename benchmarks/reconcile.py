"""Reconcile against the plain script, side by side, on real servers.

    python benchmarks/reconcile.py --rows 1000000 --keys int,uuid

Starts PostgreSQL and Qdrant from the sandbox (or takes --dsn and --qdrant), fills both with
pairs that agree but for a few planted faults, then measures each contender in a process of its
own: wall and CPU seconds, peak memory. The plain script is what most people write: a
`qdrant-client` scroll into a set, a `SELECT` into a set, two set differences. `plain` compares
keys alone, as `vbackup-keys` does; `plain-versions` and `vbackup` compare versions as well.
`--filled` measures again what an earlier run left on servers of yours.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pydantic import SecretStr

FAULTS = 10
BATCH = 5_000
_UUID = "md5(n::text)::uuid"
_KEY = {"int": "n", "uuid": _UUID}


# ------------------------------------------------------------ the pair


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the rows and points of one kind of key are."""

    dsn: str
    url: str
    kind: str
    work_dir: Path

    @property
    def name(self) -> str:
        """Of the table and of the collection."""
        return f"bench_{self.kind}"


def fill(pair: Pair, rows: int) -> None:
    """`rows` pairs; the last FAULTS rows have no point, FAULTS points have no row."""
    name, kind = pair.name, pair.kind
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


def _settled(http: httpx.Client, name: str, rows: int) -> None:
    """Every point is there and no optimiser is at work."""
    while True:
        info = http.get(f"/collections/{name}").json()["result"]
        counted = http.post(f"/collections/{name}/points/count", json={"exact": True})
        if counted.json()["result"]["count"] == rows and info["status"] == "green":
            return
        time.sleep(1)


# ------------------------------------------------------------ the contenders


def plain(pair: Pair) -> tuple[int, int]:
    """The usual script: both key sets in memory. (missing, orphans)."""
    points = {key for key, _ in _scrolled(pair, with_payload=False)}
    with psycopg.connect(pair.dsn) as connection:
        rows = {str(key) for (key,) in connection.execute(f"SELECT id FROM {pair.name}")}
    return len(rows - points), len(points - rows)


def plain_versions(pair: Pair) -> tuple[int, int]:
    """The same script, comparing what vbackup compares: versions as well. (missing, orphans)."""
    points = dict(_scrolled(pair, with_payload=["version"]))
    with psycopg.connect(pair.dsn) as connection:
        query = f"SELECT id, version FROM {pair.name}"
        rows = {str(key): version for key, version in connection.execute(query)}
    stale = sum(1 for key, version in points.items() if rows.get(key, version) != version)
    if stale:
        raise SystemExit(f"{stale} stale points that nobody planted")
    return len(rows.keys() - points.keys()), len(points.keys() - rows.keys())


def _scrolled(pair: Pair, **asked: Any) -> Iterator[tuple[str, Any]]:
    from qdrant_client import QdrantClient

    client = QdrantClient(url=pair.url, timeout=300, check_compatibility=False)
    offset: Any = None
    while True:
        page, offset = client.scroll(
            pair.name, limit=10_000, offset=offset, with_vectors=False, **asked
        )
        for point in page:
            yield str(point.id), (point.payload or {}).get("version")
        if offset is None:
            return


def vbackup(pair: Pair) -> tuple[int, int]:
    """Keys and versions, in constant memory. (missing, orphans)."""
    return _reconciled(pair, "version")


def vbackup_keys(pair: Pair) -> tuple[int, int]:
    """Keys alone, in constant memory. (missing, orphans)."""
    return _reconciled(pair, None)


def _reconciled(pair: Pair, version: str | None) -> tuple[int, int]:
    from vbackup.clock import SystemClock
    from vbackup.config import PostgresConfig, QdrantConfig
    from vbackup.engine.reconcile import Reconcile, ReconcileOptions, live_rows
    from vbackup.model.link import Link, PayloadPath, RowSource
    from vbackup.postgres.source import PostgresSource
    from vbackup.progress import SilentReporter
    from vbackup.qdrant.source import QdrantSource

    link = Link(
        "bench",
        pair.name,
        (RowSource(table=pair.name, key=("id",), version=version),),
        version=PayloadPath.parse(version) if version else None,
    )
    clock = SystemClock()
    with (
        closing(PostgresSource(PostgresConfig(dsn=SecretStr(pair.dsn)), clock=clock)) as records,
        closing(QdrantSource(QdrantConfig(url=pair.url), clock)) as points,
    ):
        result = Reconcile(
            [link],
            [],
            live_rows(records),
            points,
            {pair.name: ()},
            ReconcileOptions(confirm=False, work_dir=pair.work_dir),
            SilentReporter(),
            clock,
        ).run()
    report = result.reports[0]
    return report.missing, report.orphans


CONTENDERS = {
    "plain": plain,
    "vbackup-keys": vbackup_keys,
    "plain-versions": plain_versions,
    "vbackup": vbackup,
}


# ------------------------------------------------------------ measuring


def measured(tool: str, pair: Pair) -> dict[str, Any]:
    """Run one contender in a fresh process."""
    command = [sys.executable, __file__, "--one", tool, "--dsn", pair.dsn]
    command += ["--qdrant", pair.url, "--keys", pair.kind, "--work-dir", str(pair.work_dir)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["found"] != [FAULTS, FAULTS]:
        raise SystemExit(f"{tool} found {found['found']}, planted {[FAULTS, FAULTS]}")
    return found


def one(arguments: argparse.Namespace) -> None:
    """The body of that process."""
    pair = Pair(arguments.dsn, arguments.qdrant, arguments.keys, Path(arguments.work_dir))
    started = time.perf_counter()
    found = CONTENDERS[arguments.one](pair)
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
                pair = Pair(dsn, url, kind, Path(arguments.work_dir))
                if not arguments.filled:
                    fill(pair, rows)
                for round_ in range(arguments.rounds):
                    for tool in arguments.tools.split(","):
                        line = {"rows": rows, "keys": kind, "tool": tool, "round": round_ + 1}
                        line |= measured(tool, pair)
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
    parser.add_argument("--tools", default=",".join(CONTENDERS), help="which contenders")
    parser.add_argument("--dsn", help="a database to make the tables `bench_*` in")
    parser.add_argument("--qdrant", help="a server to make the collections `bench_*` on")
    parser.add_argument("--filled", action="store_true", help="they are filled already")
    parser.add_argument("--work-dir", default="/tmp")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
