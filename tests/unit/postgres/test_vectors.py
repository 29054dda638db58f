"""The SQL of vectors, and what is made of the rows that come back."""

from __future__ import annotations

import uuid

import pytest
from psycopg import sql

from vbackup.config import PostgresConfig
from vbackup.postgres.row_plan import Expression, RowPlan
from vbackup.postgres.target import index_settings
from vbackup.postgres.vector_plan import VectorColumn, VectorPlan
from vbackup.postgres.vectors import parse, point_id

INT8, TEXT = 20, 25
GIB = 1024**3


def plan(
    *,
    kind: str = "vector",
    schema: str = "public",
    declared: int | None = None,
    wanted: int | None = None,
    version: bool = False,
    key: int = INT8,
) -> VectorPlan:
    rows = RowPlan(
        origin=sql.SQL("public.parts"),
        where=(sql.SQL("kind = 'page'"),),
        key=(Expression(sql.Identifier("page"), key),),
        version=Expression(sql.Identifier("v"), INT8) if version else None,
    )
    column = VectorColumn("embedding", kind, schema, declared)
    return VectorPlan(rows, (Expression(sql.Identifier("id"), INT8),), column, wanted)


def text(composed: sql.Composable) -> str:
    return composed.as_string(None)


def test_only_rows_with_a_vector_are_points() -> None:
    assert text(plan(version=True).select()) == (
        'SELECT "page"::text, "id"::text, "v"::text FROM public.parts'
        """ WHERE "embedding" IS NOT NULL AND kind = 'page'"""
    )


def test_dimensions_are_only_looked_at_where_they_may_differ() -> None:
    assert not plan(wanted=None).counted
    assert not plan(wanted=3, declared=3).counted
    assert plan(wanted=3).counted
    assert plan(wanted=3, declared=4).counted


@pytest.mark.parametrize(
    ("kind", "schema", "expected"),
    [
        ("vector", "ext", '"ext"."vector_dims"("embedding")'),
        ("halfvec", "public", '"public"."vector_dims"("embedding")'),
        ("sparsevec", "public", """pg_catalog.split_part("embedding"::text, '/', 2)::integer"""),
        ("bit", "pg_catalog", 'pg_catalog.length("embedding")'),
    ],
)
def test_each_type_says_its_dimensions_in_its_own_way(
    kind: str, schema: str, expected: str
) -> None:
    assert text(plan(kind=kind, schema=schema, wanted=3).columns[-1]) == expected


def test_vectors_of_other_dimensions_are_left_out_and_counted() -> None:
    block, unfit = parse("7\t1\t5\t3\n8\t2\t6\t4\n9\t3\t\\N\t3\n", plan(wanted=3, version=True))
    assert (list(block.ids), list(block.refs)) == ([1, 3], ["7", "9"])
    assert block.versions is not None
    assert (list(block.versions), unfit) == (["5", None], 1)


def test_a_vector_without_a_key_stays_a_point() -> None:
    block, _ = parse("\\N\t1\n", plan(key=TEXT))
    assert (list(block.ids), list(block.refs)) == ([1], [None])


def test_ids_are_what_findings_can_hold() -> None:
    given = str(uuid.UUID(int=7))
    assert point_id("0") == 0
    assert point_id(str(2**64 - 1)) == 2**64 - 1
    assert point_id(given) == given
    others = [point_id(t) for t in ("-1", str(2**64), "007", "a", '["a","b"]', "x" * 36, "٣")]
    assert len(set(others)) == len(others)
    assert all(str(uuid.UUID(str(each))) == each for each in others)


@pytest.mark.parametrize(
    ("configured", "memory", "buffers", "expected"),
    [
        ("auto", 64 * 1024**2, 128 * 1024**2, 64 * 1024),  # an untuned server: its own setting
        ("auto", 64 * 1024**2, 4 * GIB, 1024**2),  # two at a time share half of the buffers
        ("auto", 64 * 1024**2, 64 * GIB, 2 * 1024**2),  # never more than 2 GiB each
        ("auto", 8 * GIB, 4 * GIB, 8 * 1024**2),  # never less than the server would take
        ("512MiB", 8 * GIB, 4 * GIB, 512 * 1024),
        ("1KiB", 8 * GIB, 4 * GIB, 1024),
    ],
)
def test_index_builds_share_the_servers_memory(
    configured: str, memory: int, buffers: int, expected: int
) -> None:
    config = PostgresConfig.model_validate({"dsn": "", "maintenance_work_mem": configured})
    found = index_settings(config, memory, buffers, 2, 8)
    assert found == {
        "maintenance_work_mem": f"{expected}kB",
        "max_parallel_maintenance_workers": "4",
    }


def test_a_server_that_wants_no_parallel_builds_gets_none() -> None:
    config = PostgresConfig.model_validate({"dsn": ""})
    assert index_settings(config, GIB, GIB, 0, 8)["max_parallel_maintenance_workers"] == "0"
