"""Snapshots held open: views for a reconcile, and candidate watermarks with their locks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from vbackup.errors import Failed, Usage
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link, RowSource
from vbackup.ports import DumpStream
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection, beside, one
from vbackup.postgres.failures import translated
from vbackup.postgres.feeds import ChangeFeed, Planner
from vbackup.postgres.row_plan import RowPlan, plan

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# In this order: the name first, so that what the others say comes right after the snapshot.
_STATE = """
SELECT pg_catalog.pg_export_snapshot(), pg_catalog.clock_timestamp(),
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_lsn() END::text
"""
# The timeline: the first eight hexadecimal digits of a segment's name; a standby does not say.
# And the process that holds the locks: behind a connection pool only the server knows it.
_HOLDER = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE
    ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int
END, pg_catalog.pg_backend_pid()
"""
_WAITERS = """
SELECT pg_catalog.format('%%s (pid %%s): %%s', usename, pid, pg_catalog.left(query, 200))
FROM pg_catalog.pg_stat_activity
WHERE %s = ANY (pg_catalog.pg_blocking_pids(pid))
"""
# What one transaction has locked, and how many locks the server can keep (the manual,
# max_locks_per_transaction). The table is every session's: when it is full, nobody's query runs.
_LOCKS = """
SELECT (SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'relation' AND pid = %s),
       pg_catalog.current_setting('max_locks_per_transaction')::bigint
       * (pg_catalog.current_setting('max_connections')::bigint
          + pg_catalog.current_setting('max_prepared_transactions')::bigint)
"""
_LOCK_SHARE = 4
"""All candidates together take at most this part of the lock table."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A snapshot's exported name, the server's clock and the write-ahead log's position."""

    name: str
    at: datetime
    lsn: str


def export(connection: Connection) -> Exported:
    """Export the snapshot of the open transaction; as its first query, this also takes it."""
    name, at, lsn = one(connection, _STATE)
    if not isinstance(at, datetime):
        raise Failed("PostgreSQL did not say what time it is")
    return Exported(str(name), at, str(lsn))


class SnapshotView:
    """One exported snapshot, held by a session of its own; a RowView.

    Thread-safe: a read that comes while another is under way gets a session that imports the
    snapshot, so that two streams can be merged.
    """

    def __init__(
        self,
        connection: Connection,
        exported: Exported,
        *,
        row_identity: bool = False,
        feed: ChangeFeed | None = None,
    ) -> None:
        """Take over a session and its open transaction."""
        self._feed = feed or ChangeFeed()
        self._connection = connection
        self._exported = exported
        self._row_identity = row_identity
        self._busy = threading.Lock()
        self._plans: dict[RowSource, RowPlan] = {}

    @property
    def snapshot(self) -> str:
        """The exported name, for `pg_dump --snapshot`."""
        return self._exported.name

    @property
    def lsn(self) -> str:
        """The write-ahead log's position; on a standby, what was replayed."""
        return self._exported.lsn

    @property
    def at(self) -> datetime:
        """The server's clock, UTC."""
        return self._exported.at

    def rows(self, link: Link) -> Iterator[RowBlock]:
        """Every row of the link, in blocks. Raises Usage for SQL that the server rejects,
        NotFound, Denied, Refused (row security), Unreachable."""
        doing = f"reading the rows of link {link.name}"
        with translated(doing, configured=True), self._session() as connection:
            for source in link.rows:
                planned = self._plan(connection, source)
                yield from rows.stream(connection, planned, planned.select())

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        """The rows with these canonical keys; absent ones are left out."""
        found: list[RowBlock] = []
        doing = f"looking up rows of link {link.name}"
        with translated(doing, configured=True), self._session() as connection:
            for source in link.rows:
                planned = self._plan(connection, source)
                found += rows.looked_up(connection, planned, keys)
        return rows.joined(found)

    def changed(self, link: Link, base: str) -> Iterator[RowBlock]:
        """Rows changed since the base, as this snapshot sees them, as far as the feed knows."""
        doing = f"reading changed rows of link {link.name}"
        with translated(doing, configured=True), self._session() as connection:
            yield from self._feed.rows(connection, link, base, self._planner(connection))

    def resolve(self, links: Sequence[Link]) -> None:
        """Look at every link's tables and expressions, so that a mistake shows before the work.

        Raises Usage also for a query without the version that its link is said to compare: what
        is called exact would compare nothing."""
        for link in links:
            doing = f"reading link {link.name}"
            with translated(doing, configured=True), self._session() as connection:
                for source in link.rows:
                    planned = self._plan(connection, source)
                    if link.keyed and planned.version is None:
                        raise _unversioned(link)

    def close(self) -> None:
        """End the transaction and the session; also the snapshot's life."""
        self._connection.close()

    def _planner(self, connection: Connection) -> Planner:
        return lambda source: self._plan(connection, source)

    def _plan(self, connection: Connection, source: RowSource) -> RowPlan:
        if source not in self._plans:
            self._plans[source] = plan(connection, source, row_identity=self._row_identity)
        return self._plans[source]

    @contextmanager
    def reading(self, doing: str) -> Iterator[Connection]:
        """A session that sees this snapshot, for one read; errors come out translated."""
        with translated(doing, configured=True), self._session() as connection:
            yield connection

    @contextmanager
    def _session(self) -> Iterator[Connection]:
        """The snapshot's own session when it is free, else one that imports the snapshot.

        The own session comes first because it holds its tables' locks: another would queue
        behind a schema change that in turn waits for those locks.
        """
        if self._busy.acquire(blocking=False):
            try:
                with _savepoint(self._connection):
                    yield self._connection
            finally:
                self._busy.release()
            return
        with self.imported() as connection:
            yield connection

    @contextmanager
    def imported(self) -> Iterator[Connection]:
        """A further session that sees exactly this snapshot."""
        connection = beside(self._connection)
        try:
            connection.execute(BEGIN)
            connection.execute(
                sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self.snapshot))
            )
            yield connection
        finally:
            connection.close()


def _unversioned(link: Link) -> Usage:
    return Usage(
        f"link {link.name}: its points say a version, and a query of its rows yields no column"
        " version",
        hint="select one in every sql of this link, or leave out point.version",
    )


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    """Keep the transaction, and with it the snapshot, alive through a failed statement or a
    stream that is given up half way (psycopg cancels its COPY)."""
    connection.execute("SAVEPOINT vbackup")
    try:
        yield
    except BaseException:
        if not connection.closed and not connection.broken:
            connection.execute("ROLLBACK TO SAVEPOINT vbackup")
        raise
    connection.execute("RELEASE SAVEPOINT vbackup")


class Candidate(SnapshotView):
    """A candidate watermark: a snapshot whose tables were locked before it was taken."""

    def __init__(
        self,
        connection: Connection,
        exported: Exported,
        dumps: Callable[[Connection, str], Sequence[DumpStream]],
        *,
        row_identity: bool = False,
        feed: ChangeFeed | None = None,
    ) -> None:
        super().__init__(connection, exported, row_identity=row_identity, feed=feed)
        self._dumps = dumps
        timeline, holder = one(connection, _HOLDER)
        self._timeline = int(str(timeline))
        self._holder = int(str(holder))

    @property
    def timeline(self) -> int:
        """The write-ahead log's timeline, which every promotion of a standby changes."""
        return self._timeline

    def room(self) -> int:
        """How many candidates may be open at once, for the locks that this one holds."""
        with translated("counting locks"), self._session() as connection:
            held, capacity = (int(str(n)) for n in one(connection, _LOCKS, (self._holder,)))
        return max(1, capacity // _LOCK_SHARE // max(1, held))

    def waiters(self) -> list[str]:
        """Who waits for the locks of this watermark: schema changes, and those behind them. A
        dump cannot begin on a table that somebody waits for."""
        with translated("looking for waiting sessions"), self._session() as connection:
            # Within a transaction, pg_stat_activity stays as it was first looked at.
            connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
            rows = connection.execute(_WAITERS, (self._holder,))
            return [str(who) for (who,) in rows]

    def dumps(self) -> Sequence[DumpStream]:
        """What to dump under this snapshot; the streams may be read in parallel."""
        with translated("planning the dump"), self._session() as connection:
            return self._dumps(connection, self.snapshot)
