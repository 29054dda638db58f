"""Tables by the name a person writes: found in the catalog, with what matters about them."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import errors as pg

from vbackup.errors import NotFound
from vbackup.postgres.connection import Connection, one


@dataclass(frozen=True, slots=True)
class Relation:
    """One table, partitioned table, view, materialized view or foreign table.

    `name` is quoted and schema-qualified, ready for SQL. `feeds` says whether a row's `xmin`
    tells when it changed: so in heap tables and partitioned tables made of nothing else.
    """

    oid: int
    name: str
    kind: str
    columns: tuple[str, ...]
    feeds: bool

    @property
    def lockable(self) -> bool:
        """Whether LOCK TABLE takes it (views lock what they read)."""
        return self.kind in "rpv"


def find(connection: Connection, written: str) -> Relation:
    """The relation called `written`: as in SQL, or else by its exact name without quotes.

    Raises NotFound.
    """
    oid = _by_sql(connection, written) or _by_exact_name(connection, written)
    if oid is None:
        raise NotFound(
            f"table {written} does not exist",
            hint="write schema.table as in SQL; names with capitals need double quotes",
        )
    name, kind, columns, feeds = one(connection, _DESCRIBE, (oid, oid))
    names = tuple(str(column) for column in columns) if isinstance(columns, list) else ()
    return Relation(oid, str(name), str(kind), names, bool(feeds))


def _by_sql(connection: Connection, written: str) -> int | None:
    try:
        (found,) = one(connection, "SELECT pg_catalog.to_regclass(%s)::oid::bigint", (written,))
    except (pg.InvalidName, pg.SyntaxError, pg.FeatureNotSupported, pg.UndefinedParameter):
        return None
    return int(str(found)) if found is not None else None


def _by_exact_name(connection: Connection, written: str) -> int | None:
    schema, dot, table = written.partition(".")
    row = connection.execute(
        """
        SELECT c.oid::bigint FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND CASE WHEN %s THEN n.nspname = %s AND c.relname = %s
                   ELSE c.relname = %s AND pg_catalog.pg_table_is_visible(c.oid) END
        """,
        (bool(dot), schema, table, written),
    ).fetchone()
    return int(str(row[0])) if row else None


# A partition may be a foreign table, a table may use another access method than heap: their xmin,
# if they have one, means nothing.
_DESCRIBE = """
WITH RECURSIVE member(oid) AS (
    SELECT %s::oid
    UNION ALL
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN member m ON i.inhparent = m.oid
)
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relkind::text,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT pg_catalog.bool_and(
            x.relkind = 'p' OR (x.relkind = 'r' AND am.amname = 'heap'))
        FROM member m JOIN pg_catalog.pg_class x ON x.oid = m.oid
        LEFT JOIN pg_catalog.pg_am am ON am.oid = x.relam)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %s
"""
