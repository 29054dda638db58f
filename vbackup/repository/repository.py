"""The repository: `vbackup.ports.Repository` as format 1 (docs/format.md)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime

from vbackup.clock import SystemClock
from vbackup.errors import AlreadyExists, Locked, NotFound
from vbackup.model.manifest import Artifact, BackupSummary, CheckRecord, Manifest
from vbackup.ports import Clock, LeaseName, ObjectStore
from vbackup.repository import catalog, header, keys, lease, listing, sealed
from vbackup.repository import manifest as manifests
from vbackup.repository.blobs import BlobMaker
from vbackup.repository.catalog import Catalog
from vbackup.repository.chunker import ChunkerParameters, Chunkers
from vbackup.repository.codec import Compression, Seal
from vbackup.repository.header import Opened
from vbackup.repository.index import ChunkIndex
from vbackup.repository.keys import ChunkHasher, KeySlot
from vbackup.repository.lease import Claim, Lease
from vbackup.repository.reader import ChunkReader
from vbackup.repository.reading import Readings
from vbackup.repository.uploader import PackUploader
from vbackup.repository.writer import Writer, WriterParts


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """Sizes in bytes, times in seconds. `chunk_size` counts when the repository is created: the
    average for streams of long records; others are cut finer."""

    chunk_size: int = 128 * 1024
    blob_size: int = 256 * 1024
    pack_size: int = 16 * 1024**2
    compression_level: int = 1
    upload_jobs: int = 4
    lease_ttl: float = lease.TTL


class Repository:
    """One opened repository. Thread-safe. Made by `create` and `open`."""

    def __init__(
        self, store: ObjectStore, opened: Opened, options: RepositoryOptions, clock: Clock
    ) -> None:
        self.store = store
        self.options = options
        self.clock = clock
        self._opened = opened
        self._seal = opened.keys.seal(encrypted=opened.header.encrypted)
        self._hasher = opened.keys.hasher()
        self.blobs = BlobMaker(
            self._seal, Compression(options.compression_level), options.blob_size
        )
        self._lock = threading.RLock()
        self._index: ChunkIndex | None = None
        self._leases: dict[str, Lease] = {}
        self._readings = Readings(store, self._seal, clock, options.lease_ttl)
        self._reader = ChunkReader(store, self._seal, self._hasher, self.index, self.refresh)

    @classmethod
    def create(
        cls,
        store: ObjectStore,
        *,
        passphrase: str | None,
        options: RepositoryOptions | None = None,
        clock: Clock | None = None,
    ) -> Repository:
        """A new repository, encrypted unless the passphrase is None. Raises AlreadyExists."""
        options, clock = options or RepositoryOptions(), clock or SystemClock()
        chunker = ChunkerParameters.for_average(options.chunk_size)
        return cls(store, header.create(store, passphrase, chunker, clock.now()), options, clock)

    @classmethod
    def open(
        cls,
        store: ObjectStore,
        *,
        passphrase: str | None,
        options: RepositoryOptions | None = None,
        clock: Clock | None = None,
    ) -> Repository:
        """An existing repository. Raises NotFound, Denied (wrong passphrase), Refused (a newer
        format; a passphrase for a repository without encryption), Damaged."""
        opened = header.load(store, passphrase)
        return cls(store, opened, options or RepositoryOptions(), clock or SystemClock())

    # ------------------------------------------------------------ what it is

    @property
    def id(self) -> str:
        """Random, fixed at creation, 32 hex digits."""
        return self._opened.header.id

    @property
    def encrypted(self) -> bool:
        """Whether its content is unreadable without a passphrase."""
        return self._opened.header.encrypted

    @property
    def seal(self) -> Seal:
        """For the rooms' own modules (prune, check)."""
        return self._seal

    @property
    def hasher(self) -> ChunkHasher:
        """For the rooms' own modules (prune, check)."""
        return self._hasher

    @property
    def reader(self) -> ChunkReader:
        """Chunks by id."""
        return self._reader

    def index(self) -> ChunkIndex:
        """The index, loaded when it is first needed."""
        with self._lock:
            if self._index is None:
                self._index = catalog.load_index(self.store, self._seal).index
            return self._index

    def refresh(self) -> None:
        """Load the index anew, stray packs included."""
        self.load_catalog()

    def load_catalog(self, *, writing: bool = False) -> Catalog:
        """Everything that is stored, freshly listed; becomes the index in use."""
        load = catalog.load_for_writing if writing else catalog.load
        loaded = load(self.store, self._seal)
        with self._lock:
            self._index = loaded.index
        return loaded

    # ------------------------------------------------------------ writing

    def begin(self, backup_id: str) -> Writer:
        """See `ports.Repository.begin`. Takes the writer lease unless this object holds it.

        Raises Locked, AlreadyExists, Usage (not an id)."""
        manifests.check_id(backup_id)
        held, release = self._writer_lease()
        try:
            if self.store.stat(manifests.manifest_key(backup_id)) is not None:
                raise AlreadyExists(f"backup {backup_id} exists already", hint="vbackup list")
            return Writer(backup_id, self._parts(held, release))
        except BaseException:
            release()
            raise

    def _parts(self, held: Lease, release: Callable[[], None]) -> WriterParts:
        loaded = self.load_catalog(writing=True)
        uploader = self.uploader(loaded.index)
        # A killed backup's packs: what it uploaded is not uploaded again.
        uploader.adopt([pack for pack in loaded.strays if pack[0] not in loaded.doomed])
        return WriterParts(
            store=self.store,
            seal=self._seal,
            hasher=self._hasher,
            chunkers=self._chunkers(),
            blobs=self.blobs,
            index=loaded.index,
            uploader=uploader,
            lease=held,
            release=release,
            clock=self.clock,
        )

    def uploader(self, index: ChunkIndex) -> PackUploader:
        """A new pool that packs, uploads and indexes sealed chunks; `close` it."""
        size, jobs = self.options.pack_size, self.options.upload_jobs
        return PackUploader(self.store, self._seal, index, pack_size=size, jobs=jobs)

    def _chunkers(self) -> Chunkers:
        """Cuts as the newest backup was cut, so that what it stored is found again."""
        newest = listing.newest(self.store, self._seal)
        before = {one.name: one.average for one in newest.artifacts()} if newest else {}
        return Chunkers(self._opened.header.chunker.average, self._opened.keys.seed, before)

    def _writer_lease(self) -> tuple[Lease, Callable[[], None]]:
        with self._lock:
            held = self._leases.get("writer")
        if held is not None:
            return held, lambda: None
        taken = lease.acquire(self.store, self.clock, "writer", ttl=self.options.lease_ttl)
        return taken, taken.release

    @contextmanager
    def lease(self, name: LeaseName) -> Iterator[None]:
        """See `ports.Repository.lease`."""
        taken = lease.acquire(self.store, self.clock, name, ttl=self.options.lease_ttl)
        with self._lock:
            self._leases[name] = taken
        try:
            yield
        finally:
            with self._lock:
                self._leases.pop(name, None)
            taken.release()

    def confirm(self, name: LeaseName) -> None:
        """Raises Locked unless this object holds the lease at this moment."""
        self.moment(name)

    def moment(self, name: LeaseName) -> datetime:
        """What time it is by the store's own clock, while this object holds the lease."""
        with self._lock:
            held = self._leases.get(name)
        if held is None:
            raise Locked(f"the {name} lease is not held", hint="run again")
        return held.moment()

    def holders(self, name: str = "") -> list[Claim]:
        """Who holds the leases: to be shown before `unlock`."""
        return lease.claims(self.store, lease.store_time(self.store, self.clock), name)

    def unlock(self, claim: Claim) -> None:
        """Remove one claim; its holder stops before it publishes or deletes anything."""
        self.store.delete([claim.key])

    # ------------------------------------------------------------ reading

    def reading(self, backup_id: str) -> AbstractContextManager[str]:
        """See `ports.Repository.reading`. Raises also Usage (not an id)."""
        return self._readings.hold(manifests.check_id(backup_id))

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """See `ports.Repository.read`."""
        return self._reader.read(artifact)

    def read_range(self, artifact: Artifact, start: int, length: int) -> Iterator[bytes]:
        """A part of an artifact, without reading the rest. Raises Damaged."""
        return self._reader.read_range(artifact, start, length)

    def load(self, backup_id: str) -> Manifest:
        """See `ports.Repository.load`."""
        held = self._readings.manifest(backup_id)
        return held or listing.load(self.store, self._seal, backup_id)

    def backups(self) -> list[BackupSummary]:
        """See `ports.Repository.backups`. `bytes_unique` is what the backup uploaded."""
        return listing.summaries(self.store, self._seal)

    def resolve(self, wanted: str, *, at: datetime | None = None) -> str:
        """See `ports.Repository.resolve`."""
        return listing.resolve(self.backups(), wanted, at)

    # ------------------------------------------------------------ beside a backup

    def record(self, backup_id: str, check: CheckRecord) -> None:
        """Store what a verification found. Raises NotFound, Usage."""
        self._exists(backup_id)
        key = manifests.check_key(backup_id, check)
        self.store.put(key, manifests.encode_check(self._seal, key, check))

    def pin(self, backup_id: str) -> None:
        """Keep the backup whatever the retention policy says. Raises NotFound."""
        self._exists(backup_id)
        key = manifests.pin_key(backup_id)
        self.store.put(key, sealed.encode(self._seal, sealed.PIN, key, b""))

    def unpin(self, backup_id: str) -> None:
        """Undo `pin`. Raises NotFound."""
        self._exists(backup_id)
        self.store.delete([manifests.pin_key(backup_id)])

    def _exists(self, backup_id: str) -> None:
        key = manifests.manifest_key(manifests.check_id(backup_id))
        if self.store.stat(key) is None:
            raise NotFound(f"no backup {backup_id}", hint="vbackup list")

    # ------------------------------------------------------------ passphrases

    def slots(self) -> tuple[KeySlot, ...]:
        """The key slots; the one that opened this repository has the id `opened_by`."""
        return self._opened.header.slots

    @property
    def opened_by(self) -> str:
        """The id of the slot whose passphrase was used; empty without encryption."""
        return self._opened.slot

    def add_passphrase(self, passphrase: str, label: str = "") -> KeySlot:
        """One more passphrase that opens everything. Raises Refused without encryption."""
        slot = keys.wrap(self._opened.keys, passphrase, label, self.clock.now())
        self._change_slots(lambda slots: (*slots, slot))
        return slot

    def remove_passphrase(self, slot: str) -> None:
        """Raises NotFound; Refused for the last one."""
        self._change_slots(lambda slots: keys.without(slots, slot))

    def _change_slots(self, change: Callable[[tuple[KeySlot, ...]], tuple[KeySlot, ...]]) -> None:
        with self.lease("keys"), self._lock:
            self._opened = header.change_slots(self.store, self._opened, change)
