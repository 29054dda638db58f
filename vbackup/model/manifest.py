"""The manifest: the one object that makes a backup exist. Format in docs/format.md.

Everything a restore needs is here, links included, so that a pair can be restored and
reconciled on an empty machine with nothing but the bucket and the passphrase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from vbackup.model.link import Link

Exactness = Literal["exact", "best-effort", "unlinked"]
Strategy = Literal["capture", "fence", "lock"]
JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One stored stream. `root` are the ids of the chunks that hold its recipe (the list of its
    content chunks, docs/format.md), `average` is the size of chunk it was cut with, in bytes:
    only the repository looks at these. `blake3` is that of the stream as it came in: what every
    read is checked against, whatever storing made of it. `sha256` is there where the stream's
    receiver wants one: a shard snapshot's, for Qdrant."""

    name: str
    length: int
    sha256: str = ""
    root: tuple[str, ...] = ()
    depth: int = 0
    average: int = 0
    blake3: str = ""


@dataclass(frozen=True, slots=True)
class WatermarkRecord:
    """The instant at which a backup is true, and how it was found."""

    strategy: Strategy
    snapshot: str
    lsn: str
    at: datetime
    writers_paused_ms: int = 0
    exactness: Exactness = "exact"
    base: str = ""
    lead_in_seconds: float = 0.0
    candidates: int = 1
    lost: int = 0
    timeline: int = 0
    restore_point: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extension:
    name: str
    version: str
    schema: str


@dataclass(frozen=True, slots=True)
class DumpArtifact:
    """A pg_dump archive: `main` holds everything but the data of the large tables, each of
    which has a `table` archive of its own; `globals` is plain SQL (roles, tablespaces)."""

    kind: Literal["main", "table", "globals"]
    artifact: Artifact
    table: str = ""
    rows_estimate: int = 0


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a restore must know of the database; versions as PostgreSQL prints them."""

    database: str
    server_version: str
    server_version_num: int
    system_identifier: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str = "c"
    locale: str = ""
    owner: str = ""
    size_bytes: int = 0
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class PostgresPart:
    facts: DatabaseFacts
    client_version: str
    dumps: tuple[DumpArtifact, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class ShardPart:
    """One shard snapshot (a tar as Qdrant streams it)."""

    id: int
    key: str | int | None
    artifact: Artifact
    requested_at: datetime
    cut_at: datetime
    node: str = ""
    points: int | None = None


@dataclass(frozen=True, slots=True)
class CollectionPart:
    """One collection. `config` and `payload_schema` are Qdrant's own JSON of
    `GET /collections/{name}`; `custom_sharding` tells whether shard keys are in use."""

    name: str
    config: JsonObject
    payload_schema: JsonObject
    aliases: tuple[str, ...]
    shards: tuple[ShardPart, ...]
    points: int
    bytes: int
    custom_sharding: bool = False


@dataclass(frozen=True, slots=True)
class QdrantPart:
    server_version: str
    nodes: int
    collections: tuple[CollectionPart, ...]


@dataclass(frozen=True, slots=True)
class PatchPart:
    """What turns the shard snapshots into the state at the watermark (docs/format.md)."""

    artifact: Artifact | None = None
    upserts: int = 0
    deletes: int = 0
    reembed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rows_digest: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowListing:
    """Every (key, version, live, ...) of a link at the watermark (docs/format.md)."""

    link: str
    artifact: Artifact
    rows: int


@dataclass(frozen=True, slots=True)
class Statistics:
    bytes_read: int = 0
    bytes_uploaded: int = 0
    chunks_new: int = 0
    chunks_reused: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Manifest:
    id: str
    created_at: datetime
    vbackup_version: str
    host: str
    watermark: WatermarkRecord
    postgres: PostgresPart
    qdrant: QdrantPart | None
    links: tuple[Link, ...]
    patch: PatchPart
    statistics: Statistics
    tags: dict[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    rows: tuple[RowListing, ...] = ()
    redis: Artifact | None = None
    version: int = 1

    def artifacts(self) -> list[Artifact]:
        """Every stored stream of this backup, in restore order."""
        found = [dump.artifact for dump in self.postgres.dumps]
        if self.qdrant:
            found += [s.artifact for c in self.qdrant.collections for s in c.shards]
        found += [listing.artifact for listing in self.rows]
        found += [a for a in (self.patch.artifact, self.redis) if a]
        return found


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """What a verification found, stored beside the manifest."""

    level: str
    at: datetime
    ok: bool
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """One line of `vbackup list`: `at` is when the backup began, `watermark_at` the instant that it
    restores to. `unreadable` says why the manifest could not be read;
    until `locked_until` nobody can remove it from the store (Object Lock)."""

    id: str
    at: datetime
    tags: dict[str, str]
    pinned: bool
    encrypted: bool
    bytes_logical: int
    bytes_unique: int
    verified: CheckRecord | None = None
    unreadable: str = ""
    locked_until: datetime | None = None
    watermark_at: datetime | None = None
