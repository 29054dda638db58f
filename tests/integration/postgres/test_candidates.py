"""Candidate watermarks: what the snapshot and its locks hold against, and what they wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from vbackup.errors import Failed, Refused, Unreachable, Usage
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.postgres import dump

pytestmark = pytest.mark.integration

DOCUMENTS = Link(
    "documents", "documents", (RowSource(table="documents", key=("id",), version="version"),)
)
ROWS = 2000


@pytest.fixture
def pair(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE documents (id bigint PRIMARY KEY, version int, body text);"
            "CREATE TABLE other (id int); INSERT INTO other VALUES (1)"
        )
        connection.execute(
            "INSERT INTO documents SELECT g, 1, repeat('x', 50) FROM generate_series(1, %s) g",
            (ROWS,),
        )
        yield connection


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll the server; the test's own time-out ends it."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


def count(candidate: Any, link: Link = DOCUMENTS) -> int:
    return sum(len(block) for block in candidate.rows(link))


def dumped_rows(candidate: Any) -> int:
    """Rows of `documents` in the main archive, counted in its bytes."""
    (main,) = (stream for stream in candidate.dumps() if stream.kind == "main")
    return b"".join(main.open()).count(b"x" * 50)


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE documents",
        "ALTER TABLE documents ALTER version TYPE bigint",
        "VACUUM FULL documents",
        "CLUSTER documents USING documents_pkey",
        "DROP TABLE documents",
    ],
)
def test_what_empties_a_table_cannot_reach_an_open_watermark(
    change: str, pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    candidate = source(database).candidate([DOCUMENTS])
    pair.execute("SET lock_timeout = '100ms'")
    with pytest.raises(pg.LockNotAvailable):
        pair.execute(change)
    assert count(candidate) == ROWS
    assert dumped_rows(candidate) == ROWS
    candidate.close()
    pair.execute("SET lock_timeout = 0")
    pair.execute(change)


def test_a_schema_change_in_the_queue_ends_a_dump_loudly_instead_of_for_ever(
    pair: psycopg.Connection[Any],
    database: str,
    source: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dump, "LOCK_WAIT_MS", 300)
    with closing(source(database).candidate([DOCUMENTS])) as candidate:
        truncating = threading.Thread(target=lambda: pair.execute("TRUNCATE documents"))
        truncating.start()
        wait_until(lambda: bool(candidate.waiters()))
        assert "TRUNCATE" in candidate.waiters()[0]
        with pytest.raises(Failed) as caught:
            dumped_rows(candidate)
        assert caught.value.retryable
        assert "schema change" in caught.value.hint
        # The watermark itself still sees everything.
        assert count(candidate) == ROWS
    truncating.join()


def test_who_waits_is_seen_while_rows_are_streamed(
    pair: psycopg.Connection[Any], database: str, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then another session asks, which holds none of the locks."""
    monkeypatch.setattr("vbackup.postgres.rows.BLOCK_ROWS", 100)
    with closing(source(database).candidate([DOCUMENTS])) as candidate:
        change = "ALTER TABLE documents ADD COLUMN title text"
        altering = threading.Thread(target=lambda: pair.execute(change))
        altering.start()
        wait_until(lambda: bool(candidate.waiters()))
        with closing(candidate.rows(DOCUMENTS)) as stream:
            next(stream)
            (waiting,) = candidate.waiters()
            assert change in waiting
    altering.join()


def test_a_table_locked_by_a_schema_change_refuses_a_watermark_after_a_while(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    with pair.transaction():
        pair.execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
        reader = source(database)
        reader._watermark = reader._watermark.model_copy(update={"lock_timeout": 0.5})
        with pytest.raises(Failed, match="could not be locked") as caught:
            reader.candidate([DOCUMENTS])
        assert caught.value.retryable


def test_a_watermark_sees_one_instant(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    candidate = source(database).candidate([DOCUMENTS])
    pair.execute("UPDATE documents SET version = 2")
    pair.execute("DELETE FROM documents WHERE id > 10")
    assert candidate.lookup(DOCUMENTS, ["1", "2000"]).versions == ["1", "1"]
    assert count(candidate) == ROWS
    assert dumped_rows(candidate) == ROWS
    later = source(database).candidate([DOCUMENTS])
    assert count(later) == 10
    assert later.at >= candidate.at
    assert later.snapshot != candidate.snapshot
    later.close()
    candidate.close()


def test_two_streams_of_one_watermark_can_be_merged_and_given_up(
    pair: psycopg.Connection[Any], database: str, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vbackup.postgres.rows.BLOCK_ROWS", 100)
    candidate = source(database).candidate([DOCUMENTS])
    first, second = candidate.rows(DOCUMENTS), candidate.rows(DOCUMENTS)
    next(first)
    pair.execute("DELETE FROM documents")
    assert next(second).keys[:3] == ["1", "2", "3"]
    assert candidate.lookup(DOCUMENTS, ["7"]).keys == ["7"]
    first.close()
    second.close()
    # Giving up a stream cancels its COPY, and must not end the snapshot.
    assert count(candidate) == ROWS
    assert dumped_rows(candidate) == ROWS
    candidate.close()


def test_a_mistake_in_a_link_shows_when_the_watermark_opens(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    wrong = Link("wrong", "c", (RowSource(table="documents", key=("idd",)),))
    with pytest.raises(Usage, match='link wrong: column "idd" does not exist'):
        source(database).candidate([wrong])
    candidate = source(database).candidate([])
    with pytest.raises(Usage):
        count(candidate, wrong)
    assert count(candidate) == ROWS
    candidate.close()


def test_a_query_without_the_version_that_is_compared_refuses_a_watermark(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    """The backup would be called exact, and compare no version at all."""
    queries = ("SELECT id AS key, 1 AS version FROM documents", "SELECT id AS key FROM documents")
    rows = tuple(RowSource(sql=text) for text in queries)
    link = Link("wrong", "c", rows, version=PayloadPath(("v",)))
    with pytest.raises(Usage, match=r"link wrong: .* yields no column version"):
        source(database).candidate([link])
    source(database).candidate([replace(link, version=None)]).close()


def test_a_lost_connection_is_unreachable_and_can_be_tried_again(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    reader = source(database)
    candidate = reader.candidate([DOCUMENTS])
    reader.change_base()
    pair.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'vbackup'"
    )
    with pytest.raises(Unreachable) as caught:
        count(candidate)
    assert caught.value.retryable
    candidate.close()
    with pytest.raises(Unreachable):
        reader.change_base()
    assert reader.change_base().isdigit()


def test_a_dump_that_is_killed_never_ends_as_a_short_stream(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    pair.execute(
        "CREATE TABLE big AS SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 20000) g"
    )
    candidate = source(database, large_table=1 << 20).candidate([DOCUMENTS])
    (stream,) = (stream for stream in candidate.dumps() if stream.kind == "table")
    blocks = stream.open()
    next(blocks)
    pair.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'COPY%'"
    )
    with pytest.raises(Failed, match="pg_dump failed"):
        list(blocks)
    given_up = stream.open()
    next(given_up)
    given_up.close()
    wait_until(
        lambda: (
            not pair.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                " AND query LIKE 'COPY%' AND pid <> pg_backend_pid()"
            ).fetchone()
        )
    )
    candidate.close()


def test_time_outs_that_applications_want_do_not_end_a_watermark(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    name = pair.info.dbname
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
        pair.execute(f'ALTER DATABASE "{name}" SET {setting} = 400')
    candidate = source(database).candidate([DOCUMENTS])
    pair.execute("RESET statement_timeout")
    pair.execute("SELECT pg_sleep(0.5)")
    assert count(candidate) == ROWS
    assert dumped_rows(candidate) == ROWS
    candidate.close()


def test_rows_that_a_policy_hides_refuse_the_backup(
    pair: psycopg.Connection[Any], database: str, source: Any
) -> None:
    role = f"reader_{pair.info.dbname}"
    pair.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
    try:
        pair.execute("ALTER TABLE documents ENABLE ROW LEVEL SECURITY")
        pair.execute(f"GRANT pg_read_all_data TO {role}")
        info = psycopg.conninfo.conninfo_to_dict(database)
        dsn = psycopg.conninfo.make_conninfo("", **{**info, "user": role, "password": "pw"})
        reader = source(dsn)
        assert any("row security" in line for line in reader.problems())
        with pytest.raises(Refused, match="row security would hide rows"):
            reader.candidate([DOCUMENTS])
        with (
            pytest.raises(Refused, match="row security would hide rows"),
            closing(reader.view()) as view,
        ):
            count(view)
        with closing(reader.candidate([])) as candidate:
            with pytest.raises(Refused, match="row-level security") as caught:
                dumped_rows(candidate)
            assert "BYPASSRLS" in caught.value.hint
    finally:
        pair.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
