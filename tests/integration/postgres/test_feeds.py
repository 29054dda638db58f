"""Change feeds other than xmin: what they find, what they miss, when they give way to xmin."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig, WatermarkConfig
from vbackup.errors import Usage
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.postgres import slot
from vbackup.postgres.source import PostgresSource

pytestmark = pytest.mark.integration

VERSION = PayloadPath(("v",))
T = Link("t", "c", (RowSource(table="t", key=("id",), version="v", changed_by="at"),), (), VERSION)
TABLE = """
CREATE TABLE t (id int PRIMARY KEY, v int DEFAULT 1, pad text, big bigserial,
                at timestamptz DEFAULT now()) WITH (fillfactor = 50);
INSERT INTO t (id, at) SELECT g, now() - interval '1 day' FROM generate_series(1, 500) g;
CREATE INDEX ON t (at); CREATE INDEX ON t (big)
"""
ODD = """
CREATE TABLE "a ""b. c" ("K ""y" text, part int, v int, tags text[], PRIMARY KEY ("K ""y", part))
    PARTITION BY RANGE (part);
CREATE TABLE p1 PARTITION OF "a ""b. c" FOR VALUES FROM (0) TO (100);
CREATE TABLE p2 PARTITION OF "a ""b. c" DEFAULT
"""
INTO_ODD = """
INSERT INTO "a ""b. c" VALUES ('it''s', 1, 1, '{a,b}'), (' x[1]:', 200, 1, NULL)
"""
Writer = psycopg.Connection[Any]


class Warnings:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, event: str, **fields: object) -> None:
        self.texts.append(event)


@pytest.fixture
def warnings() -> Warnings:
    return Warnings()


@pytest.fixture
def feeding(warnings: Warnings) -> Iterator[Callable[..., PostgresSource]]:
    """`feeding(dsn, feed, max_index_lag=…)`; closed afterwards."""
    made: list[PostgresSource] = []

    def make(dsn: str, feed: str, **changes: Any) -> PostgresSource:
        watermark = WatermarkConfig(**{"feed": feed, **changes})
        reporter: Any = warnings
        made.append(
            PostgresSource(
                PostgresConfig(dsn=dsn), watermark, clock=SystemClock(), reporter=reporter
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def writer(schema: str) -> Iterator[Writer]:
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def logical(postgres_servers: Any, new_database: Any) -> str:
    """The DSN of a database with the table, on a server that has test_decoding: 15 is Debian's."""
    server = postgres_servers(15)
    dsn = str(new_database(server))
    with psycopg.connect(dsn, autocommit=True) as connection:
        try:
            connection.execute(
                "SELECT pg_create_logical_replication_slot('probe', 'test_decoding', true)"
            )
        except psycopg.errors.UndefinedFile:
            pytest.skip("the server has no test_decoding")
        connection.execute("SELECT pg_drop_replication_slot('probe')")
        connection.execute(TABLE)
    return dsn


def keys(reader: Any, base: str, link: Link = T) -> set[str]:
    found, _ = reader.changed([link], base)
    return set(found[link.name].keys)


# ---------------------------------------------------------------- column


@pytest.mark.parametrize("by", ["at", "big", "at AT TIME ZONE 'UTC'", "id"])
def test_a_column_finds_what_moves_it_and_misses_deletes(
    writer: Writer, schema: str, feeding: Any, by: str
) -> None:
    link = Link("t", "c", (RowSource("t", None, ("id",), version="v", changed_by=by),), (), VERSION)
    writer.execute("INSERT INTO t (id, big) VALUES (100000, 100000)")
    reader = feeding(schema, "column", max_index_lag=0)
    base = reader.change_base([link])
    writer.execute("DELETE FROM t WHERE id = 3")
    writer.execute("UPDATE t SET v = 5 WHERE id = 4")
    writer.execute("INSERT INTO t (id, big) VALUES (200000, 200000)")
    found = keys(reader, base, link)
    assert "200000" in found
    # Nothing moved the column of row 4, so it is missed: no harm, the comparison finds it.
    assert "4" not in found
    assert "3" not in found


def test_a_long_transaction_is_found_within_the_slack(
    writer: Writer, schema: str, feeding: Any
) -> None:
    with psycopg.connect(schema) as late:
        late.execute("UPDATE t SET v = 2, at = now() WHERE id = 1")
        writer.execute("INSERT INTO t (id, at) VALUES (1001, clock_timestamp())")
        strict = feeding(schema, "column", max_index_lag=0)
        slack = feeding(schema, "column", max_index_lag=60)
        bases = strict.change_base([T]), slack.change_base([T])
        late.commit()
    assert "1" not in keys(strict, bases[0])
    assert keys(slack, bases[1]) == {"1", "1001"}


def test_a_clock_that_runs_ahead_does_not_blind_the_column(
    writer: Writer, schema: str, feeding: Any
) -> None:
    writer.execute("UPDATE t SET at = now() + interval '70 years' WHERE id = 9")
    reader = feeding(schema, "column", max_index_lag=60)
    base = reader.change_base([T])
    writer.execute("UPDATE t SET at = now() WHERE id = 1")
    assert keys(reader, base) == {"1", "9"}


def test_sources_without_a_column_and_links_without_a_version_come_by_xmin(
    writer: Writer, schema: str, feeding: Any
) -> None:
    none = Link("none", "c", (RowSource("t", None, ("id",), version="v"),), (), VERSION)
    bare = Link("bare", "c", (RowSource("t", None, ("id",), changed_by="at"),))
    reader = feeding(schema, "column")
    base = reader.change_base([none, bare])
    writer.execute("UPDATE t SET v = 5 WHERE id = 4")
    assert keys(reader, base, none) == {"4"}
    assert keys(reader, base, bare) == {"4"}


def test_an_empty_table_has_no_oldest_value(writer: Writer, schema: str, feeding: Any) -> None:
    writer.execute("TRUNCATE t")
    reader = feeding(schema, "column")
    base = reader.change_base([T])
    writer.execute("INSERT INTO t (id) VALUES (1)")
    assert keys(reader, base) == {"1"}


def test_a_column_of_another_type_is_a_mistake(writer: Writer, schema: str, feeding: Any) -> None:
    pad = RowSource("t", None, ("id",), version="v", changed_by="pad")
    link = Link("t", "c", (pad,), (), VERSION)
    with pytest.raises(Usage, match="timestamp or a number"):
        feeding(schema, "column").change_base([link])


# ---------------------------------------------------------------- slot


def test_a_slot_finds_every_way_of_writing(logical: str, feeding: Any, warnings: Any) -> None:
    reader = feeding(logical, "slot")
    base = reader.change_base([T])
    with psycopg.connect(logical, autocommit=True) as writer:
        writer.execute("UPDATE t SET v = 2 WHERE id = 1")
        writer.execute("UPDATE t SET pad = 'it''s [x]:1 hot' WHERE id = 2")
        writer.execute("DELETE FROM t WHERE id = 3; INSERT INTO t (id) VALUES (3)")
        writer.execute("DELETE FROM t WHERE id = 5")
        writer.execute("UPDATE t SET id = 1006 WHERE id = 6")
        with writer.transaction():
            for key in range(10, 40):
                with writer.transaction():
                    writer.execute("UPDATE t SET v = 3 WHERE id = %s", (key,))
        with writer.transaction(force_rollback=True):
            writer.execute("UPDATE t SET v = 3 WHERE id = 400")
    found, following = reader.changed([T], base)
    expected = {1, 2, 3, 1006, *range(10, 40)}
    assert {int(key) for key in found["t"].keys} == expected
    assert keys(reader, following) == set()
    assert warnings.texts == []
    with closing(reader.candidate([T])) as candidate:
        seen = {int(key) for block in candidate.changed(T, base) for key in block.keys}
        assert seen == expected


def test_a_slot_tells_partitions_and_odd_names_apart(logical: str, feeding: Any) -> None:
    name, column = '"a ""b. c"', 'K "y'
    source = RowSource(name, None, (column, "part"), version="v")
    odd = Link("odd", "c", (source,), (PayloadPath(("a",)), PayloadPath(("b",))), VERSION)
    with psycopg.connect(logical, autocommit=True) as writer:
        writer.execute(ODD)
        reader = feeding(logical, "slot")
        base = reader.change_base([odd])
        writer.execute(INTO_ODD)
    assert keys(reader, base, odd) == {'["it\'s","1"]', '[" x[1]:","200"]'}


def test_a_transaction_that_stays_open_makes_way_for_xmin(
    logical: str, feeding: Any, warnings: Any
) -> None:
    with psycopg.connect(logical) as late:
        late.execute("UPDATE t SET v = 2 WHERE id = 1")
        reader = feeding(logical, "slot", lock_timeout=0.3)
        base = reader.change_base([T])
        late.commit()
    assert "stayed open for 0.3 s" in warnings.texts[0]
    assert keys(reader, base) == {"1"}


def test_a_session_that_is_lost_leaves_the_rest_to_xmin(logical: str, feeding: Any) -> None:
    reader = feeding(logical, "slot")
    base = reader.change_base([T])
    with psycopg.connect(logical, autocommit=True) as writer:
        writer.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE database = current_database()"
        )
        writer.execute("UPDATE t SET v = 2 WHERE id = 1")
    assert keys(reader, base) == {"1"}


def slots(looking: Writer) -> int:
    count = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    row = looking.execute(count).fetchone()
    return int(row[0]) if row else 0


def wait_until_no_slot(looking: Writer) -> None:
    """The server notices the end of a session by and by; the test's own time-out ends it."""
    pause = threading.Event()
    while slots(looking):
        pause.wait(0.01)


def test_no_slot_is_left_behind(logical: str, feeding: Any) -> None:
    reader = feeding(logical, "slot")
    reader.change_base([T])
    with psycopg.connect(logical, autocommit=True) as looking:
        assert slots(looking) == 1
        reader.close()
        wait_until_no_slot(looking)


def test_a_slot_ends_when_the_watermark_is_chosen_and_comes_again_for_the_next(
    logical: str, feeding: Any, warnings: Any
) -> None:
    """A slot keeps the server's log, and a dump may take hours."""
    reader = feeding(logical, "slot")
    base = reader.change_base([T])
    with psycopg.connect(logical, autocommit=True) as writer:
        writer.execute("UPDATE t SET v = 2 WHERE id = 1")
        with closing(reader.candidate([T])) as candidate:
            writer.execute("UPDATE t SET v = 2 WHERE id = 2")
            reader.stop_following()
            wait_until_no_slot(writer)
            writer.execute("UPDATE t SET v = 2 WHERE id = 3")
            found = [block for block in candidate.changed(T, base) if len(block)]
            assert dict(zip(found[0].keys, found[0].versions, strict=True))["1"] == "2"
            assert not {"3"} & {key for block in found for key in block.keys}
        base = reader.change_base([T])
        assert slots(writer) == 1
        writer.execute("UPDATE t SET v = 3 WHERE id = 4")
        assert keys(reader, base) == {"4"}
    assert warnings.texts == []


def test_a_slot_that_cannot_come_again_leaves_the_rest_to_xmin(
    logical: str, feeding: Any, warnings: Any
) -> None:
    reader = feeding(logical, "slot", lock_timeout=0.3)
    reader.change_base([T])
    reader.stop_following()
    with psycopg.connect(logical) as late:
        late.execute("UPDATE t SET v = 2 WHERE id = 1")
        base = reader.change_base([T])
        late.commit()
    assert "stayed open for 0.3 s" in warnings.texts[0]
    assert keys(reader, base) == {"1"}


def test_a_slot_that_saw_too_much_is_given_up(
    logical: str, feeding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "LIMIT", 3)
    reader = feeding(logical, "slot")
    base = reader.change_base([T])
    with psycopg.connect(logical, autocommit=True) as writer:
        writer.execute("UPDATE t SET v = 2 WHERE id < 100")
        assert len(keys(reader, base)) == 99
        wait_until_no_slot(writer)


# 100 MB in one transaction of another table, 40 MB in one of this one.
LARGE = """
CREATE TABLE other (id int, body text);
INSERT INTO other SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) g;
UPDATE t SET v = 2, pad = repeat('x', 100000) WHERE id <= 400
"""
# The high-water mark of a process of its own; `ru_maxrss` would begin with that of its parent.
FOLLOW = """
import sys
from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig, WatermarkConfig
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.postgres.source import PostgresSource

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

link = Link("t", "c", (RowSource("t", None, ("id",), version="v"),), (), PayloadPath(("v",)))
feed = WatermarkConfig(feed="slot")
reader = PostgresSource(PostgresConfig(dsn=sys.stdin.readline().strip()), feed, clock=SystemClock())
base = reader.change_base([link])
reader.changed([link], base)
before = peak()
print("ready", flush=True)
sys.stdin.readline()
found, _ = reader.changed([link], base)
print(len(found["t"]), peak() - before)
reader.close()
"""


def test_a_large_transaction_is_followed_in_little_memory(logical: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, psycopg.connect(logical, autocommit=True) as writer:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{logical}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        writer.execute(LARGE)
        process.stdin.write("\n")
        process.stdin.flush()
        rows, kilobytes = map(int, process.stdout.readline().split())
    assert rows == 400
    assert kilobytes < 40_000


@pytest.mark.parametrize("logical_wal", [True, False])
def test_a_server_that_can_have_no_slot_says_why(
    postgres_servers: Any, new_database: Any, feeding: Any, warnings: Any, logical_wal: bool
) -> None:
    dsn = new_database(postgres_servers(16, logical=logical_wal))
    with psycopg.connect(dsn, autocommit=True) as writer:
        writer.execute(TABLE)
        reader = feeding(dsn, "slot")
        base = reader.change_base([T])
        writer.execute("UPDATE t SET v = 2 WHERE id = 1")
    if warnings.texts:
        assert ("test_decoding" if logical_wal else "wal_level") in warnings.texts[0]
    assert keys(reader, base) == {"1"}


# ---------------------------------------------------------------- costs


def test_each_feed_is_measured_or_says_why_not(logical: str, feeding: Any) -> None:
    found = {cost.feed: cost for cost in feeding(logical, "auto").feed_costs(T)}
    assert [*found] == ["xmin", "column", "slot"]
    assert all(cost.milliseconds is not None for cost in found.values()), found
    bare = Link("bare", "c", (RowSource("t", None, ("id",)),))
    found = {cost.feed: cost for cost in feeding(logical, "auto").feed_costs(bare)}
    assert found["xmin"].milliseconds is not None
    assert "no common version" in found["column"].why_not
    view = Link("v", "c", (RowSource(sql="SELECT id AS key, v AS version FROM t"),), (), VERSION)
    found = {cost.feed: cost for cost in feeding(logical, "auto").feed_costs(view)}
    assert found["column"].why_not == "no changed_by in rows"
    assert "does not show" in found["slot"].why_not
