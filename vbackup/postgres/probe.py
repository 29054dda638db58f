"""Looks at a link's row sources for `check`: do they exist, can they be read, are keys unique."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from vbackup.model.link import RowSource
from vbackup.postgres import relations
from vbackup.postgres.connection import Connection, one
from vbackup.postgres.relations import Relation
from vbackup.postgres.row_plan import plan

_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


@dataclass(frozen=True, slots=True)
class SourceProbe:
    """What was found. `unique` says whether a constraint makes the key unique, `indexed` whether
    rows are found by key without reading all; `feed` whether changes are found by `xmin`."""

    name: str
    kind: str
    key_types: tuple[str, ...]
    unique: bool = False
    indexed: bool = False
    readable: bool = True
    row_security: bool = False
    feed: bool = False
    rows_estimate: int = 0
    version_type: str = ""
    problems: tuple[str, ...] = ()


def probe(connection: Connection, source: RowSource) -> SourceProbe:
    """Look at one row source. Raises NotFound; psycopg's errors for SQL that is rejected."""
    resolved = plan(connection, source)
    types = tuple(_type_name(connection, part.type_oid) for part in resolved.key)
    version = _type_name(connection, resolved.version.type_oid) if resolved.version else ""
    # The expressions are only tried now: live, count and where, too.
    connection.execute(sql.SQL("{} LIMIT 0").format(resolved.select()))
    if source.table is None:
        return SourceProbe("sql", "query", types, version_type=version)
    relation = relations.find(connection, source.table)
    unique, indexed = _indexes(connection, relation.oid, source.key)
    readable, secured, estimate = one(connection, _STATE, (relation.oid,) * 2)
    return SourceProbe(
        name=relation.name,
        kind=_KINDS.get(relation.kind, relation.kind),
        key_types=types,
        unique=unique,
        indexed=indexed,
        readable=bool(readable),
        row_security=bool(secured),
        feed=relation.feeds,
        rows_estimate=int(str(estimate)),
        version_type=version,
        problems=tuple(_problems(relation, readable=bool(readable), secured=bool(secured))),
    )


def _problems(relation: Relation, *, readable: bool, secured: bool) -> Iterator[str]:
    if not readable:
        yield f"{relation.name} cannot be read: grant SELECT"
    if secured:
        yield f"{relation.name} hides rows by row security: grant BYPASSRLS"
    if relation.kind == "m":
        yield f"{relation.name} is refreshed apart from its tables: link those instead"
    if relation.kind == "f":
        yield f"{relation.name} is foreign: its rows are not in the snapshot"


def _type_name(connection: Connection, oid: int) -> str:
    (name,) = one(connection, "SELECT pg_catalog.format_type(%s, NULL)", (oid,))
    return str(name)


def _indexes(connection: Connection, oid: int, key: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether an index makes the key's columns unique, and whether one begins with them."""
    unique = indexed = False
    for columns, is_unique in connection.execute(_INDEXES, (oid,)):
        names = [str(name) for name in columns] if isinstance(columns, list) else []
        if set(names[: len(key)]) == set(key):
            indexed = True
        if is_unique and set(names) <= set(key):
            unique = True
    return unique, indexed


# row_security_active() asks for the role that is connected.
_STATE = """
SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.row_security_active(c.oid),
       (WITH RECURSIVE member(oid) AS (
            SELECT %s::oid
            UNION ALL
            SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN member m ON i.inhparent = m.oid)
        SELECT sum(greatest(x.reltuples, 0))::bigint
        FROM member m JOIN pg_catalog.pg_class x ON x.oid = m.oid WHERE x.relkind <> 'p')
FROM pg_catalog.pg_class c WHERE c.oid = %s
"""
_INDEXES = """
SELECT (SELECT pg_catalog.array_agg(coalesce(a.attname::text, '') ORDER BY k.at)
        FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(number, at)
        LEFT JOIN pg_catalog.pg_attribute a
          ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
        WHERE k.at <= i.indnkeyatts),
       i.indisunique
FROM pg_catalog.pg_index i
WHERE i.indrelid = %s AND i.indisvalid AND i.indpred IS NULL
"""
