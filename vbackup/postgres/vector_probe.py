"""Looks at a link's vectors for `check`: the extension, the column, its dimensions, its index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from vbackup.model.link import Link
from vbackup.postgres.connection import Connection, one
from vbackup.postgres.vector_plan import EXTENSION, VectorPlan, vector_plans


@dataclass(frozen=True, slots=True)
class VectorProbe:
    """What was found of one table. `declared` are the dimensions that the column's type fixes;
    `indexes` the access methods of valid indexes over the column."""

    table: str
    column: str
    type: str
    declared: int | None
    extension: str
    indexes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def vector_probes(connection: Connection, link: Link) -> list[VectorProbe]:
    """Look at each table that holds the link's vectors. Raises NotFound, Usage; psycopg's errors
    for SQL that is rejected."""
    row = connection.execute(
        "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = %s", (EXTENSION,)
    ).fetchone()
    version = str(row[0]) if row else ""
    return [_probe(connection, plan, version) for plan in vector_plans(connection, link)]


def _probe(connection: Connection, plan: VectorPlan, version: str) -> VectorProbe:
    # The expressions are only tried now.
    connection.execute(sql.SQL("{} LIMIT 0").format(plan.select()))
    table = plan.rows.origin.as_string(connection)
    (found,) = one(connection, _INDEXES, (table, plan.column.name))
    indexes = tuple(str(name) for name in found) if isinstance(found, list) else ()
    return VectorProbe(
        table=table,
        column=plan.column.name,
        type=plan.column.type,
        declared=plan.column.declared,
        extension=version,
        indexes=indexes,
        problems=tuple(_problems(plan, table, version, indexes)),
    )


def _problems(
    plan: VectorPlan, table: str, version: str, indexes: tuple[str, ...]
) -> Iterator[str]:
    if not version:
        yield f"extension {EXTENSION} is not created in this database"
    declared = plan.column.declared
    if declared and plan.wanted and declared != plan.wanted:
        yield (
            f"{table}.{plan.column.name} is declared with {declared} dimensions, vectors.dimensions"
            f" says {plan.wanted}: every vector would count as missing"
        )
    if not indexes:
        yield f"no index over {table}.{plan.column.name}: every search reads all vectors"


# An index over a cast of the column, as halfvec indexes are made, reads the column as well.
_INDEXES = """
SELECT (SELECT pg_catalog.array_agg(am.amname::text ORDER BY c.relname)
        FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_am am ON am.oid = c.relam
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attname = w.name
        WHERE i.indrelid = w.oid AND i.indisvalid AND am.amname <> 'btree'
          AND (a.attnum = ANY (i.indkey::int2[])
               OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.objid = i.indexrelid AND d.refobjid = w.oid
                            AND d.refobjsubid = a.attnum)))
FROM (SELECT %s::pg_catalog.regclass::oid AS oid, %s::text AS name) w
"""
