"""The Qdrant side: a deployment that is backed up, one that is restored into."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.link import Link
from vbackup.model.manifest import Artifact, CollectionPart, JsonObject
from vbackup.ports.progress import Reporter


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


def _nothing_to_stop() -> None:
    """Of a spool that no thread fills."""


@dataclass(slots=True)
class ShardSpool:
    """A shard stream arriving in a local file at full speed, on a thread of its own.

    `cut` is set when the first byte of a `segments/` member was seen (the shard no longer
    sees writes) or when the stream failed; `done` when the file is whole and its tar end was
    checked, or it failed; then `error` says so. `stop` gives the stream up and returns at once;
    `done` is set when nothing writes to the file any more.
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
    stop: Callable[[], None] = _nothing_to_stop


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
        """Versions, nodes and the collections that match (globs; `!name` leaves one out, the globs
        in `model.names.COPIES` only those that no alias stands for)."""
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

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Write whole points; shard keys that they name and the collection lacks are made."""
        ...

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
