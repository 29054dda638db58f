"""A row fence: a few rows held still with FOR SHARE, for a moment, without ever waiting for anyone.

Rows that somebody is writing are skipped (SKIP LOCKED), so this transaction waits for no row while
it holds others: it can be no part of a deadlock. The server itself ends it when its time is up,
also when this process hangs or dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors as pg
from psycopg import sql

from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link, RowSource
from vbackup.ports import Clock
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection
from vbackup.postgres.failures import translated
from vbackup.postgres.row_plan import RowPlan

# A table's own lock is waited for while rows of another may be held: shorter than PostgreSQL's
# deadlock_timeout, so that a schema change is never the one that is broken off.
_TABLE_LOCK_MS = 200
_TRANSACTION_TIMEOUT_SINCE = 170000
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_SKIPPING = sql.SQL(" FOR SHARE SKIP LOCKED")


class RowHold:
    """One open transaction and the rows that it holds; see ports.RowHold."""

    def __init__(
        self,
        connection: Connection,
        plan: Callable[[RowSource], RowPlan],
        clock: Clock,
        seconds: float,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._until = clock.monotonic() + seconds
        self._planner = plan
        self._plans: dict[RowSource, RowPlan] = {}

    def take(self, link: Link, keys: Sequence[str]) -> RowBlock:
        """See ports.RowHold. Rows of queries, views and foreign tables cannot be held."""
        left = self._until - self._clock.monotonic()
        with translated(f"holding rows of link {link.name}", configured=True):
            _bound(self._connection, max(1, round(left * 1000)))
            return rows.joined([b for source in link.rows for b in self._held(source, keys)])

    def _held(self, source: RowSource, keys: Sequence[str]) -> list[RowBlock]:
        try:
            with self._connection.transaction():
                plan = self._plan(source)
                condition = plan.having(keys)
                if condition is None or not (plan.lockable and plan.feeds):
                    return []
                query = plan.select(condition) + _SKIPPING
                return list(rows.stream(self._connection, plan, query))
        except pg.LockNotAvailable:
            # A schema change has the table.
            return []

    def _plan(self, source: RowSource) -> RowPlan:
        if source not in self._plans:
            self._plans[source] = self._planner(source)
        return self._plans[source]


@contextmanager
def holding(
    connection: Connection,
    plan: Callable[[RowSource], RowPlan],
    clock: Clock,
    seconds: float,
) -> Iterator[RowHold]:
    """The transaction, ended after `seconds` by the server, or at the end of the block."""
    with translated("holding rows"):
        connection.execute(_BEGIN)
    try:
        yield RowHold(connection, plan, clock, seconds)
    finally:
        # The server may have ended it already, and the session with it.
        with suppress(psycopg.Error):
            connection.rollback()


def _bound(connection: Connection, milliseconds: int) -> None:
    """From now on the server ends the transaction after so long, whether it works or idles."""
    limits = {
        "lock_timeout": min(_TABLE_LOCK_MS, milliseconds),
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }
    if connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        limits["transaction_timeout"] = milliseconds
    query = sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, true)").format(name, str(value))
        for name, value in limits.items()
    )
    connection.execute(sql.SQL("SELECT {}").format(query))
