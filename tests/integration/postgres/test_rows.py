"""Rows as links read them: every key type, expressions, queries, look-ups, canonical text."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from vbackup.errors import NotFound, Usage
from vbackup.model.keys import canonical, composite
from vbackup.model.link import Link, RowSource
from vbackup.postgres import rows as rows_module

pytestmark = pytest.mark.integration

AWKWARD = ["plain", "tab\there", "line\nfeed", "back\\slash", "\\N", "\\.", "ünï☃", '"q"', " ", ""]


@pytest.fixture
def table(schema: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(schema, autocommit=True) as connection:
        yield connection


def link(*sources: RowSource) -> Link:
    return Link("test", "c", sources)


def read(view: Any, wanted: Link) -> list[dict[str, Any]]:
    """All rows of a link as dictionaries of the columns that are there."""
    return [row for block in view.rows(wanted) for row in unpacked(block)]


def unpacked(block: Any) -> list[dict[str, Any]]:
    names = [
        name
        for name in ("keys", "versions", "live", "counts", "tenants", "collections")
        if getattr(block, name) is not None
    ]
    columns = [getattr(block, name) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize("block_rows", [1, 3, 50_000])
def test_text_keys_of_any_shape_come_back_exactly(
    block_rows: int,
    table: psycopg.Connection[Any],
    schema: str,
    source: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", block_rows)
    table.execute("CREATE TABLE t (k text, v text, n int)")
    shuffled = [(key, value) for key in AWKWARD for value in (*AWKWARD, None)]
    random.Random(block_rows).shuffle(shuffled)
    with table.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s, 1)", shuffled)
        cursor.execute("INSERT INTO t VALUES (NULL, 'no key', 1)")
    wanted = link(RowSource(table="t", key=("k",), version="v", count="n"))
    with closing(source(schema).view()) as view:
        found = [(row["keys"], row["versions"]) for row in read(view, wanted)]
        assert sorted(found, key=repr) == sorted(shuffled, key=repr)
        for key in AWKWARD:
            assert set(view.lookup(wanted, [key]).keys) == {key}


@pytest.mark.parametrize(
    ("sql_type", "values"),
    [
        ("smallint", [-32768, 0, 7, 32767]),
        ("int", [-(2**31), 0, 2**31 - 1]),
        ("bigint", [-(2**63), -1, 0, 2**63 - 1]),
        ("numeric", [0, 1, 7.5, 10**20]),
        ("double precision", [0.5, 3.0, 1e20, -2.25]),
        ("real", [0.5, 3.0, "inf", "nan"]),
        ("uuid", [str(uuid.UUID(int=n * 7919)) for n in range(5)]),
        ("text", ["007", "7", str(uuid.UUID(int=5)), "x"]),
        ("varchar(50)", ["007", "7", "x y"]),
        ("char(5)", ["ab", "c"]),
        ("name", ["ab", "c"]),
        ("date", ["2020-01-31"]),
        ("boolean", [True, False]),
        ("jsonb", ['"text"', "7", '"00000000-0000-0000-0000-0000000000AA"']),
    ],
)
def test_every_key_type_reads_canonical_and_is_looked_up(
    sql_type: str, values: list[Any], table: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    table.execute(f"CREATE TABLE t (k {sql_type}, version text)")
    for value in values:
        query = f"INSERT INTO t VALUES (%s::text::{sql_type}, 'v')"
        table.execute(query, (str(value),))
    expected = {canonical(json.loads(v)) if sql_type == "jsonb" else canonical(v) for v in values}
    wanted = link(RowSource(table="t", key=("k",), version="version"))
    with closing(source(schema).view()) as view:
        assert {row["keys"] for row in read(view, wanted)} == expected
        assert set(view.lookup(wanted, [key for key in expected if key]).keys) == expected
        # What the type cannot hold is not there, and no error.
        strangers = [
            "nothing",
            "99999999999999999999",
            "1.5.1",
            "9" * 400,
            "1e999",
            str(uuid.UUID(int=99)),
            "\0",
            "",
        ]
        assert view.lookup(wanted, [*strangers, "\0", ""]).keys == []


@pytest.mark.parametrize("block_rows", [1, 2, 50_000])
def test_numbers_and_uuids_with_some_versions_missing(
    block_rows: int,
    table: psycopg.Connection[Any],
    schema: str,
    source: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", block_rows)
    table.execute("CREATE DOMAIN small AS smallint CHECK (VALUE < 100)")
    table.execute("CREATE TABLE t (k uuid, n bigint, s small, alive boolean)")
    keys = [uuid.UUID(int=n * 2**97) for n in range(1, 7)]
    for n, key in enumerate(keys):
        values = (key, -n, None if n % 3 else n, n % 2 == 0 if n else None)
        table.execute("INSERT INTO t VALUES (%s, %s, %s, %s)", values)
    table.execute("INSERT INTO t VALUES (NULL, 1, 1, true)")
    by_uuid = link(RowSource(table="t", key=("k",), version="s", live="alive"))
    by_number = link(RowSource(table="t", key=("n",), version="k", where="k IS NOT NULL"))
    nothing = link(RowSource(table="t", key=("n",), version="n", where="false"))
    with closing(source(schema).view()) as view:
        assert sorted(read(view, by_uuid), key=lambda row: str(row["keys"])) == [
            {
                "keys": str(key),
                "versions": None if n % 3 else str(n),
                "live": n % 2 == 0 and n > 0,
            }
            for n, key in enumerate(keys)
        ]
        assert {row["keys"]: row["versions"] for row in read(view, by_number)} == {
            str(-n): str(key) for n, key in enumerate(keys)
        }
        assert read(view, nothing) == []


def test_spellings_of_one_uuid_are_one_key(
    table: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    key = "0d9a8b7c-1111-4222-8333-abcdefabcdef"
    spelled = [key, key.upper(), key.replace("-", ""), f"{{{key}}}", f"urn:uuid:{key}"]
    table.execute("CREATE TABLE t (k text)")
    with table.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s)", [(text,) for text in spelled])
    wanted = link(RowSource(table="t", key=("k",)))
    with closing(source(schema).view()) as view:
        assert [row["keys"] for row in read(view, wanted)] == [key] * len(spelled)
        assert view.lookup(wanted, [key]).keys == [key] * len(spelled)


def test_composite_keys(table: psycopg.Connection[Any], schema: str, source: Any) -> None:
    table.execute('CREATE TABLE t (a int, "B b" text, c uuid)')
    third = "0d9a8b7c-1111-4222-8333-abcdefabcdef"
    with table.cursor() as cursor:
        for text in AWKWARD:
            cursor.execute("INSERT INTO t VALUES (7, %s, %s)", (text, third))
        cursor.execute("INSERT INTO t VALUES (7, NULL, %s)", (third,))
    expected = [composite(["7", text, third]) for text in AWKWARD]
    wanted = link(RowSource(table="t", key=("a", "B b", "c")))
    with closing(source(schema).view()) as view:
        assert sorted(row["keys"] for row in read(view, wanted)) == sorted(map(str, expected))
        assert sorted(view.lookup(wanted, list(map(str, expected))).keys) == sorted(
            map(str, expected)
        )
        assert view.lookup(wanted, ["7", "[]", '["x","y","z"]', "[1,2,3]", "{"]).keys == []


def test_expressions_where_live_count_tenant_and_percent_signs(
    table: psycopg.Connection[Any], schema: str, source: Any
) -> None:
    table.execute(
        'DROP SCHEMA IF EXISTS "My App" CASCADE; CREATE SCHEMA "My App";'
        'CREATE TABLE "My App"."Docs" (id int, doc jsonb, "Version" numeric, state text, n int)'
    )
    table.execute(
        """INSERT INTO "My App"."Docs" VALUES
        (1, '{"k": "a%", "hash": {"x": "h1"}}', 1.50, 'done', 3),
        (2, '{"k": "b%"}', 2, NULL, NULL), (3, '{"k": "zzz"}', 3, 'done', 1)"""
    )
    wanted = link(
        RowSource(
            table="My App.Docs",
            key=("doc->>'k' -- the key",),
            where="doc->>'k' LIKE '%\\%%'",
            live="state = 'done'",
            version='"Version"',
            count="n",
            tenant="doc->'hash'->'x'",
        )
    )
    expected = [
        {"keys": "a%", "versions": "1.5", "live": True, "counts": 3, "tenants": "h1"},
        {"keys": "b%", "versions": "2", "live": False, "counts": None, "tenants": None},
    ]
    with closing(source(schema).view()) as view:
        assert read(view, wanted) == expected
        assert unpacked(view.lookup(wanted, ["b%", "zzz"])) == expected[1:]


def test_queries_and_unions(table: psycopg.Connection[Any], schema: str, source: Any) -> None:
    table.execute("CREATE TABLE a (id int, v int); CREATE TABLE b (id uuid)")
    table.execute("INSERT INTO a VALUES (1, 10), (2, 20), (NULL, 30)")
    table.execute("INSERT INTO b VALUES (gen_random_uuid())")
    query = (
        "SELECT id AS key, v AS version, 'col_' || id AS collection, id = 1 AS live,"
        " 5 AS count, 't' AS tenant FROM a; "
    )
    wanted = link(RowSource(sql=query), RowSource(table="b", key=("id",)))
    with closing(source(schema).view()) as view:
        blocks = list(view.rows(wanted))
        assert unpacked(blocks[0])[1] == {
            "keys": "2",
            "versions": "20",
            "live": False,
            "counts": 5,
            "tenants": "t",
            "collections": "col_2",
        }
        assert blocks[1].versions is None
        assert view.lookup(wanted, ["2"]).collections == ["col_2"]
        joined = view.lookup(wanted, ["1", *blocks[1].keys])
        assert joined.live == [True, True]
        assert joined.versions == ["10", None]
        with pytest.raises(Usage, match="yields no column 'key'"):
            read(view, link(RowSource(sql="SELECT 1 AS id")))


@pytest.mark.parametrize(
    ("broken", "error", "words"),
    [
        (RowSource(table="nowhere", key=("id",)), NotFound, "table nowhere does not exist"),
        (RowSource(table="a b; DROP", key=("id",)), NotFound, "does not exist"),
        (RowSource(table="t", key=("nope",)), Usage, '"nope" does not exist'),
        (RowSource(table="t", key=("id",), where="id ="), Usage, "syntax error"),
        (RowSource(table="t", key=("id",), live="id"), Usage, "boolean"),
        (RowSource(table="t", key=("id",), version="1/(id-1)"), Usage, "division by zero"),
        (RowSource(sql="SELECT 1 AS key; DROP TABLE t"), Usage, "syntax error"),
        (RowSource(sql="DELETE FROM t RETURNING id AS key"), Usage, "syntax error"),
    ],
)
def test_mistakes_in_links_name_the_link(
    broken: RowSource,
    error: type[Exception],
    words: str,
    table: psycopg.Connection[Any],
    schema: str,
    source: Any,
) -> None:
    table.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    with closing(source(schema).view()) as view, pytest.raises(error, match=words) as caught:
        read(view, link(broken))
    assert "test" in str(caught.value) or isinstance(caught.value, NotFound)
    assert table.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_look_ups_use_the_index(table: psycopg.Connection[Any], schema: str, source: Any) -> None:
    table.execute("CREATE TABLE t (id int PRIMARY KEY, k varchar UNIQUE, u uuid UNIQUE)")
    table.execute(
        "INSERT INTO t SELECT g, 'k' || g, gen_random_uuid() FROM generate_series(1, 20000) g"
    )
    table.execute("ANALYZE t")
    with closing(source(schema).view()) as view:
        for column, keys in (("id", ["5"]), ("k", ["k5"]), ("u", [str(uuid.uuid4())])):
            plan = view._plan(view._connection, RowSource(table="t", key=(column,)))
            query = plan.select(plan.having(keys)).as_string(view._connection)
            text = "\n".join(str(line) for (line,) in view._connection.execute(f"EXPLAIN {query}"))
            assert "Index" in text, text


def test_probes_and_problems(table: psycopg.Connection[Any], schema: str, source: Any) -> None:
    table.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text, UNIQUE (b, a));"
        "CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT * FROM t;"
        "CREATE INDEX ON t (a)"
    )
    reader = source(schema)
    sources = [
        RowSource(table="t", key=("id",), version="b"),
        RowSource(table="t", key=("a", "b")),
        RowSource(table="t", key=("a",)),
        RowSource(table="t", key=("a + 1",)),
        RowSource(table="v", key=("id",)),
        RowSource(table="m", key=("id",)),
    ]
    found = reader.probe(link(*sources))
    assert [(p.unique, p.indexed, p.feed) for p in found] == [
        (True, True, True),
        (True, True, True),
        (False, True, True),
        (False, False, True),
        (False, False, False),
        (False, False, False),
    ]
    assert found[0].key_types == ("integer",)
    assert found[0].version_type == "text"
    assert found[5].problems
    assert reader.problems() == []
