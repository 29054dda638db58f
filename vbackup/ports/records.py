"""The PostgreSQL side: a database that is backed up, a server that is restored into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from vbackup.errors import Failed
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link
from vbackup.model.manifest import DatabaseFacts, DumpArtifact, PostgresPart
from vbackup.model.tenancy import KeptTable, MergedTable, TenantTable
from vbackup.ports.progress import Reporter


class NoRoom(Failed):
    """The server has no memory left for what was asked of it: a transaction's locks."""


class RowReader(Protocol):
    """One consistent view of the rows of a database."""

    def rows(self, link: Link) -> Iterator[RowBlock]:
        """Every row of the link in blocks of up to about 50,000, in no particular order."""
        ...

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        """The rows with these canonical keys; absent ones are left out."""
        ...


class RowView(RowReader, Protocol):
    """A RowReader that holds a snapshot open until it is closed."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class DumpStream:
    """One pg_dump archive to store. `open` starts the dump and yields its bytes as they come;
    a failing pg_dump raises at the end of the iteration, never a short stream."""

    kind: Literal["main", "table", "globals"]
    name: str
    open: Callable[[], Iterator[bytes]]
    table: str = ""
    rows_estimate: int = 0
    bytes_estimate: int = 0


class CandidateWatermark(RowView, Protocol):
    """An open, exported snapshot (REPEATABLE READ, READ ONLY, tables locked ACCESS SHARE before
    the export). Closing it ends the transaction; dumps must have started and ended before."""

    @property
    def snapshot(self) -> str:
        """The exported name, for `pg_dump --snapshot`."""
        ...

    @property
    def lsn(self) -> str: ...

    @property
    def timeline(self) -> int:
        """The write-ahead log's timeline; 0 when it is not known."""
        ...

    def room(self) -> int:
        """How many watermarks like this one, itself among them, may be open at once so that the
        server keeps enough of its lock table for others; at least 1."""
        ...

    def waiters(self) -> Sequence[str]:
        """Who waits for this watermark's locks: a schema change, and those behind it."""
        ...

    @property
    def at(self) -> datetime:
        """The server's clock at the snapshot."""
        ...

    def changed(self, link: Link, base: str) -> Iterator[RowBlock]:
        """Rows changed since the base, as this snapshot sees them. A hint of what to capture,
        except for links without a version: theirs must be a superset."""
        ...

    def dumps(self) -> Sequence[DumpStream]:
        """What to dump under this snapshot; the streams may be read in parallel."""
        ...


class RowHold(Protocol):
    """A short transaction that holds rows still."""

    def take(self, link: Link, keys: Sequence[str]) -> RowBlock:
        """Hold those of these rows that nobody is writing now, until the transaction ends, and
        give them as they are. Never waits for a writer. Raises what ended the transaction."""
        ...


class RecordSource(Protocol):
    """The database that is backed up."""

    def facts(self) -> DatabaseFacts: ...

    @property
    def client_version(self) -> str:
        """Version of the pg_dump in use. Raises Refused when none fits the server."""
        ...

    def change_base(self, links: Sequence[Link] = ()) -> str:
        """Where `changed` of these links starts from: taken before anything that may be missed."""
        ...

    def changed(
        self, links: Sequence[Link], base: str, *, most: int | None = None
    ) -> tuple[dict[str, RowBlock], str]:
        """Rows changed since the base, by link name, in one short snapshot; and the next base.
        About `most` rows a link when that is said: for whom they are only a hint."""
        ...

    def stop_following(self) -> None:
        """No more changes are asked for, but those that open candidates see: let go of what the
        server keeps for it. A new `change_base` begins anew."""
        ...

    def candidate(self, links: Sequence[Link]) -> CandidateWatermark:
        """Open a candidate. Raises NoRoom, and so may `changed` of it."""
        ...

    def view(self) -> RowView:
        """A consistent view for a reconcile."""
        ...

    def fence(self) -> AbstractContextManager[float]:
        """Hold the advisory fence exclusively: writers that take it shared wait."""
        ...

    def hold_rows(self, seconds: float) -> AbstractContextManager[RowHold]:
        """A transaction that holds rows; the server ends it after so many seconds, whatever
        happens to this process."""
        ...

    def restore_point(self, name: str) -> str:
        """Mark this moment in the write-ahead log; its position. Raises Denied, Failed."""
        ...

    def lock(self, links: Sequence[Link], timeout: float) -> AbstractContextManager[bool]:
        """Hold the linked tables in SHARE mode; yields False when they could not be had."""
        ...


class RecordTarget(Protocol):
    """The server that a database is restored into."""

    def preflight(self, part: PostgresPart, database: str) -> list[str]:
        """Everything that would make the restore fail, found before anything is created:
        version, extensions, privileges, a database of that name. Empty when all is well."""
        ...

    def prepare(self, part: PostgresPart, database: str) -> None:
        """Create the empty database. Raises AlreadyExists, Refused."""
        ...

    def load(
        self,
        part: PostgresPart,
        database: str,
        open_artifact: Callable[[DumpArtifact], Iterator[bytes]],
        report: Reporter,
    ) -> list[str]:
        """Restore schema, data, then indexes and constraints. Returns warnings (owners and
        privileges that this server has no roles for). Raises Failed on anything else."""
        ...

    def analyze(self, database: str, report: Reporter) -> None:
        """Gather the statistics of a database that was loaded. Raises Failed."""
        ...

    def narrow(
        self, database: str, tables: Sequence[TenantTable], tenant: str
    ) -> tuple[list[KeptTable], list[str]]:
        """Remove every row of a restored database that is not the tenant's, nor belongs to or is
        needed by one that is; what was kept, and warnings.

        Raises NotFound for no such table and for no row of the tenant, Refused, Usage."""
        ...

    def merge(
        self,
        database: str,
        tables: Sequence[TenantTable],
        tenant: str,
        save: Callable[[Mapping[str, object]], None],
        saved: Callable[[], None],
    ) -> list[MergedTable]:
        """Bring the rows of a narrowed database back into the live one, in one transaction.
        `save` gets what is overwritten and the keys of what is inserted; nothing is changed
        before `saved` has returned.

        Raises Refused (nothing was changed) when the live database does not take them."""
        ...

    def drop(self, database: str) -> None: ...

    def swap(self, live: str, restored: str, keep_as: str) -> None:
        """Rename live to keep_as and restored to live, both or neither; a live database that is
        gone is not missed. Raises Refused while sessions remain."""
        ...

    def rename(self, database: str, new: str) -> None:
        """Raises NotFound, AlreadyExists, Refused while sessions remain."""
        ...

    def reopen(self, database: str) -> None:
        """Let sessions in again after a crash in the middle of `swap`."""
        ...

    def exists(self, database: str) -> bool: ...

    def source(self, database: str) -> RecordSource:
        """The restored database, to reconcile it."""
        ...
