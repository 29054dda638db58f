"""The SQL of a row source: what is read, as which text, and how keys are looked up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from vbackup.errors import Usage
from vbackup.model.keys import canonical
from vbackup.model.link import RowSource
from vbackup.postgres import relations
from vbackup.postgres.connection import Connection

_INTEGERS = frozenset({20, 21, 23})
_UUID = 2950
_TEXTS = frozenset({25, 1043})
_FLOAT4 = 700
_FLOATS = frozenset({_FLOAT4, 701})
_NUMERIC = 1700
_JSONS = frozenset({114, 3802})
# Types whose text never looks like a UUID, so that it is canonical as PostgreSQL writes it.
_PLAIN = _INTEGERS | {_UUID, _NUMERIC, 16, 26, 1082, 1114, 1184}
_INT64 = 2**63
_INTEGER_TEXT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FLOAT4_LIMIT = 3e38
_UUID_TEXT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Expression:
    """One SQL expression with the type it has (an OID; domains count as what they are based on)."""

    value: sql.Composable
    type_oid: int

    @property
    def plain(self) -> bool:
        """Whether its text is canonical as it comes."""
        return self.type_oid in _PLAIN

    @property
    def floating(self) -> bool:
        return self.type_oid in _FLOATS

    @property
    def integer(self) -> bool:
        return self.type_oid in _INTEGERS

    @property
    def uuid(self) -> bool:
        return self.type_oid == _UUID

    @property
    def binary(self) -> sql.Composed:
        """An integer or a UUID as the one type that stands for its kind (`postgres.packed`)."""
        kind = "uuid" if self.uuid else "int8"
        return sql.SQL("({})::{}").format(self.value, sql.Identifier("pg_catalog", kind))

    @property
    def text(self) -> sql.Composed:
        """The expression as the text that vbackup compares."""
        if self.type_oid == _NUMERIC:
            return sql.SQL("pg_catalog.trim_scale({})::text").format(self.value)
        if self.type_oid in _JSONS:
            # A JSON string without its quotes; everything else as JSON text.
            return sql.SQL("({}::jsonb #>> '{{}}')").format(self.value)
        return sql.SQL("{}::text").format(self.value)

    def match(self, keys: Sequence[str]) -> tuple[sql.Composable, str, list[str | None]]:
        """How to find canonical keys: the side to compare, the type of the parameters, and one
        parameter a key; None where the column's type cannot hold that key. An index on a column
        of integers, UUIDs or text is used."""
        if self.type_oid in _INTEGERS:
            return self.value, "int8", [key if _is_int64(key) else None for key in keys]
        if self.floating:
            kind = "float4" if self.type_oid == _FLOAT4 else "float8"
            return self.value, kind, [key if _is_float(key, kind) else None for key in keys]
        if self.type_oid == _UUID:
            return self.value, "uuid", [k if _UUID_TEXT.fullmatch(k) else None for k in keys]
        side = self.value if self.type_oid in _TEXTS else self.text
        return side, "text", [None if "\0" in key else key for key in keys]

    @property
    def spelled(self) -> bool:
        """Whether one UUID can be written in several ways here."""
        return self.type_oid not in _PLAIN and not self.floating


@dataclass(frozen=True)
class RowPlan:
    """A row source, resolved against the database."""

    origin: sql.Composable
    where: tuple[sql.Composable, ...]
    key: tuple[Expression, ...]
    version: Expression | None = None
    live: sql.Composable | None = None
    count: sql.Composable | None = None
    tenant: Expression | None = None
    collection: Expression | None = None
    feeds: bool = False
    lockable: str | None = None
    identity: bool = False
    changed_by: Expression | None = None

    @cached_property
    def packed(self) -> bool:
        """Whether all columns are integers, UUIDs and flags, so that binary COPY can be read
        as arrays."""
        typed = [*self.key, *([self.version] if self.version else [])]
        return (
            len(self.key) == 1
            and all(part.integer or part.uuid for part in typed)
            and not (self.identity or self.count or self.tenant or self.collection)
        )

    @cached_property
    def columns(self) -> tuple[sql.Composable, ...]:
        """What is selected, all as text (unless `packed`): the key's parts, then what there is of
        version, live, count, tenant and collection."""
        if self.packed:
            flags = [sql.SQL("coalesce({}, false)").format(self.live)] if self.live else []
            versions = [self.version.binary] if self.version else []
            return (self.key[0].binary, *versions, *flags)
        found: list[sql.Composable] = [part.text for part in self.key]
        if self.version or self.identity:
            found.append(self.version.text if self.version else sql.SQL("xmin::text"))
        if self.live:
            found.append(sql.SQL("coalesce({}, false)").format(self.live))
        if self.count:
            found.append(sql.SQL("{}::bigint").format(self.count))
        if self.tenant:
            found.append(self.tenant.text)
        if self.collection:
            found.append(self.collection.text)
        return tuple(found)

    def select(self, *conditions: sql.Composable) -> sql.Composed:
        """The query for its rows with a key, under further conditions."""
        present = [sql.SQL("{} IS NOT NULL").format(part.value) for part in self.key]
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(self.columns),
            self.origin,
            sql.SQL(" AND ").join([*present, *self.where, *conditions]),
        )

    def since(self, base: str) -> sql.Composable:
        """The condition for rows changed since the base: a superset (watermark, change feeds).

        Raises Usage for a base that is not a transaction id.
        """
        if not self.feeds:
            return sql.SQL("true")
        if not base.isascii() or not base.isdigit() or int(base) >= 2**32:
            raise Usage(f"{base!r} is not a change base")
        return sql.SQL(
            "pg_catalog.age(xmin) BETWEEN 0 AND pg_catalog.age({}::pg_catalog.xid)"
        ).format(sql.Literal(base))

    def having(self, keys: Sequence[str]) -> sql.Composable | None:
        """The condition for rows with these canonical keys, or None when none can be here."""
        if len(self.key) == 1:
            wanted = _spellings(keys) if self.key[0].spelled else keys
            side, kind, values = self.key[0].match(wanted)
            present = [value for value in values if value is not None]
            if not present:
                return None
            return sql.SQL("{} = ANY ({}::{}[])").format(
                side, sql.Literal(present), sql.Identifier("pg_catalog", kind)
            )
        return self._having_composite(keys)

    def _having_composite(self, keys: Sequence[str]) -> sql.Composable | None:
        split = [parts for key in keys if (parts := _parts(key, len(self.key)))]
        sides, arrays, columns = [], [], []
        for part, values in zip(self.key, zip(*split, strict=True), strict=False):
            side, kind, found = part.match(values)
            sides.append(side)
            columns.append(found)
            arrays.append(sql.Identifier("pg_catalog", kind))
        rows = [row for row in zip(*columns, strict=True) if None not in row]
        if not rows:
            return None
        literals = [
            sql.SQL("{}::{}[]").format(sql.Literal(list(column)), kind)
            for column, kind in zip(zip(*rows, strict=True), arrays, strict=True)
        ]
        return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(
            sql.SQL(", ").join(sides), sql.SQL(", ").join(literals)
        )


def plan(connection: Connection, source: RowSource, *, row_identity: bool = False) -> RowPlan:
    """Resolve a row source: names quoted, types known.

    `row_identity` asks for `xmin` as the version where the source names none. Raises NotFound for
    a table that does not exist, psycopg's errors for expressions that the server rejects.
    """
    if source.sql is not None:
        return _query_plan(connection, source)
    return _table_plan(connection, source, row_identity)


def _table_plan(connection: Connection, source: RowSource, row_identity: bool) -> RowPlan:
    relation = relations.find(connection, source.table or "")
    origin = _raw(relation.name)
    columns = frozenset(relation.columns)

    def written(text: str | None) -> sql.Composable | None:
        return _expression(text, columns) if text else None

    rest = (source.version, source.tenant, source.changed_by)
    typed = [part for part in (*source.key, *rest) if part]
    kinds = iter(_types(connection, origin, [_expression(text, columns) for text in typed]))

    def expression(text: str) -> Expression:
        return Expression(_expression(text, columns), next(kinds))

    where = written(source.where)
    return RowPlan(
        origin=origin,
        where=(where,) if where else (),
        key=tuple(expression(part) for part in source.key),
        version=expression(source.version) if source.version else None,
        tenant=expression(source.tenant) if source.tenant else None,
        changed_by=expression(source.changed_by) if source.changed_by else None,
        live=written(source.live),
        count=written(source.count),
        feeds=relation.feeds,
        lockable=relation.name if relation.lockable else None,
        identity=row_identity and not source.version and relation.feeds,
    )


def _query_plan(connection: Connection, source: RowSource) -> RowPlan:
    text = (source.sql or "").strip().rstrip(";")
    origin = sql.Composed([sql.SQL("("), _raw(text), sql.SQL("\n) AS vbackup_source")])
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(origin))
        found = {column.name: column.type_code for column in cursor.description or ()}
    key = source.key or ("key",)
    if missing := [name for name in key if name not in found]:
        raise Usage(
            f"the sql of a link yields no column {missing[0]!r}: it yields {', '.join(found)}",
            hint='name the key column: SELECT id AS "key", ...',
        )

    def column(name: str) -> Expression | None:
        return Expression(sql.Identifier(name), found[name]) if name in found else None

    def value(name: str) -> sql.Composable | None:
        return sql.Identifier(name) if name in found else None

    return RowPlan(
        origin=origin,
        where=(),
        key=tuple(Expression(sql.Identifier(name), found[name]) for name in key),
        version=column("version"),
        tenant=column("tenant"),
        collection=column("collection"),
        live=value("live"),
        count=value("count"),
    )


def _types(
    connection: Connection, origin: sql.Composable, expressions: Sequence[sql.Composable]
) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("SELECT {} FROM {} LIMIT 0").format(sql.SQL(", ").join(expressions), origin)
        )
        return [column.type_code for column in cursor.description or ()]


def _expression(text: str, columns: frozenset[str]) -> sql.Composable:
    """A column by its exact name, or SQL as it is written."""
    if text in columns:
        return sql.Identifier(text)
    # The line break ends a comment that the expression may end with.
    return sql.Composed([sql.SQL("("), _raw(text), sql.SQL("\n)")])


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)


def _is_float(key: str, kind: str) -> bool:
    """Whether the key is how a value of this type is spelled."""
    try:
        value = float(key)
    except ValueError:
        return False
    fits = kind == "float8" or not _FLOAT4_LIMIT < abs(value) < math.inf
    return fits and canonical(value) == key


def _is_int64(key: str) -> bool:
    return bool(_INTEGER_TEXT.fullmatch(key)) and -_INT64 <= int(key) < _INT64


def _parts(key: str, count: int) -> list[str] | None:
    try:
        parts = json.loads(key)
    except ValueError:
        return None
    if not isinstance(parts, list) or len(parts) != count:
        return None
    return parts if all(isinstance(part, str) for part in parts) else None


def _spellings(keys: Sequence[str]) -> list[str]:
    """The keys, and for UUIDs the other ways a text column may hold them."""
    found: list[str] = []
    for key in keys:
        found.append(key)
        if len(key) == 36 and _UUID_TEXT.fullmatch(key):
            bare = key.replace("-", "")
            found += [key.upper(), bare, bare.upper(), f"urn:uuid:{key}", f"{{{key}}}"]
    return found
