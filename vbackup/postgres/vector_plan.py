"""The SQL of vectors that pgvector keeps: which there are, whose they are, what they look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from psycopg import sql

from vbackup.errors import Usage
from vbackup.model.link import Link, RowSource, VectorSource
from vbackup.postgres import relations
from vbackup.postgres.connection import Connection
from vbackup.postgres.relations import Relation
from vbackup.postgres.row_plan import Expression, RowPlan, plan

EXTENSION = "vector"
TYPES = ("vector", "halfvec", "sparsevec")
BITS = ("bit", "varbit")


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """A column of vectors. `declared` are the dimensions that its type fixes, None where it
    leaves them open; `schema` is the extension's."""

    name: str
    type: str
    schema: str
    declared: int | None

    @property
    def dimensions(self) -> sql.Composed:
        """How many dimensions a value has."""
        column = sql.Identifier(self.name)
        if self.type in BITS:
            return sql.SQL("pg_catalog.length({})").format(column)
        if self.type == "sparsevec":
            # There is no function for it; the text ends with "/dimensions".
            return sql.SQL("pg_catalog.split_part({}::text, '/', 2)::integer").format(column)
        return sql.SQL("{}({})").format(sql.Identifier(self.schema, "vector_dims"), column)


@dataclass(frozen=True)
class VectorPlan:
    """The vectors of one table, resolved against the database. `rows` says whose they are and
    of which version; `identity` names each of them."""

    rows: RowPlan
    identity: tuple[Expression, ...]
    column: VectorColumn
    wanted: int | None

    @property
    def counted(self) -> bool:
        """Whether the dimensions of each vector have to be looked at."""
        return self.wanted is not None and self.wanted != self.column.declared

    @cached_property
    def columns(self) -> tuple[sql.Composable, ...]:
        """What is selected: the key's parts, the identity's, then what there is of version and
        dimensions."""
        found: list[sql.Composable] = [part.text for part in (*self.rows.key, *self.identity)]
        if self.rows.version:
            found.append(self.rows.version.text)
        if self.counted:
            found.append(self.column.dimensions)
        return tuple(found)

    def select(self, *conditions: sql.Composable) -> sql.Composed:
        """The query for the vectors that there are, under further conditions."""
        present = sql.SQL("{} IS NOT NULL").format(sql.Identifier(self.column.name))
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(self.columns),
            self.rows.origin,
            sql.SQL(" AND ").join([present, *self.rows.where, *conditions]),
        )


def vector_plans(connection: Connection, link: Link) -> Iterator[VectorPlan]:
    """The tables that hold a link's vectors: their own, or each of the rows' tables.

    Raises Usage for a column that holds no vectors, NotFound for a table that does not exist."""
    vectors = link.vectors
    if vectors is None:
        raise Usage(f"link {link.name!r} says nothing of vectors", hint="set vectors of this link")
    if vectors.table:
        yield _plan(connection, vectors, vectors.table, vectors.key, vectors.where)
        return
    for source in link.rows:
        yield _plan(connection, vectors, source.table or "", source.key, source.where)


def _plan(
    connection: Connection,
    vectors: VectorSource,
    table: str,
    key: tuple[str, ...],
    where: str | None,
) -> VectorPlan:
    relation = relations.find(connection, table)
    column = vector_column(connection, relation, vectors.column)
    named = _primary_key(connection, relation) if vectors.table else ()
    source = RowSource(table=table, key=key, where=where, version=vectors.version)
    rows = plan(connection, source)
    if not vectors.table:
        # A row without a key is no row of the link: its vector is nobody's business.
        keyed = tuple(sql.SQL("{} IS NOT NULL").format(part.value) for part in rows.key)
        rows = replace(rows, where=(*rows.where, *keyed))
    identity = plan(connection, RowSource(table=table, key=named or key))
    return VectorPlan(rows, identity.key, column, vectors.dimensions)


def vector_column(connection: Connection, relation: Relation, name: str) -> VectorColumn:
    """What the catalog says of a column of vectors. Raises Usage when it is none."""
    row = connection.execute(_COLUMN, (relation.oid, name)).fetchone()
    if row is None:
        raise Usage(
            f"{relation.name} has no column {name!r}",
            hint=f"it has: {', '.join(relation.columns)}",
        )
    kind, schema, declared = str(row[0]), str(row[1]), int(str(row[2]))
    known = kind in BITS if schema == "pg_catalog" else kind in TYPES
    if not known:
        raise Usage(
            f"{relation.name}.{name} is of type {kind}, it holds no vectors",
            hint=f"vectors are of type {', '.join(TYPES)} or bit",
        )
    return VectorColumn(name, kind, schema, declared if declared > 0 else None)


def _primary_key(connection: Connection, relation: Relation) -> tuple[str, ...]:
    rows = connection.execute(_PRIMARY, (relation.oid,))
    return tuple(str(name) for (name,) in rows)


# The type modifier of pgvector's types and of bit is the number of dimensions itself.
_COLUMN = """
SELECT t.typname::text, n.nspname::text, a.atttypmod
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = %s AND a.attname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
_PRIMARY = """
SELECT a.attname::text
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(number, at)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s AND i.indisprimary AND k.at <= i.indnkeyatts
ORDER BY k.at
"""
