"""The seams between the engine and the world: small protocols that adapters fulfil.

The engine and the repository know these and nothing else. Every method raises
`vbackup.errors` only; drivers' own exceptions never cross.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from vbackup.model.blocks import Point, PointBlock, PointId, RowBlock
from vbackup.model.link import Link
from vbackup.model.manifest import (
    Artifact,
    BackupSummary,
    CheckRecord,
    CollectionPart,
    DatabaseFacts,
    DumpArtifact,
    JsonObject,
    Manifest,
    PostgresPart,
)

Buffer = bytes | bytearray | memoryview


# ---------------------------------------------------------------- ground floor


class Clock(Protocol):
    """Time, injected so that tests own it."""

    def now(self) -> datetime:
        """The current time, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Step(Protocol):
    """One running step of an operation."""

    def advance(self, amount: int = 1) -> None:
        """Add to what is done, in the step's unit. Thread-safe."""
        ...

    def detail(self, text: str) -> None:
        """Say what is being worked on now."""
        ...


class Reporter(Protocol):
    """Progress and notes for a person or a log; never results."""

    def step(
        self, name: str, *, total: int | None = None, unit: str = "bytes"
    ) -> AbstractContextManager[Step]:
        """A step that ends with the context; `total` may be an estimate."""
        ...

    def note(self, event: str, **fields: object) -> None: ...

    def warn(self, event: str, **fields: object) -> None:
        """A warning. It never changes the exit code."""
        ...


# ---------------------------------------------------------------- storage


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """`key` is relative to the store's prefix; `modified` is the store's own clock."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Objects by key (`/`-separated, relative to the repository's prefix), nothing else."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        """Write one whole object, atomically.

        With `if_absent`, raises AlreadyExists when the store can tell that the key is taken
        (see `conditional`). Without, an existing object is replaced.
        """
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or a range of them; fewer where the object ends earlier.

        Raises NotFound."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """Size and time of one object, or None when there is none."""
        ...

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        """All objects whose key starts with `prefix`, in key order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    @property
    def conditional(self) -> bool:
        """Whether `put(if_absent=True)` is enforced by the store (probed, not assumed)."""
        ...

    @property
    def location(self) -> str:
        """A URL for people, without secrets."""
        ...


# ---------------------------------------------------------------- repository


class BackupWriter(Protocol):
    """One backup being written. Nothing is visible until `publish`. Thread-safe."""

    @property
    def id(self) -> str: ...

    def add(self, name: str, stream: Iterable[Buffer], *, step: Step | None = None) -> Artifact:
        """Store one stream: chunked, deduplicated, packed, uploaded; several may run at once.

        `step` advances by the stream's bytes. An error raised by the stream is raised here and
        leaves nothing that could be taken for a backup."""
        ...

    def publish(self, manifest: Manifest) -> Manifest:
        """Flush packs and index, then write the manifest (create-only). Returns it with its
        statistics filled in."""
        ...

    def abort(self) -> None:
        """Give up; what was uploaded stays reusable until `prune` removes it."""
        ...


class Repository(Protocol):
    """Backups and their artifacts."""

    def begin(self, backup_id: str) -> BackupWriter: ...

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """The artifact's bytes in order; chunk ids, length and SHA-256 are verified on the way.

        Raises Damaged with artifact and byte range."""
        ...

    def load(self, backup_id: str) -> Manifest:
        """Raises NotFound, Damaged."""
        ...

    def backups(self) -> list[BackupSummary]:
        """Newest first. A manifest that cannot be read is listed with `unreadable`."""
        ...

    def resolve(self, wanted: str, *, at: datetime | None = None) -> str:
        """`latest`, an id or a unique prefix of one, or the newest at or before `at`.

        Raises NotFound."""
        ...

    def record(self, backup_id: str, check: CheckRecord) -> None: ...

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Hold one lease (`writer`, `pruner`, ...). Raises Locked with the holder."""
        ...


# ---------------------------------------------------------------- PostgreSQL


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

    def waiters(self) -> Sequence[str]:
        """Who waits for this watermark's locks: a schema change, and those behind it."""
        ...

    @property
    def at(self) -> datetime:
        """The server's clock at the snapshot."""
        ...

    def changed(self, link: Link, base: str) -> RowBlock:
        """Rows changed since the base, as this snapshot sees them. A hint of what to capture,
        except for links without a version: theirs must be a superset."""
        ...

    def dumps(self) -> Sequence[DumpStream]:
        """What to dump under this snapshot; the streams may be read in parallel."""
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

    def changed(self, links: Sequence[Link], base: str) -> tuple[dict[str, RowBlock], str]:
        """Rows changed since the base, by link name, in one short snapshot; and the next base."""
        ...

    def candidate(self, links: Sequence[Link]) -> CandidateWatermark: ...

    def view(self) -> RowView:
        """A consistent view for a reconcile."""
        ...

    def fence(self) -> AbstractContextManager[float]:
        """Hold the advisory fence exclusively: writers that take it shared wait."""
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


# ---------------------------------------------------------------- Qdrant


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard and the node that will stream it (an Active replica)."""

    collection: str
    id: int
    key: str | int | None
    node: str


@dataclass(frozen=True, slots=True)
class CollectionFacts:
    """One collection as it is now; `points` is the server's exact count."""

    name: str
    config: JsonObject
    payload_schema: JsonObject
    aliases: tuple[str, ...]
    shards: tuple[ShardRef, ...]
    points: int
    custom_sharding: bool = False


@dataclass(frozen=True, slots=True)
class PointStoreFacts:
    server_version: str
    nodes: tuple[str, ...]
    collections: tuple[CollectionFacts, ...]


@dataclass(slots=True)
class ShardSpool:
    """A shard stream arriving in a local file at full speed, on a thread of its own.

    `cut` is set when the first byte of a `segments/` member was seen (the shard no longer
    sees writes) or when the stream failed; `done` when the file is whole and its tar end was
    checked, or it failed; then `error` says so. `read` follows the growing file.
    """

    ref: ShardRef
    path: Path
    requested_at: datetime
    cut: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    cut_at: datetime | None = None
    sha256: str = ""
    length: int = 0
    error: Exception | None = None


class PointReader(Protocol):
    """Points of collections, live or out of shard snapshots."""

    def collections(self) -> Sequence[str]:
        """Names of all the collections it can read."""
        ...

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """Every point that the link's filters admit, in blocks, in no particular order."""
        ...

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """These points, as far as they exist and the link's filters admit them."""
        ...

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """All points that refer to one of these keys (by id, or by payload)."""
        ...


class PointSource(PointReader, Protocol):
    """The Qdrant deployment that is backed up."""

    def facts(self, patterns: Sequence[str]) -> PointStoreFacts:
        """Versions, nodes and the collections that match (globs; `!name` leaves one out)."""
        ...

    def spool(self, shard: ShardRef, directory: Path) -> ShardSpool:
        """Start streaming one shard snapshot into a file; returns at once."""
        ...

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        """Whole points (vectors and payload) by the key they refer to."""
        ...

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        """Whole points by id; absent ones are left out."""
        ...

    def offline(
        self, spools: Sequence[ShardSpool], directory: Path
    ) -> AbstractContextManager[PointReader]:
        """The same collections as the spooled shard snapshots hold them, read without a server."""
        ...


class PointTarget(Protocol):
    """The Qdrant deployment that collections are restored into."""

    def preflight(self, part: CollectionPart, name: str, *, existing: bool) -> list[str]:
        """Everything that would make the restore fail, found before anything is touched."""
        ...

    def create(self, part: CollectionPart, name: str) -> None:
        """Create the collection from its saved configuration. Raises AlreadyExists."""
        ...

    def recover(
        self,
        part: CollectionPart,
        name: str,
        open_artifact: Callable[[Artifact], Iterator[bytes]],
        report: Reporter,
    ) -> None:
        """Upload every shard to a node that holds it, with its checksum, and wait for it."""
        ...

    def upsert(self, name: str, points: Sequence[Point]) -> None: ...

    def delete(self, name: str, ids: Sequence[PointId]) -> None: ...

    def settle(self, name: str, *, timeout: float) -> int:
        """Wait until all replicas are Active, counts agree and the status is green; the count."""
        ...

    def exists(self, name: str) -> bool: ...

    def drop(self, name: str) -> None: ...

    def alias(self, changes: Sequence[tuple[str, str]]) -> None:
        """Point aliases (alias, collection) at collections, all in one atomic request."""
        ...

    def reader(self) -> PointSource:
        """The restored collections, to reconcile them."""
        ...


# ---------------------------------------------------------------- discovery


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column that points may refer to. `table` is spelled as in SQL, `column` exactly;
    `unique`: alone, by an index; `foreign`: it refers to another table itself."""

    table: str
    column: str
    kind: str
    """`integer`, `uuid` or `text`."""
    unique: bool = True
    foreign: bool = False
    rows_estimate: int = 0


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row by its canonical key, with the canonical texts of its short columns."""

    key: str
    columns: Mapping[str, str]


class KeyCatalog(Protocol):
    """The keys of a database whose links nobody has described yet."""

    def keys(self) -> Sequence[KeyColumn]:
        """All columns that can be looked up through an index."""
        ...

    def rows(self, key: KeyColumn, wanted: Sequence[str]) -> Sequence[SampledRow]:
        """The rows with one of these canonical keys."""
        ...

    def sample(self, key: KeyColumn, count: int) -> Sequence[SampledRow]:
        """Up to `count` rows from all over the table."""
        ...


class PointSampler(PointReader, Protocol):
    """A PointReader that can also draw points."""

    def sample(self, collection: str, count: int) -> Sequence[Point]:
        """Up to `count` points at random, without vectors."""
        ...


# ---------------------------------------------------------------- cache


class Cache(Protocol):
    """The cache beside the pair (Redis)."""

    def invalidate(self) -> int:
        """Forget what belongs to an abandoned timeline, as configured; how many keys went."""
        ...

    def dump(self) -> Iterator[bytes]:
        """The keys that a backup keeps."""
        ...

    def load(self, stream: Iterator[bytes]) -> int:
        """Write dumped keys back; how many."""
        ...
