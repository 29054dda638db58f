"""Fence and lock: what writers wait for, and for how long the backup does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from vbackup import fence
from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig, WatermarkConfig
from vbackup.errors import Denied, Failed
from vbackup.model.link import Link, RowSource
from vbackup.postgres.source import PostgresSource

pytestmark = pytest.mark.integration

T = Link("t", "c", (RowSource(table="t", key=("id",)),))


@pytest.fixture
def writer(schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)")
        connection.execute("SET lock_timeout = '100ms'")
        yield connection


@pytest.fixture
def reader(schema: str) -> PostgresSource:
    watermark = WatermarkConfig(lock_timeout=0.2, fence_key=7)
    config = PostgresConfig(dsn=schema)
    return PostgresSource(config, watermark, clock=SystemClock())


def test_writers_share_the_fence_and_wait_for_a_backup(
    writer: psycopg.Connection[Any], reader: PostgresSource, schema: str
) -> None:
    with (
        psycopg.connect(schema) as other,
        fence.shared(other, key=7),
        fence.shared(writer, key=7),
    ):
        writer.execute("INSERT INTO t VALUES (1)")
    with reader.fence() as waited:
        assert waited >= 0
        with pytest.raises(psycopg.errors.LockNotAvailable), fence.shared(writer, key=7):
            pytest.fail("a writer came through the fence")
        with fence.shared(writer, key=8):
            writer.execute("INSERT INTO t VALUES (2)")
    with fence.shared(writer, key=7):
        writer.execute("INSERT INTO t VALUES (3)")


def test_a_writer_that_keeps_the_fence_refuses_it_after_the_time_out(
    writer: psycopg.Connection[Any], reader: PostgresSource
) -> None:
    with fence.shared(writer, key=7):
        with pytest.raises(Failed, match="kept the fence") as caught, reader.fence():
            pytest.fail("the fence was taken from a writer")
        assert caught.value.retryable
    with reader.fence():
        pass


def test_the_fence_falls_with_the_writers_transaction(
    writer: psycopg.Connection[Any], reader: PostgresSource, schema: str
) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), fence.shared(writer, key=7):
        writer.execute("INSERT INTO t VALUES (1); SELECT 1/0")
    with reader.fence():
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (0,)

    async def write() -> None:
        connection = await psycopg.AsyncConnection.connect(schema)
        async with connection, fence.shared_async(connection, key=7):
            await connection.execute("INSERT INTO t VALUES (1)")
            held = await connection.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND pid = pg_backend_pid()"
            )
            assert await held.fetchone() == (1,)

    asyncio.run(write())
    with reader.fence():
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_the_documented_line_of_sql_is_the_default_fence(
    writer: psycopg.Connection[Any], schema: str
) -> None:
    assert WatermarkConfig().fence_key == fence.KEY
    assert f"SELECT pg_advisory_xact_lock_shared({fence.KEY})" in (fence.__doc__ or "")


# The planner reads neither the parent, which can hold no such row, nor the other tables at all.
QUERY = """
    WITH unused AS (SELECT FROM w)
    SELECT id AS key FROM u WHERE false AND EXISTS (SELECT FROM v WHERE v.id = u.id)
"""


def test_locked_tables_stop_writers_but_not_readers_or_watermarks(
    writer: psycopg.Connection[Any], reader: PostgresSource
) -> None:
    writer.execute("CREATE TABLE child () INHERITS (u); CREATE TABLE base (id int)")
    writer.execute("CREATE VIEW v AS SELECT id FROM base; CREATE TABLE w ()")
    linked = [
        T,
        Link("query", "c", (RowSource(sql=QUERY),)),
    ]
    with reader.lock(linked, 5.0) as held:
        assert held
        for table in ("t", "u", "child", "base", "w"):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                writer.execute(f"INSERT INTO {table} DEFAULT VALUES")
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (0,)
        reader.candidate(linked).close()
    writer.execute("INSERT INTO t VALUES (1)")


def test_a_lock_that_cannot_be_had_says_so_and_leaves_nothing_behind(
    writer: psycopg.Connection[Any], reader: PostgresSource, schema: str
) -> None:
    with psycopg.connect(schema) as long:
        long.execute("INSERT INTO t VALUES (1)")
        with reader.lock([T], 0.1) as held:
            assert not held
            writer.execute("INSERT INTO t VALUES (2)")


def test_a_role_that_only_reads_may_not_lock(writer: psycopg.Connection[Any], schema: str) -> None:
    role = f"reads_{secrets.token_hex(4)}"
    writer.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw' IN ROLE pg_read_all_data")
    try:
        dsn = psycopg.conninfo.make_conninfo(schema, user=role, password="pw")
        limited = PostgresSource(PostgresConfig(dsn=dsn), clock=SystemClock())
        with pytest.raises(Denied, match="permission denied for table t") as caught:
            limited.lock([T], 1.0).__enter__()
        assert "capture" in caught.value.hint
        with limited.fence():
            pass
        limited.candidate([T]).close()
    finally:
        writer.execute(f"DROP ROLE {role}")


def test_nothing_is_locked(reader: PostgresSource) -> None:
    with reader.lock([], 0.1) as held:
        assert held


def test_the_lock_ends_with_an_error_inside(
    writer: psycopg.Connection[Any], reader: PostgresSource
) -> None:
    with pytest.raises(ZeroDivisionError), reader.lock([T], 1.0):
        raise ZeroDivisionError
    writer.execute("SET lock_timeout = '10s'")
    writer.execute("INSERT INTO t VALUES (1)")
