"""What each change feed costs: one read of what changed since a base, keys and versions included.

    python benchmarks/feeds.py --rows 1000000,5000000

A table of that many rows in a sandbox PostgreSQL, all frozen and visible, with an indexed
`updated_at`. Each feed is asked for its base, for the changes when there are none, and for them
after 10,000 rows were updated; the slot's first answer, which decodes the log, is shown apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
from pydantic import SecretStr

from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig, WatermarkConfig
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.postgres.source import PostgresSource
from vbackup.progress import SilentReporter
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.sandbox import Options, throwaway

CHANGED = 10_000
SLACK = 5.0
READS = 5
MAJOR = 15
"""Debian's server: those in the wheels lack test_decoding, which the slot takes."""

FEEDS = ("xmin", "column", "slot")


class Loud(SilentReporter):
    """A feed that is not to be had would be measured as another."""

    def warn(self, event: str, **_: object) -> None:
        raise SystemExit(event)


def fill(dsn: str, rows: int) -> str:
    """The table; its size as PostgreSQL says it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bench")
        connection.execute(
            "CREATE TABLE bench (id bigint PRIMARY KEY, version bigint NOT NULL, body text,"
            " updated_at timestamptz NOT NULL) WITH (autovacuum_enabled = false)"
        )
        connection.execute(
            "INSERT INTO bench SELECT n, n, repeat('x', 200), now() - n * interval '10 ms'"
            f" - interval '1 hour' FROM generate_series(1, {rows}) n".encode()
        )
        connection.execute("CREATE INDEX ON bench (updated_at)")
        connection.execute("VACUUM (ANALYZE, FREEZE) bench")
        found = connection.execute("SELECT pg_size_pretty(pg_table_size('bench'))").fetchone()
    return str(found[0]) if found else ""


def change(dsn: str, rows: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE bench SET version = version + 1, updated_at = now()"
            f" WHERE id % {rows // CHANGED} = 0".encode()
        )


def timed(read: Callable[[], Any]) -> float:
    """Milliseconds of one read."""
    started = time.perf_counter()
    read()
    return (time.perf_counter() - started) * 1000


def measure(dsn: str, rows: int, feed: Any) -> tuple[list[float], list[float], list[float]]:
    source = RowSource(table="bench", key=("id",), version="version", changed_by="updated_at")
    link = Link("bench", "bench", (source,), version=PayloadPath(("version",)))
    watermark = WatermarkConfig(feed=feed, max_index_lag=SLACK)
    config = PostgresConfig(dsn=SecretStr(dsn))
    with closing(PostgresSource(config, watermark, clock=SystemClock(), reporter=Loud())) as reader:
        reader.change_base([link])
        bases = [timed(lambda: reader.change_base([link])) for _ in range(READS)]
        base = reader.change_base([link])
        none = [timed(lambda: reader.changed([link], base)) for _ in range(READS)]
        change(dsn, rows)
        some = [timed(lambda: reader.changed([link], base)) for _ in range(READS + 1)]
        found = len(reader.changed([link], base)[0]["bench"])
        if found < CHANGED:
            raise SystemExit(f"{feed}: {found} of {CHANGED} changed rows were found")
    return bases, none, some


def shown(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000000,5000000")
    asked = parser.parse_args()
    options = Options(postgres=PostgresOptions(major=MAJOR, logical=True), qdrant=None, s3=False)
    with throwaway(options) as sandbox:
        dsn = sandbox.postgres.admin_dsn
        print(f"PostgreSQL {sandbox.postgres.version}")
        for rows in map(int, asked.rows.split(",")):
            print(f"\n{rows:,} rows, {fill(dsn, rows)}; median (least) of {READS} reads, ms")
            print("| feed | none changed | 10,000 changed | first of these | the base |")
            print("|---|---|---|---|---|")
            for feed in FEEDS:
                bases, none, some = measure(dsn, rows, feed)
                cells = [shown(none), shown(some[1:]), f"{some[0]:.1f}", shown(bases)]
                print(f"| `{feed}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
