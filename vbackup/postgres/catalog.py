"""What the catalog tells about keys: the columns that points of an unknown application may refer
to, and small samples of their rows. Only reads, each statement with a time limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from psycopg import sql

from vbackup.config import PostgresConfig
from vbackup.model.keys import canonical, composite
from vbackup.model.link import RowSource
from vbackup.ports import KeyColumn, SampledRow
from vbackup.postgres import relations
from vbackup.postgres.connection import Connection, connect
from vbackup.postgres.failures import translated
from vbackup.postgres.row_plan import RowPlan, plan

TIMEOUT_MS = 30_000
PAGES = 60
"""Pages of a table that a sample is taken from."""
LONGEST = 200
_KINDS = {20: "integer", 21: "integer", 23: "integer", 2950: "uuid", 25: "text", 1043: "text"}


class KeyCatalog:
    """`ports.KeyCatalog` of one database. Not for several threads; `close` ends its session."""

    def __init__(self, config: PostgresConfig, database: str | None = None) -> None:
        self._connection = connect(config, database=database)
        self._plans: dict[tuple[str, ...], tuple[RowPlan, list[str]]] = {}
        try:
            with translated("setting up a session that only reads"):
                self._connection.execute("SET default_transaction_read_only = on")
                self._connection.execute(f"SET statement_timeout = {TIMEOUT_MS}".encode())
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def keys(self) -> Sequence[KeyColumn]:
        """Columns of integers, UUIDs and texts that alone are unique, or that an index begins
        with; and unique combinations of two or three of them. In tables of users that may be
        read."""
        with self._reading():
            rows = self._connection.execute(_KEYS).fetchall()
            several = self._connection.execute(_COMPOSITES).fetchall()
        single = [
            KeyColumn(
                table=str(table),
                column=str(column),
                kind=_KINDS[int(str(type_))],
                unique=bool(unique),
                foreign=bool(foreign),
                rows_estimate=int(str(estimate)),
            )
            for table, column, type_, unique, foreign, estimate in rows
        ]
        return [*single, *map(_composite_key, several)]

    def rows(self, key: KeyColumn, wanted: Sequence[str]) -> list[SampledRow]:
        """The rows with one of these canonical keys."""
        with self._reading():
            found, columns = self._plan(key)
            condition = found.having(wanted)
            if condition is None:
                return []
            return self._fetch(found, columns, sql.SQL(" WHERE {}").format(condition))

    def sample(self, key: KeyColumn, count: int) -> list[SampledRow]:
        """Up to `count` rows from pages all over the table; fewer when their keys are null."""
        with self._reading():
            found, columns = self._plan(key)
            limit = sql.SQL(" LIMIT {}").format(sql.Literal(count))
            # Rows of a page were often written together: the few pages are shuffled.
            drawn = sql.SQL(" TABLESAMPLE SYSTEM ({}) ORDER BY pg_catalog.random()").format(
                sql.Literal(self._share(key.table))
            )
            return self._fetch(found, columns, drawn + limit) or self._fetch(found, columns, limit)

    def _share(self, table: str) -> float:
        """Percent of the table's pages."""
        row = self._connection.execute(
            "SELECT pg_catalog.pg_relation_size(%s::regclass)"
            " / pg_catalog.current_setting('block_size')::bigint",
            (table,),
        ).fetchone()
        pages = int(str(row[0])) if row else 0
        return min(100.0, 100.0 * PAGES / max(1, pages))

    def _plan(self, key: KeyColumn) -> tuple[RowPlan, list[str]]:
        place = (key.table, *key.columns)
        if place not in self._plans:
            relation = relations.find(self._connection, key.table)
            resolved = plan(self._connection, RowSource(table=key.table, key=key.columns))
            self._plans[place] = resolved, list(_comparable(self._connection, relation.oid))
        return self._plans[place]

    def _fetch(
        self, found: RowPlan, columns: Sequence[str], tail: sql.Composable
    ) -> list[SampledRow]:
        """Rows with a key; texts too long for a version are left out by the server."""
        values = [_SHORT.format(name=sql.Identifier(name)) for name in columns]
        key_texts = sql.SQL(", ").join([part.text for part in found.key])
        query = sql.SQL("SELECT ARRAY[{}]::text[], ARRAY[{}]::text[] FROM {}{}").format(
            key_texts, sql.SQL(", ").join(values), found.origin, tail
        )
        answer = self._connection.execute(query).fetchall()
        return [
            SampledRow(key, _present(columns, texts))
            for parts, texts in answer
            if isinstance(parts, list) and (key := composite(map(canonical, parts))) is not None
        ]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated("looking for keys"), self._connection.transaction():
            yield


def _composite_key(row: tuple[object, ...]) -> KeyColumn:
    table, columns, types, estimate = row
    names = columns if isinstance(columns, list) else []
    kinds = [_KINDS[int(str(oid))] for oid in types] if isinstance(types, list) else []
    (column, kind), *more = zip(map(str, names), kinds, strict=True)
    return KeyColumn(str(table), column, kind, rows_estimate=int(str(estimate)), more=tuple(more))


def _present(columns: Sequence[str], texts: object) -> Mapping[str, str]:
    values = texts if isinstance(texts, list) else []
    return {
        name: text
        for name, value in zip(columns, values, strict=False)
        if (text := canonical(value)) is not None
    }


def _comparable(connection: Connection, oid: int) -> Iterator[str]:
    """Columns whose values a payload may repeat."""
    for (name,) in connection.execute(_COMPARABLE, (oid,)):
        yield str(name)


# A long text is told from none, and equals nothing that a payload has.
_SHORT = sql.SQL(
    "CASE WHEN pg_catalog.octet_length({name}::text) <= " + str(LONGEST) + " THEN {name}::text"
    " WHEN {name} IS NOT NULL THEN E'\\x01' END"
)
# The columns' own type or, for domains, what they are based on; partitions are part of their
# parents, and what an extension made belongs to no application.
_KEYS = """
WITH columns AS (
    SELECT c.oid AS relation, n.nspname, c.relname, a.attnum, a.attname,
           CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END AS type,
           greatest(c.reltuples, 0)::bigint AS estimate
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
      AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
      AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
      AND NOT pg_catalog.row_security_active(c.oid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e')
), led AS (
    SELECT i.indrelid, i.indkey[0] AS attnum,
           bool_or(i.indisunique AND i.indnkeyatts = 1) AS is_unique
    FROM pg_catalog.pg_index i
    WHERE i.indisvalid AND i.indpred IS NULL
    GROUP BY 1, 2
)
SELECT pg_catalog.format('%I.%I', x.nspname, x.relname), x.attname::text, x.type::bigint,
       l.is_unique,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k
               WHERE k.contype = 'f' AND k.conrelid = x.relation AND x.attnum = ANY (k.conkey)),
       x.estimate
FROM columns x JOIN led l ON l.indrelid = x.relation AND l.attnum = x.attnum
WHERE x.type IN (20, 21, 23, 2950, 25, 1043)
ORDER BY x.nspname, x.relname, x.attnum
"""
# Unique indexes of two or three such columns.
_COMPOSITES = (
    _KEYS[: _KEYS.index("), led AS (")]
    + """)
SELECT pg_catalog.format('%I.%I', min(x.nspname), min(x.relname)),
       pg_catalog.array_agg(x.attname::text ORDER BY k.at),
       pg_catalog.array_agg(x.type::bigint ORDER BY k.at), min(x.estimate)
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, at)
JOIN columns x ON x.relation = i.indrelid AND x.attnum = k.attnum
WHERE i.indisvalid AND i.indisunique AND i.indpred IS NULL AND k.at <= i.indnkeyatts
  AND i.indnkeyatts BETWEEN 2 AND 3 AND x.type IN (20, 21, 23, 2950, 25, 1043)
GROUP BY i.indexrelid, i.indnkeyatts
HAVING count(*) = i.indnkeyatts
ORDER BY 1, 2
"""
)
_COMPARABLE = """
SELECT a.attname::text
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
  AND CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
      IN (16, 20, 21, 23, 2950, 25, 1043, 1042, 1114, 1184, 1082, 1700)
ORDER BY a.attnum
LIMIT 60
"""
