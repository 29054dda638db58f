"""Reconcile against the plain script, side by side, on real servers.

    python benchmarks/reconcile.py --rows 1000000 --keys int,uuid

Starts PostgreSQL and Qdrant from the sandbox (or takes --dsn and --qdrant), fills a database and
a collection with pairs that agree but for a few planted faults, then measures each contender in a
process of its own: wall and CPU seconds, peak memory. The plain script is what most people write:
a `qdrant-client` scroll into a set, a `SELECT` into a set, two set differences. `plain` leaves the
client's defaults as they are, which bring every payload, and asks for a thousand points a page;
`tuned` knows what makes it fast, pages of 10,000 without payload. Both compare keys alone, as
`vbackup-keys` does; `tuned-versions` and `vbackup` compare versions as well, and so
does `vbackup-offline`, out of a backup of the pair and with no server. `floor` fetches the keys of
both sides and throws them away. `--filled` measures again
what an earlier run left on servers of yours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from pydantic import SecretStr
from reconcile_pair import FAULTS, Pair, back_up, database, fill

JSON = "application/json"

# ------------------------------------------------------------ the contenders


def plain(pair: Pair) -> tuple[int, int]:
    """The script as most write it: both key sets in memory. (missing, orphans)."""
    return _differences(pair, {point.id for point in _scrolled(pair, limit=1_000)})


def tuned(pair: Pair) -> tuple[int, int]:
    """The same, as fast as it gets. (missing, orphans)."""
    return _differences(pair, {point.id for point in _scrolled(pair, with_payload=False)})


def _differences(pair: Pair, points: set[Any]) -> tuple[int, int]:
    with psycopg.connect(pair.dsn) as connection:
        found = connection.execute(f"SELECT id FROM {pair.name}")
        rows = {key for (key,) in found} if pair.kind == "int" else {str(key) for (key,) in found}
    return len(rows - points), len(points - rows)


def tuned_versions(pair: Pair) -> tuple[int, int]:
    """The tuned script, comparing what vbackup compares: versions as well. (missing, orphans)."""
    scrolled = _scrolled(pair, with_payload=["version"])
    points = {point.id: point.payload["version"] for point in scrolled}
    with psycopg.connect(pair.dsn) as connection:
        found = connection.execute(f"SELECT id, version FROM {pair.name}")
        rows = dict(found) if pair.kind == "int" else {str(key): v for key, v in found}
    stale = sum(1 for key, version in points.items() if rows.get(key, version) != version)
    if stale:
        raise SystemExit(f"{stale} stale points that nobody planted")
    return len(rows.keys() - points.keys()), len(points.keys() - rows.keys())


def _scrolled(pair: Pair, **asked: Any) -> Iterator[Any]:
    from qdrant_client import QdrantClient

    client = QdrantClient(url=pair.url, timeout=300, check_compatibility=False)
    asked.setdefault("limit", 10_000)
    offset: Any = None
    while True:
        page, offset = client.scroll(pair.name, offset=offset, **asked)
        yield from page
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


def floor(pair: Pair) -> tuple[int, int]:
    """What no comparison can be faster than: every page and every row is fetched, both sides at
    once, and thrown away."""
    with ThreadPoolExecutor(1) as pool, psycopg.connect(pair.dsn) as connection:
        pages = pool.submit(_thrown_away, pair)
        with connection.cursor() as cursor:
            command = f"COPY (SELECT id FROM {pair.name}) TO STDOUT (FORMAT binary)"
            with cursor.copy(command) as copy:
                while copy.read():
                    pass
        pages.result()
    return 0, 0


def _thrown_away(pair: Pair) -> None:
    parts = urlsplit(pair.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    asked: dict[str, object] = {"limit": 10_000, "with_payload": False, "with_vector": False}
    while asked.get("offset", 0) is not None:
        path, headers = f"/collections/{pair.name}/points/scroll", {"content-type": JSON}
        connection.request("POST", path, json.dumps(asked), headers)
        raw = connection.getresponse().read()
        # The rest of the answer, without its points.
        rest = raw[raw.rindex(b'"next_page_offset":') :]
        asked["offset"] = json.loads(b'{"result":{' + rest)["result"]["next_page_offset"]
    connection.close()


def vbackup_offline(pair: Pair) -> tuple[int, int]:
    """Keys and versions of the newest backup. (rows that it lists to embed again, orphans): it
    deletes what has no row."""
    from vbackup.clock import SystemClock
    from vbackup.config import RepositoryConfig
    from vbackup.engine.reconcile import ReconcileOptions
    from vbackup.progress import SilentReporter
    from vbackup.reconciling import stored_pair
    from vbackup.wiring import open_repository

    clock = SystemClock()
    config = RepositoryConfig(url=f"file://{pair.repository}", encryption="none")
    repository = open_repository(config, clock)
    stored = stored_pair(repository, SilentReporter(), clock, pair.work_dir)
    options = ReconcileOptions(confirm=False, work_dir=pair.work_dir)
    report = stored.reconcile(repository.backups()[0].id, options).reports[0]
    return report.expected_reembed, report.orphans


CONTENDERS = {
    "floor": floor,
    "plain": plain,
    "tuned": tuned,
    "vbackup-keys": vbackup_keys,
    "tuned-versions": tuned_versions,
    "vbackup": vbackup,
    "vbackup-offline": vbackup_offline,
}
FOUND = {"vbackup-offline": [FAULTS, 0], "floor": [0, 0]}
"""What is found where that is not what was planted."""


# ------------------------------------------------------------ measuring


def measured(tool: str, pair: Pair) -> dict[str, Any]:
    """Run one contender in a fresh process."""
    command = [sys.executable, __file__, "--one", tool, "--dsn", pair.dsn]
    command += ["--qdrant", pair.url, "--keys", pair.kind, "--rows", str(pair.rows)]
    command += ["--work-dir", str(pair.work_dir)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["found"] != FOUND.get(tool, [FAULTS, FAULTS]):
        raise SystemExit(f"{tool} found {found['found']}, planted {FAULTS} of each")
    return found


def one(arguments: argparse.Namespace) -> None:
    """The body of that process."""
    pair = Pair(
        arguments.dsn,
        arguments.qdrant,
        arguments.keys,
        int(arguments.rows),
        Path(arguments.work_dir),
    )
    started = time.perf_counter()
    found = CONTENDERS[arguments.one](pair)
    seconds = time.perf_counter() - started
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    measured = {"found": found, "seconds": round(seconds, 2), "cpu": round(cpu, 2)}
    measured["peak_mib"] = own.ru_maxrss // 1024
    if children.ru_maxrss:
        measured["peak_child_mib"] = children.ru_maxrss // 1024
    print(json.dumps(measured))


def compare(arguments: argparse.Namespace) -> None:
    """Every size and kind of key, every contender, in turn."""
    for rows in (int(text) for text in arguments.rows.split(",")):
        for kind in arguments.keys.split(","):
            # Servers of its own: five million points more would be too many for a sandbox's.
            with ExitStack() as stack:
                dsn, url = _servers(arguments, stack)
                own = database(dsn, f"bench_{kind}_{rows}")
                pair = Pair(own, url, kind, rows, Path(arguments.work_dir))
                if not arguments.filled:
                    fill(pair)
                    back_up(pair)
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
