"""What needs a cluster of its own: transaction ids that wrap around, and a standby."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest

from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig
from vbackup.errors import Failed, Refused, Unreachable
from vbackup.model.link import Link, RowSource
from vbackup.ports import NoRoom
from vbackup.postgres.source import PostgresSource

pytestmark = pytest.mark.integration

T = Link("t", "c", (RowSource(table="t", key=("id",), version="v"),))
SEGMENT_XIDS = 1024**2  # transaction ids a file of pg_xact


def changed(reader: PostgresSource, base: str) -> set[int]:
    return {int(key) for key in reader.changed([T], base)[0]["t"].keys}


@pytest.fixture
def primary(clusters: Callable[[], Any]) -> Any:
    made = clusters()
    data = str(made.directory / "data")
    made.run("initdb", "-D", data, "-U", "vbackup", "-A", "trust", "-N", "-E", "SQL_ASCII")
    return made


def test_the_feed_follows_transaction_ids_around_the_end(primary: Any) -> None:
    data = primary.directory / "data"
    # What initdb wrote would lie in the future.
    primary.start()
    primary.run("vacuumdb", "--all", "--freeze", "--maintenance-db", primary.dsn)
    primary.stop()
    start = 2**32 - 40
    segment = data / "pg_xact" / f"{start // SEGMENT_XIDS:04X}"
    segment.write_bytes(bytes(256 * 1024))
    if primary.account:
        os.chown(segment, primary.account.uid, primary.account.gid)
    primary.run("pg_resetwal", "-x", str(start), "-u", str(start - 100), str(data))
    primary.start()
    reader = PostgresSource(
        PostgresConfig.model_validate({"dsn": primary.dsn}), clock=SystemClock()
    )
    with closing(reader), psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
        connection.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 200) g")
        before = reader.change_base()
        assert int(before) > 2**32 - 100
        for key in range(1, 101):
            connection.execute("UPDATE t SET v = 1 WHERE id = %s", (key,))
        after = reader.change_base()
        assert int(after) < 1000
        assert changed(reader, before) == set(range(1, 101))
        assert changed(reader, after) == set()
        connection.execute("UPDATE t SET v = 2 WHERE id IN (7, 150)")
        assert changed(reader, after) == {7, 150}
        connection.execute("VACUUM (FREEZE) t")
        assert changed(reader, before) >= {*range(1, 101), 150}


def test_a_standby_is_refused_unless_asked_for(primary: Any, clusters: Callable[[], Any]) -> None:
    primary.start()
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
        connection.execute("CREATE UNLOGGED TABLE u AS SELECT 1 AS id")
        connection.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 200) g")
        standby = clusters()
        standby.run(
            "pg_basebackup",
            "-D",
            str(standby.directory / "data"),
            "-R",
            "-c",
            "fast",
            "-N",
            "-d",
            primary.dsn,
        )
        standby.start()
        connection.execute("UPDATE t SET v = 1 WHERE id = 5")
        target = connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
    config = PostgresConfig.model_validate({"dsn": standby.dsn})
    with closing(PostgresSource(config, clock=SystemClock())) as careful:
        with pytest.raises(Refused, match="standby"):
            careful.candidate([T])
        assert any("standby" in line for line in careful.problems())
    with closing(PostgresSource(config, clock=SystemClock(), allow_standby=True)) as reader:
        pause = threading.Event()
        while True:
            candidate = reader.candidate([T])
            high, low = candidate.lsn.split("/")
            if target and (int(high, 16) << 32) + int(low, 16) >= target[0]:
                break
            candidate.close()
            pause.wait(0.02)
        with closing(candidate):
            assert candidate.timeline == 0
            assert candidate.lookup(T, ["5"]).versions == ["1"]
            streams = list(candidate.dumps())
            assert b"".join(streams[0].open()).startswith(b"PGDMP")


def test_a_server_that_goes_away_is_unreachable(primary: Any) -> None:
    primary.start()
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    config = PostgresConfig.model_validate({"dsn": primary.dsn})
    with closing(PostgresSource(config, clock=SystemClock())) as reader:
        candidate = reader.candidate([T])
        streams = candidate.dumps()
        primary.stop()
        with pytest.raises(Unreachable):
            candidate.lookup(T, ["1"])
        with pytest.raises(Unreachable):
            list(streams[0].open())
        with pytest.raises(Unreachable):
            reader.change_base()
        candidate.close()
        primary.start()
        assert reader.change_base().isdigit()


def test_text_of_no_encoding_is_refused_where_it_is_no_utf8(primary: Any) -> None:
    primary.start()
    config = PostgresConfig.model_validate({"dsn": primary.dsn})
    with (
        psycopg.connect(primary.dsn, autocommit=True) as connection,
        closing(PostgresSource(config, clock=SystemClock())) as reader,
    ):
        connection.execute("CREATE TABLE t (id text, v int); INSERT INTO t VALUES ('x', 1)")
        assert reader.facts().encoding == "SQL_ASCII"
        base = reader.change_base()
        connection.execute(r"INSERT INTO t VALUES (E'\xc3\xa9', 1)")
        assert reader.changed([T], base)[0]["t"].keys == ["é"]
        connection.execute(r"INSERT INTO t VALUES (E'\xff', 1)")
        with pytest.raises(Failed, match="invalid byte sequence"):
            reader.changed([T], base)


def restarted(primary: Any, locks: int) -> None:
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET max_locks_per_transaction = {locks}")
    primary.stop()
    primary.start()


def test_candidates_know_how_many_the_lock_table_has_room_for(primary: Any) -> None:
    """Full, it would keep out everybody: the application's queries need locks, too."""
    primary.start()
    tables = "SELECT format('CREATE TABLE t%s ()', g) FROM generate_series(1, 400) g"
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        for (create,) in connection.execute(tables).fetchall():
            connection.execute(create)
    config = PostgresConfig.model_validate({"dsn": primary.dsn})
    with closing(PostgresSource(config, clock=SystemClock())) as reader, ExitStack() as stack:

        def opened() -> Any:
            return stack.enter_context(closing(reader.candidate([])))

        # 64 locks for each of 30 sessions; a quarter of that for all candidates.
        assert opened().room() == 1
        restarted(primary, 256)
        assert opened().room() in {3, 4}
        restarted(primary, 10)
        with pytest.raises(NoRoom, match="shared memory") as caught:
            deque((opened() for _ in range(20)), maxlen=0)
        assert "max_locks_per_transaction" in caught.value.hint
