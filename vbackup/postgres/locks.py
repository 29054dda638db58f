"""Table locks: ACCESS SHARE before a watermark's snapshot, SHARE for the `lock` strategy.

A snapshot alone does not protect a dump. TRUNCATE, CLUSTER, VACUUM FULL and rewriting ALTER TABLE
replace a table's file, and older snapshots then read an empty table. So every table that will be
dumped is locked first; LOCK TABLE does not take the snapshot of a REPEATABLE READ transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import LiteralString

from psycopg import errors as pg
from psycopg import sql

from vbackup.errors import Denied, Failed
from vbackup.postgres.connection import LOCK_TIMEOUT_MS, Connection, set_lock_timeout
from vbackup.postgres.row_plan import RowPlan
from vbackup.postgres.snapshot import BEGIN, Exported, export

# Each attempt waits shortly: while it waits it already holds other tables, and a schema change
# that queues for one of those makes that table's writers queue as well.
ATTEMPT_MS = 500
_ATTEMPTS_PER_SECOND = 1000 // ATTEMPT_MS

# Tables whose data pg_dump reads: no system schema, no other session's temporary table, and of an
# extension's tables only those that it marks as configuration.
DUMPED: LiteralString = """
SELECT c.oid::bigint, pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
      AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
      AND NOT c.oid = ANY (coalesce(e.extconfig, '{}')))
ORDER BY c.oid
"""


def begin_locked(connection: Connection, timeout: float) -> Exported:
    """Begin the watermark's transaction with every table that is dumped locked ACCESS SHARE, and
    its snapshot taken and exported after that.

    Tries for about `timeout` seconds. Raises Failed (retryable) when a lock could not be had, or
    psycopg's errors.
    """
    attempts = max(1, round(timeout * _ATTEMPTS_PER_SECOND))
    set_lock_timeout(connection, ATTEMPT_MS)
    blocked = ""
    for _ in range(attempts):
        try:
            if exported := _locked_all(connection):
                set_lock_timeout(connection, LOCK_TIMEOUT_MS)
                return exported
            blocked = "tables are being created"
        except (pg.LockNotAvailable, pg.UndefinedTable, pg.InvalidSchemaName) as error:
            blocked = error.diag.message_primary or "a table is locked"
        except pg.DeadlockDetected as error:
            blocked = error.diag.message_primary or "deadlock"
        connection.rollback()
    raise Failed(
        f"the tables could not be locked for a snapshot: {blocked}",
        hint="a schema change is under way; try again when it is done",
        retryable=True,
    )


def _locked_all(connection: Connection) -> Exported | None:
    """Lock and export; None when the snapshot holds a table that was not there to lock."""
    tables = connection.execute(DUMPED).fetchall()
    connection.execute(BEGIN)
    if tables:
        names = [f"ONLY {name}" for _, name in tables]
        _lock(connection, names, "ACCESS SHARE")
    exported = export(connection)
    seen = connection.execute(DUMPED).fetchall()
    return exported if {oid for oid, _ in seen} <= {oid for oid, _ in tables} else None


def lock_share(connection: Connection, tables: Iterable[str], timeout: float) -> bool:
    """Begin a transaction that keeps writers off the tables; False when that took too long.

    Raises Denied: SHARE mode takes more than SELECT.
    """
    set_lock_timeout(connection, max(1, round(timeout * 1000)))
    connection.execute("BEGIN")
    try:
        _lock(connection, sorted(tables), "SHARE")
    except (pg.LockNotAvailable, pg.DeadlockDetected):
        connection.rollback()
        return False
    except pg.InsufficientPrivilege as error:
        raise Denied(
            f"locking the linked tables: {error.diag.message_primary}",
            hint="grant UPDATE on them to the backup role, or use the strategy capture",
        ) from error
    return True


def _lock(connection: Connection, names: Sequence[str], mode: str) -> None:
    if names:
        listed = ", ".join(names)
        connection.execute(sql.Composed([sql.SQL(f"LOCK TABLE {listed} IN {mode} MODE")]))


def read_tables(connection: Connection, plan: RowPlan) -> set[str]:
    """Names, ready for SQL, of the tables and views that a row source reads.

    A query is made a temporary view, which depends on all that it names; also on what the
    planner would leave out because it holds no row now. Where temporary tables are not allowed,
    the query's plan has to do.
    """
    if plan.lockable:
        return {plan.lockable}
    view = sql.SQL("CREATE TEMPORARY VIEW vbackup_reads AS {}").format(plan.select())
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(view)
            return {str(name) for (name,) in connection.execute(_READ_BY_VIEW)}
    except pg.InsufficientPrivilege:
        explain = sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) {}").format(plan.select())
        row = connection.execute(explain).fetchone()
        return set(_relations(row[0] if row else None))


_READ_BY_VIEW = """
SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_rewrite r
JOIN pg_catalog.pg_depend d
  ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
JOIN pg_catalog.pg_class c ON c.oid = d.refobjid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE r.ev_class = 'pg_temp.vbackup_reads'::pg_catalog.regclass AND c.oid <> r.ev_class
  AND c.relkind IN ('r', 'p', 'v') AND n.nspname !~ '^pg_'
"""


def _relations(node: object) -> Iterator[str]:
    """The tables in a query's plan."""
    if isinstance(node, list):
        for item in node:
            yield from _relations(item)
    elif isinstance(node, dict):
        name, schema = node.get("Relation Name"), node.get("Schema")
        if isinstance(name, str) and isinstance(schema, str) and not schema.startswith("pg_"):
            yield f"{quoted(schema)}.{quoted(name)}"
        for value in node.values():
            yield from _relations(value)


def quoted(name: str) -> str:
    """An identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'
