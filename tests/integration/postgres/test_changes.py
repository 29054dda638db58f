"""The change feed: every row that a later snapshot sees anew, however it was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from vbackup.errors import Usage
from vbackup.model.link import Link, RowSource

pytestmark = pytest.mark.integration

T = Link("t", "c", (RowSource(table="t", key=("id",), version="v"),))


@pytest.fixture
def writer(schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(schema, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int DEFAULT 1, pad text) WITH (fillfactor = 50);"
            "INSERT INTO t SELECT g FROM generate_series(1, 500) g"
        )
        yield connection


def changed(reader: Any, base: str) -> dict[str, str]:
    found, _ = reader.changed([T], base)
    return dict(zip(found["t"].keys, found["t"].versions or (), strict=True))


def test_every_way_of_writing_is_seen(
    writer: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    reader = source(schema)
    base = reader.change_base()
    assert changed(reader, base) == {}
    writer.execute("UPDATE t SET v = 2 WHERE id = 1")
    writer.execute("INSERT INTO t VALUES (1001)")
    writer.execute("UPDATE t SET pad = 'hot' WHERE id = 2")
    writer.execute("DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 9)")
    with writer.transaction():
        for key in range(10, 110):
            with writer.transaction():
                writer.execute("UPDATE t SET v = 3 WHERE id = %s", (key,))
    writer.execute(
        "DO $$ BEGIN BEGIN UPDATE t SET v = 4 WHERE id = 200; PERFORM 1;"
        " EXCEPTION WHEN OTHERS THEN NULL; END; END $$"
    )
    expected = {1, 1001, 2, 3, 200, *range(10, 110)}
    assert {int(key) for key in changed(reader, base)} == expected
    # What rewrites or freezes the table leaves the changes visible, and adds none.
    writer.execute("VACUUM (FREEZE) t")
    assert {int(key) for key in changed(reader, base)} == expected
    writer.execute("VACUUM FULL t")
    writer.execute("CLUSTER t USING t_pkey")
    assert {int(key) for key in changed(reader, base)} == expected


def test_transactions_that_were_open_at_the_base_are_seen_when_they_commit(
    writer: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    reader = source(schema)
    with psycopg.connect(schema) as late:
        late.execute("UPDATE t SET v = 2 WHERE id = 1")
        late.execute("SAVEPOINT s")
        late.execute("UPDATE t SET v = 3 WHERE id = 2")
        base = reader.change_base()
        late.execute("SAVEPOINT s2")
        late.execute("UPDATE t SET v = 4 WHERE id = 3")
        assert changed(reader, base) == {}
        _, following = reader.changed([T], base)
        late.commit()
    assert changed(reader, base) == {"1": "2", "2": "3", "3": "4"}
    # The next base does not jump over what was still open.
    assert changed(reader, following) == {"1": "2", "2": "3", "3": "4"}


def test_prepared_transactions_are_seen_when_they_commit(
    postgres_servers: Any, new_database: Any, source: Any
) -> None:
    # Where the server allows none, there is nothing to miss.
    dsn = new_database(postgres_servers(16))
    with psycopg.connect(dsn, autocommit=True) as connection:
        allowed = connection.execute("SHOW max_prepared_transactions").fetchone()
        if allowed == ("0",):
            pytest.skip("max_prepared_transactions is 0")
        connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)"
        )
        connection.execute("BEGIN; UPDATE t SET v = 2; PREPARE TRANSACTION 'p'")
        reader = source(dsn)
        base = reader.change_base()
        assert changed(reader, base) == {}
        connection.execute("COMMIT PREPARED 'p'")
        assert changed(reader, base) == {"1": "2"}


def test_a_candidate_sees_changes_of_its_own_instant(
    writer: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    reader = source(schema)
    base = reader.change_base()
    writer.execute("UPDATE t SET v = 2 WHERE id = 1")
    with closing(reader.candidate([T])) as candidate:
        writer.execute("UPDATE t SET v = 3 WHERE id = 2")
        writer.execute("DELETE FROM t WHERE id = 1")
        assert [key for block in candidate.changed(T, base) for key in block.keys] == ["1"]
    assert changed(reader, base) == {"2": "3"}


def test_partitions_are_fed_and_what_has_no_xmin_comes_whole(
    writer: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    writer.execute(
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE p2 PARTITION OF p DEFAULT;"
        "INSERT INTO p SELECT g, 1 FROM generate_series(1, 300) g;"
        "CREATE VIEW view_of_t AS SELECT * FROM t"
    )
    links = [
        Link("p", "c", (RowSource(table="p", key=("id",), version="v", where="id <> 7"),)),
        Link("view", "c", (RowSource(table="view_of_t", key=("id",)),)),
        Link("query", "c", (RowSource(sql="SELECT id AS key FROM t"),)),
    ]
    reader = source(schema)
    base = reader.change_base()
    writer.execute("UPDATE p SET v = 2 WHERE id IN (5, 7); UPDATE p SET id = 250 WHERE id = 6")
    found, _ = reader.changed(links, base)
    assert sorted(found["p"].keys) == ["250", "5"]
    assert len(found["view"]) == len(found["query"]) == 500


def test_a_base_is_checked(writer: psycopg.Connection[Any], schema: str, source: Any) -> None:
    reader = source(schema)
    for wrong in ("", "x", "-1", str(2**32), "1'; DROP TABLE t; --"):
        with pytest.raises(Usage, match="not a change base"):
            reader.changed([T], wrong)
    assert reader.changed([T], reader.change_base())[0]["t"].keys == []


def test_a_dropped_column_is_found_out_and_the_feed_recovers(
    writer: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    reader = source(schema)
    base = reader.change_base()
    reader.changed([T], base)
    writer.execute("ALTER TABLE t DROP COLUMN v")
    with pytest.raises(Usage, match="does not exist"):
        reader.changed([T], base)
    writer.execute("ALTER TABLE t ADD COLUMN v int")
    assert reader.changed([T], base)[0]["t"].keys == []


def test_row_identity_is_xmin_where_a_link_says_no_version(
    writer: psycopg.Connection[Any], schema: str
) -> None:
    from vbackup.clock import SystemClock
    from vbackup.config import PostgresConfig
    from vbackup.postgres.source import PostgresSource

    bare = Link("bare", "c", (RowSource(table="t", key=("id",)),))
    reader = PostgresSource(PostgresConfig(dsn=schema), clock=SystemClock(), row_identity=True)
    with closing(reader), closing(reader.view()) as view:
        before = view.lookup(bare, ["1", "2"]).versions
        writer.execute("UPDATE t SET pad = 'x' WHERE id = 1")
        with closing(reader.view()) as later:
            after = later.lookup(bare, ["1", "2"]).versions
        assert before is not None
        assert after is not None
        assert before[0] != after[0]
        assert before[1] == after[1]
        assert view.lookup(T, ["1"]).versions == ["1"]
