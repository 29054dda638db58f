"""Brings one tenant's rows back into the live database, in one transaction.

The rows come out of a database that was restored and narrowed (postgres.narrowing). The tenant's
own rows get the values of the backup; rows that only belong to them or are referred to are put
back where they are gone (never another tenant's), and never changed. Before anything is changed
it is certain that every table still is what it was, and that no row meanwhile belongs to another
tenant. What is overwritten, and what is inserted, is handed to the caller before the first write.
"""

# ruff: noqa: S608 - the names in these statements come quoted from the catalog

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from psycopg import Cursor, sql
from psycopg import errors as pg

from vbackup.errors import Refused
from vbackup.model.keys import canonical
from vbackup.model.link import RowSource
from vbackup.model.tenancy import MergedTable, TenantTable
from vbackup.postgres import relations
from vbackup.postgres.connection import Connection
from vbackup.postgres.failures import translated
from vbackup.postgres.narrowing import ForeignKey, Table, foreign_keys, raw, tables_of
from vbackup.postgres.row_plan import plan

Save = Callable[[Mapping[str, object]], None]
"""Takes one line of what a person needs to undo the merge."""


@dataclass(frozen=True, slots=True)
class Merge:
    """One table to merge: `own` tells the tenant's own rows, in either database."""

    table: Table
    key: tuple[str, ...]
    own: sql.Composable
    staged: str
    tells: bool
    """Whether the table says whose its rows are."""


def merge(
    source: Connection,
    live: Connection,
    tables: Sequence[TenantTable],
    tenant: str,
    save: Save,
    saved: Callable[[], None],
) -> list[MergedTable]:
    """Merge all rows of `source` into `live`. Nothing is changed unless all of it can be, nor
    before `saved` has returned.

    Raises Refused: a table that is not what it was, rows that are another tenant's by now, a
    constraint of the live database that the rows do not keep."""
    with translated("merging the tenant's rows", configured=True):
        try:
            with live.transaction():
                merges = _prepared(source, live, tables, tenant)
                for one in merges:
                    _stage(source, live, one)
                    _refuse_foreign(live, one)
                for one in merges:
                    _save(live, one, save)
                saved()
                live.execute("SET CONSTRAINTS ALL DEFERRED")
                return [_write(live, one) for one in merges]
        except (pg.IntegrityError, pg.RaiseException) as error:
            raise Refused(
                f"the live database does not take the tenant's rows: {_said(error)}",
                hint="nothing was changed; what is live now stands in their way",
            ) from error


def _prepared(
    source: Connection, live: Connection, tables: Sequence[TenantTable], tenant: str
) -> list[Merge]:
    """The tables that hold rows, parents first, each held against its live namesake."""
    there = {table.name: table for table in tables_of(source).values()}
    here = tables_of(live)
    by_name = {table.name: table for table in here.values()}
    filled = [table for table in there.values() if _filled(source, table)]
    for table in filled:
        if table.name not in by_name:
            raise Refused(f"table {table.name} is not there any more; nothing was changed")
        if _columns(source, table) != _columns(live, by_name[table.name]):
            raise Refused(
                f"table {table.name} has other columns than in the backup; nothing was changed",
                hint="restore without --in-place, and let a migration bring the rows over",
            )
    own = _own(live, by_name, tables, tenant)
    order = _order([by_name[table.name] for table in filled], foreign_keys(live, here))
    return [
        Merge(
            table,
            _key(live, table),
            own.get(table.oid, sql.SQL("false")),
            f"vbackup_{number}",
            table.oid in own,
        )
        for number, table in enumerate(order)
    ]


def _filled(connection: Connection, table: Table) -> bool:
    return connection.execute(raw(f"SELECT FROM {table.origin} LIMIT 1")).fetchone() is not None


def _columns(connection: Connection, table: Table) -> dict[str, str]:
    return {str(name): str(kind) for name, kind in connection.execute(_COLUMNS, (table.oid,))}


def _own(
    live: Connection,
    by_name: Mapping[str, Table],
    tables: Sequence[TenantTable],
    tenant: str,
) -> dict[int, sql.Composable]:
    """By table, what tells the tenant's own rows."""
    own: dict[int, sql.Composable] = {}
    for named in tables:
        relation = relations.find(live, named.table)
        if relation.name not in by_name:
            raise Refused(f"{named.table} is no table with rows of its own any more")
        source = RowSource(table=named.table, key=(named.tenant,))
        condition = plan(live, source).having([canonical(tenant) or tenant]) or sql.SQL("false")
        before = own.get(relation.oid)
        either = sql.SQL("({} OR {})").format(before, condition) if before else condition
        own[relation.oid] = either
    return own


def _key(live: Connection, table: Table) -> tuple[str, ...]:
    names = tuple(str(name) for (name,) in live.execute(_PRIMARY_KEY, (table.oid,)))
    if not names:
        raise Refused(
            f"table {table.name} has no primary key: which of its rows are there is not known",
            hint="nothing was changed; restore without --in-place",
        )
    return names


def _order(tables: Sequence[Table], keys: Sequence[ForeignKey]) -> list[Table]:
    """Parents before their children; a circle is left to deferrable constraints."""
    by_oid = {table.oid: table for table in tables}
    sorter: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(by_oid, ()))
    for key in keys:
        if key.child != key.parent and {key.child, key.parent} <= by_oid.keys():
            sorter.add(key.child, key.parent)
    try:
        return [by_oid[oid] for oid in sorter.static_order()]
    except CycleError:
        return list(tables)


def _stage(source: Connection, live: Connection, one: Merge) -> None:
    """The rows into a temporary table beside the live one, with which of them are own. What is
    there as it was is left out; what is there otherwise, and own, is locked."""
    columns, staged = one.table.columns, f"pg_temp.{one.staged}"
    _run(
        live,
        f"CREATE TEMP TABLE {one.staged} ON COMMIT DROP AS SELECT {columns}, NULL::boolean AS"
        f" vbackup_own, NULL::boolean AS vbackup_there FROM {one.table.name} WITH NO DATA",
    )
    query = raw(f"COPY (SELECT {columns} FROM {one.table.origin}) TO STDOUT")
    target = raw(f"COPY {staged} ({columns}) FROM STDIN")
    with (
        source.cursor() as reading,
        live.cursor() as writing,
        reading.copy(query) as rows,
        writing.copy(target) as staging,
    ):
        for block in rows:
            staging.write(block)
    own = sql.SQL("UPDATE {} SET vbackup_there = false, vbackup_own = coalesce({}, false)").format(
        raw(staged), one.own
    )
    live.execute(own)
    _run(
        live,
        f"DELETE FROM {staged} s USING {one.table.name} l WHERE {_matched(one)} AND {_same(one)}",
    )
    _run(
        live,
        f"WITH held AS (SELECT s.ctid AS place FROM {one.table.name} l JOIN {staged} s"
        f" ON {_matched(one)} WHERE s.vbackup_own FOR UPDATE OF l)"
        f" UPDATE {staged} s SET vbackup_there = true FROM held WHERE s.ctid = held.place",
    )


def _refuse_foreign(live: Connection, one: Merge) -> None:
    """No row that is another tenant's by now is overwritten, and none of theirs comes back."""
    query = sql.SQL(
        "SELECT count(*) FROM {} l WHERE NOT coalesce({}, false) AND EXISTS"
        " (SELECT FROM pg_temp.{} s WHERE s.vbackup_there AND {})"
    ).format(raw(one.table.name), one.own, sql.Identifier(one.staged), raw(_matched(one)))
    row = live.execute(query).fetchone()
    if row and row[0]:
        raise Refused(
            f"{row[0]} rows of {one.table.name} have keys of this tenant's and are another's now",
            hint="nothing was changed; restore without --in-place, and look at them",
        )
    if not one.tells:
        return
    gone = _run(
        live,
        f"SELECT count(*) FROM pg_temp.{one.staged} s WHERE NOT s.vbackup_own AND NOT EXISTS"
        f" (SELECT FROM {one.table.name} l WHERE {_matched(one)})",
    ).fetchone()
    if gone and gone[0]:
        raise Refused(
            f"{gone[0]} rows of {one.table.name} that the tenant's rows refer to are another"
            " tenant's, and gone",
            hint="nothing was changed; restore without --in-place, and take over what is wanted",
        )


def _save(live: Connection, one: Merge, save: Save) -> None:
    """What will be overwritten, as it is; and the keys of what will be inserted."""
    staged = f"pg_temp.{one.staged} s"
    overwritten = _run(
        live,
        f"SELECT pg_catalog.to_jsonb(l) FROM {one.table.name} l JOIN {staged}"
        f" ON {_matched(one)} WHERE s.vbackup_there",
    )
    for (row,) in overwritten:
        save({"table": one.table.name, "overwritten": row})
    key = ", ".join(f"s.{name}::text" for name in one.key)
    inserted = _run(
        live,
        f"SELECT ARRAY[{key}] FROM {staged} WHERE NOT s.vbackup_there AND NOT EXISTS"
        f" (SELECT FROM {one.table.name} l WHERE {_matched(one)})",
    )
    for (values,) in inserted:
        if isinstance(values, list):
            save({"table": one.table.name, "inserted": dict(zip(one.key, values, strict=True))})


def _write(live: Connection, one: Merge) -> MergedTable:
    """Rows that somebody else inserted since they were looked for stay theirs."""
    staged, columns = f"pg_temp.{one.staged} s", one.table.columns
    change = ", ".join(f"{name} = s.{name}" for name in one.table.names if name not in one.key)
    updated = 0
    if change:
        update = f"UPDATE {one.table.name} l SET {change} FROM {staged}"
        updated = _run(live, f"{update} WHERE s.vbackup_there AND {_matched(one)}").rowcount
    inserted = _run(
        live,
        f"INSERT INTO {one.table.name} ({columns}) OVERRIDING SYSTEM VALUE"
        f" SELECT {columns} FROM {staged} WHERE NOT s.vbackup_there"
        f" ON CONFLICT ({', '.join(one.key)}) DO NOTHING",
    ).rowcount
    altered = _run(
        live,
        f"SELECT count(*) FROM {staged} JOIN {one.table.name} l ON {_matched(one)}"
        f" WHERE s.vbackup_own AND NOT ({_same(one)})",
    ).fetchone()
    return MergedTable(one.table.name, inserted, updated, int(str(altered[0])) if altered else 0)


def _run(live: Connection, statement: str) -> Cursor[tuple[object, ...]]:
    """Run SQL that is made of names that the catalog quoted."""
    return live.execute(raw(statement))


def _matched(one: Merge) -> str:
    return " AND ".join(f"l.{name} = s.{name}" for name in one.key)


def _same(one: Merge) -> str:
    return " AND ".join(
        f"l.{name}::text IS NOT DISTINCT FROM s.{name}::text" for name in one.table.names
    )


def _said(error: pg.Error) -> str:
    parts = (error.diag.message_primary, error.diag.message_detail)
    return ": ".join(" ".join(part.split()) for part in parts if part) or str(error)


_COLUMNS = """
SELECT a.attname::text,
       pg_catalog.format_type(a.atttypid, a.atttypmod) || a.attgenerated::text
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
"""
_PRIMARY_KEY = """
SELECT pg_catalog.quote_ident(a.attname)
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS part(attnum, at)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = part.attnum
WHERE k.conrelid = %s AND k.contype = 'p'
ORDER BY part.at
"""
