"""Rows held still for a moment: who waits for that, who never does, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig
from vbackup.errors import Denied, VbackupError
from vbackup.model.link import Link, RowSource
from vbackup.postgres.source import PostgresSource

pytestmark = pytest.mark.integration

T = Link("t", "c", (RowSource(table="t", key=("id",), version="v"),))
BOTH = Link(
    "both",
    "c",
    (
        RowSource(table="t", key=("id",), version="v"),
        RowSource(table="u", key=("id",), version="v"),
        RowSource(sql="SELECT id AS key, v AS version FROM t"),
    ),
)


@pytest.fixture
def writer(schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(schema, autocommit=True) as connection:
        for table in "tu":
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v int)".encode())
            values = f"INSERT INTO {table} SELECT n, 10 * n FROM generate_series(1, 5) n"
            connection.execute(values.encode())
        connection.execute("SET lock_timeout = '100ms'")
        yield connection


@pytest.fixture
def source(schema: str) -> PostgresSource:
    return PostgresSource(PostgresConfig(dsn=schema), clock=SystemClock())


def test_held_rows_keep_their_writers_waiting_and_nobody_else(
    writer: psycopg.Connection[Any], source: PostgresSource
) -> None:
    with source.hold_rows(30) as hold:
        block = hold.take(T, ["2", "3", "99"])
        assert dict(zip(block.keys, block.versions or (), strict=True)) == {"2": "20", "3": "30"}
        for statement in ("UPDATE t SET v = 0 WHERE id = 2", "DELETE FROM t WHERE id = 3"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                writer.execute(statement.encode())
        assert writer.execute("SELECT v FROM t WHERE id = 2").fetchone() == (20,)
        writer.execute("UPDATE t SET v = 0 WHERE id = 1; INSERT INTO t VALUES (6, 60)")
    writer.execute("UPDATE t SET v = 0 WHERE id = 2")


def test_a_row_that_is_being_written_is_skipped_and_had_later(
    writer: psycopg.Connection[Any], source: PostgresSource
) -> None:
    with source.hold_rows(30) as hold:
        with writer.transaction():
            writer.execute("UPDATE t SET v = 21 WHERE id = 2")
            assert hold.take(T, ["1", "2"]).keys == ["1"]
        block = hold.take(T, ["2"])
        assert (block.keys, block.versions) == (["2"], ["21"])


def test_the_server_lets_the_rows_go_when_the_time_is_up(
    writer: psycopg.Connection[Any], source: PostgresSource
) -> None:
    """Whatever this process does meanwhile; here it waits for the very writer that it blocks."""
    writer.execute("SET lock_timeout = 0")
    with source.hold_rows(0.3) as hold:
        assert hold.take(T, ["2"]).keys == ["2"]
        writer.execute("UPDATE t SET v = 0 WHERE id = 2")
        with pytest.raises(VbackupError):
            hold.take(T, ["3"])


def test_a_table_that_a_schema_change_has_is_left_out(
    writer: psycopg.Connection[Any], source: PostgresSource
) -> None:
    """Its rows are not waited for, and those of other tables are held."""
    with source.hold_rows(30) as hold:
        assert hold.take(BOTH, ["4"]).keys == ["4", "4"]
    with source.hold_rows(30) as hold, writer.transaction():
        writer.execute("ALTER TABLE u ADD COLUMN more int")
        assert hold.take(BOTH, ["4"]).keys == ["4"]


def test_writers_that_hold_one_row_and_want_another_are_in_no_deadlock(
    writer: psycopg.Connection[Any], source: PostgresSource
) -> None:
    """The writer has row 1 and wants row 2, which is held; the backup wants row 1."""
    writer.execute("SET lock_timeout = 0")
    with writer.transaction():
        writer.execute("UPDATE t SET v = 11 WHERE id = 1")
        with source.hold_rows(30) as hold:
            assert hold.take(T, ["1", "2"]).keys == ["2"]
            assert hold.take(T, ["1"]).keys == []
        writer.execute("UPDATE t SET v = 22 WHERE id = 2")
    assert writer.execute("SELECT v FROM t WHERE id < 3 ORDER BY id").fetchall() == [(11,), (22,)]


def test_holding_needs_more_than_select(writer: psycopg.Connection[Any], schema: str) -> None:
    role = "reader_" + schema.split("search_path=s_")[1][:12]
    name = sql.Identifier(role)
    password = conninfo.conninfo_to_dict(schema).get("password") or "none"
    writer.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, password))
    try:
        writer.execute(sql.SQL("GRANT SELECT ON t TO {0}").format(name))
        (place,) = writer.execute("SELECT current_schema()").fetchone() or ("",)
        writer.execute(
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(place), name)
        )
        reader = PostgresSource(
            PostgresConfig(dsn=conninfo.make_conninfo(schema, user=role)), clock=SystemClock()
        )
        with reader.hold_rows(5) as hold, pytest.raises(Denied):
            hold.take(T, ["1"])
        writer.execute(sql.SQL("GRANT UPDATE (v) ON t TO {}").format(name))
        with reader.hold_rows(5) as hold:
            assert hold.take(T, ["1"]).keys == ["1"]
    finally:
        writer.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(name, name))
