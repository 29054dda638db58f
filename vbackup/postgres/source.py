"""The database that is backed up: the RecordSource that the engine knows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from psycopg.errors import LockNotAvailable

from vbackup.config import PostgresConfig, WatermarkConfig
from vbackup.errors import Failed, Refused, VbackupError
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link, RowSource
from vbackup.model.manifest import DatabaseFacts
from vbackup.ports import Clock, DumpStream, Reporter
from vbackup.postgres import client_tools, dump, feeds, locks, readiness
from vbackup.postgres.connection import (
    Connection,
    connect,
    one,
    session,
    set_lock_timeout,
)
from vbackup.postgres.facts import database_facts
from vbackup.postgres.failures import translated
from vbackup.postgres.feed_costs import FeedCost, costs
from vbackup.postgres.probe import SourceProbe, probe
from vbackup.postgres.row_hold import RowHold, holding
from vbackup.postgres.row_plan import RowPlan, plan
from vbackup.postgres.slot import SlotFeed
from vbackup.postgres.snapshot import BEGIN, Candidate, SnapshotView, export
from vbackup.postgres.vector_probe import VectorProbe, vector_probes

_SLOT_PATIENCE = 2.0


class PostgresSource:
    """RecordSource over one database. Thread-safe; `close` ends the session that it keeps."""

    def __init__(
        self,
        config: PostgresConfig,
        watermark: WatermarkConfig | None = None,
        *,
        clock: Clock,
        reporter: Reporter | None = None,
        database: str | None = None,
        allow_standby: bool = False,
        row_identity: bool = False,
    ) -> None:
        """`row_identity` gives `xmin` as the version of rows whose link names none (best effort:
        it says that a row is the same, not what is in it)."""
        self._config = config
        self._watermark = watermark or WatermarkConfig()
        self._clock = clock
        self._reporter = reporter
        self._database = database
        self._allow_standby = allow_standby
        self._row_identity = row_identity
        self._feed: Connection | None = None
        self._feed_busy = threading.Lock()
        self._plans: dict[RowSource, RowPlan] = {}
        asked = self._watermark.feed
        self._changes = feeds.ChangeFeed(
            "xmin" if asked == "auto" else asked, self._watermark.max_index_lag
        )

    def facts(self) -> DatabaseFacts:
        """Version, locale, owner, extensions and size of the database."""
        with self._session() as connection:
            return database_facts(connection)

    @property
    def client_version(self) -> str:
        """Version of the pg_dump in use. Raises Refused when none fits the server."""
        with self._session() as connection:
            return self._tools(connection).version

    def change_base(self, links: Sequence[Link] = ()) -> str:
        """Where `changed` starts from: taken before anything that may be missed. With the feed
        `slot`, the first call makes the slot, and so does the first one after `stop_following`."""
        doing = "reading the oldest running transaction"
        with translated(doing, configured=bool(links)), self._feeding() as connection:
            self._open_slot()
            return self._changes.base(connection, links, self._planner(connection))

    def changed(
        self, links: Sequence[Link], base: str, *, most: int | None = None
    ) -> tuple[dict[str, RowBlock], str]:
        """Rows changed since the base, by link name, in one short snapshot; and the next base.
        Whole blocks up to `most` rows a link."""
        with translated("reading changed rows", configured=True), self._feeding() as connection:
            planner = self._planner(connection)
            return feeds.changed(connection, self._changes, links, base, planner, most)

    def stop_following(self) -> None:
        """Let go of the slot: as long as there is one, the server keeps its write-ahead log. Open
        candidates still know what changed before them."""
        with self._feed_busy:
            if self._changes.slot:
                self._changes.slot.stop()

    def candidate(self, links: Sequence[Link]) -> Candidate:
        """Open a candidate watermark. Every table that is dumped, the linked ones among them, is
        locked ACCESS SHARE before the snapshot.

        Raises Refused on a standby, Failed (retryable) when a schema change holds a table.
        """
        connection = connect(self._config, database=self._database)
        try:
            with translated("opening a snapshot"):
                self._refuse_standby(connection)
                exported = locks.begin_locked(connection, self._watermark.lock_timeout)
                found = Candidate(
                    connection,
                    exported,
                    self._dumps,
                    row_identity=self._row_identity,
                    feed=self._changes,
                )
            found.resolve(links)
            return found
        except BaseException:
            connection.close()
            raise

    def view(self) -> SnapshotView:
        """A consistent view for a reconcile."""
        connection = connect(self._config, database=self._database)
        try:
            with translated("opening a snapshot"):
                connection.execute(BEGIN)
                exported = export(connection)
                return SnapshotView(connection, exported, row_identity=self._row_identity)
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def fence(self) -> Iterator[float]:
        """Hold the advisory fence exclusively: writers that take it shared wait. Yields the
        seconds that it took to get.

        Raises Failed (retryable) when writers kept it for `watermark.lock_timeout`, or for
        `watermark.max_pause`: all that time new writers wait behind this request.
        """
        connection = connect(self._config, database=self._database)
        try:
            yield self._fenced(connection)
        finally:
            # The lock is the session's: it ends with it.
            connection.close()

    @contextmanager
    def lock(self, links: Sequence[Link], timeout: float) -> Iterator[bool]:
        """Hold the linked tables in SHARE mode: readers go on, writers wait. Yields False when
        they could not be had within `timeout` seconds."""
        connection = connect(self._config, database=self._database)
        try:
            with translated("locking the linked tables", configured=True):
                tables = self._linked(connection, links)
                held = locks.lock_share(connection, tables, timeout)
            yield held
        finally:
            connection.close()

    @contextmanager
    def hold_rows(self, seconds: float) -> Iterator[RowHold]:
        """A transaction that holds rows with FOR SHARE; see postgres.row_hold."""
        connection = connect(self._config, database=self._database)
        try:
            with holding(connection, partial(plan, connection), self._clock, seconds) as hold:
                yield hold
        finally:
            connection.close()

    def restore_point(self, name: str) -> str:
        """Mark this moment in the write-ahead log, so that a PITR system can come back to it.
        Returns its LSN. Raises Denied without EXECUTE on pg_create_restore_point, Failed where
        wal_level is minimal."""
        with translated("marking a restore point"), self._session() as connection:
            (lsn,) = one(connection, "SELECT pg_catalog.pg_create_restore_point(%s)::text", (name,))
            return str(lsn)

    def probe(self, link: Link) -> list[SourceProbe]:
        """What `check` shows of a link's row sources. Raises NotFound, Usage."""
        doing = f"looking at link {link.name}"
        with translated(doing, configured=True), self._session() as connection:
            return [probe(connection, source) for source in link.rows]

    def vector_probe(self, link: Link) -> list[VectorProbe]:
        """What `check` shows of the vectors that pgvector keeps for a link. Raises NotFound,
        Usage."""
        doing = f"looking at the vectors of link {link.name}"
        with translated(doing, configured=True), self._session() as connection:
            return vector_probes(connection, link)

    def feed_costs(self, link: Link) -> list[FeedCost]:
        """What `check` shows of the ways to find a link's changes: each is read once."""
        doing = f"measuring the change feeds of link {link.name}"
        with translated(doing, configured=True), self._session() as connection:
            return costs(
                connection,
                link,
                lambda source: plan(connection, source),
                self._watermark.max_index_lag,
                lambda: SlotFeed.open(self._config, self._database, _SLOT_PATIENCE),
            )

    def problems(self) -> list[str]:
        """What would make a backup of this database fail, one line each; for `check`."""
        with self._session() as connection:
            return readiness.problems(connection, self._config)

    def close(self) -> None:
        """End the sessions that the change feed keeps."""
        with self._feed_busy:
            if self._changes.slot:
                self._changes.slot.close()
                self._changes.slot = None
            if self._feed is not None:
                self._feed.close()
                self._feed = None

    @contextmanager
    def _session(self) -> Iterator[Connection]:
        with session(self._config, database=self._database) as connection:
            yield connection

    @contextmanager
    def _feeding(self) -> Iterator[Connection]:
        """The kept session, opened anew after any failure."""
        with self._feed_busy:
            if self._feed is None:
                self._feed = connect(self._config, database=self._database)
            try:
                yield self._feed
            except BaseException:
                self._feed.close()
                self._feed = None
                self._plans.clear()
                raise

    def _planner(self, connection: Connection) -> feeds.Planner:
        def planned(source: RowSource) -> RowPlan:
            if source not in self._plans:
                self._plans[source] = plan(connection, source, row_identity=self._row_identity)
            return self._plans[source]

        return planned

    def _open_slot(self) -> None:
        """What there is no slot for comes by xmin."""
        slot = self._changes.slot
        if self._changes.feed != "slot" or (slot and not slot.stopped):
            return
        self._changes.slot = None
        try:
            timeout = self._watermark.lock_timeout
            self._changes.slot = SlotFeed.open(self._config, self._database, timeout)
        except VbackupError as error:
            self._changes.feed = "xmin"
            self._warn(f"{error.message}: changes are found by xmin instead")

    def _tools(self, connection: Connection) -> client_tools.ClientTools:
        return client_tools.for_dump(self._config, connection.info.server_version // 10000)

    def _dumps(self, connection: Connection, snapshot: str) -> Sequence[DumpStream]:
        tools = self._tools(connection)
        streams = dump.plan_dumps(connection, snapshot, self._config, tools).streams()
        extra = dump.globals_stream(connection, self._config, tools, self._warn)
        return [*streams, extra] if extra else streams

    def _warn(self, text: str) -> None:
        if self._reporter:
            self._reporter.warn(text)

    def _refuse_standby(self, connection: Connection) -> None:
        (standby,) = one(connection, "SELECT pg_catalog.pg_is_in_recovery()")
        if standby and not self._allow_standby:
            raise Refused(
                "PostgreSQL is a standby: its rows lag behind, points would run ahead of them",
                hint="let postgres.dsn lead to the primary (target_session_attrs=read-write)",
            )

    def _linked(self, connection: Connection, links: Sequence[Link]) -> set[str]:
        return {
            name
            for link in links
            for source in link.rows
            for name in locks.read_tables(connection, plan(connection, source))
        }

    def _fenced(self, connection: Connection) -> float:
        timeout = self._watermark.lock_timeout
        if self._watermark.max_pause:
            timeout = min(timeout, self._watermark.max_pause)
        started = self._clock.monotonic()
        with translated("taking the fence"):
            set_lock_timeout(connection, max(1, round(timeout * 1000)))
            try:
                connection.execute(
                    "SELECT pg_catalog.pg_advisory_lock(%s::bigint)", (self._watermark.fence_key,)
                )
            except LockNotAvailable:
                raise Failed(
                    f"writers kept the fence for more than {timeout:g} s",
                    hint="look for a long transaction, or raise watermark.lock_timeout",
                    retryable=True,
                ) from None
        return self._clock.monotonic() - started
