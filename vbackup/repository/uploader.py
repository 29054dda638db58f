"""From sealed chunks to stored packs and index objects: one bounded upload pool."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from vbackup.errors import Failed
from vbackup.ports import ObjectStore
from vbackup.repository import index as index_objects
from vbackup.repository.blobs import Blob
from vbackup.repository.codec import Seal
from vbackup.repository.index import ChunkIndex, PackEntries
from vbackup.repository.packs import MAX_ENTRIES, Entries, PackBuilder, pack_key

MANY = MAX_ENTRIES // 2
"""Chunks that fill a pack whatever its size: the next blob may bring many more."""

LANES = 3
"""Packs that are filled at a time, each by one stream; more streams than these share them."""

PACKS_AN_INDEX = 64
"""An index object is written this often, so that a killed backup leaves little to rediscover."""


Append = Callable[[Sequence[Blob]], None]
"""Puts a stream's sealed blobs into its pack, next to each other as far as it has room. Blocks
while the pool is behind."""


@dataclass(slots=True, eq=False)
class _Lane:
    """A pack that is being filled, and the number of streams that do so."""

    pack: PackBuilder = field(default_factory=PackBuilder)
    streams: int = 0

    def take(self) -> PackBuilder:
        """The pack as it is; another one is begun."""
        taken, self.pack = self.pack, PackBuilder()
        return taken


class PackUploader:
    """Fills packs, each stream a `lane` of them, and uploads them; thread-safe.

    The first failure is kept and raised by every later call: a backup with a pack missing must
    not come to be. `packs` are the packs uploaded so far; `stored` is told of their chunks.
    """

    def __init__(
        self, store: ObjectStore, seal: Seal, index: ChunkIndex, *, pack_size: int, jobs: int
    ) -> None:
        self.stored: Callable[[Entries], None] = lambda _: None
        self.packs: set[bytes] = set()
        self._store = store
        self._seal = seal
        self._index = index
        self._pack_size = pack_size
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="vbackup-upload")
        self._slots = threading.BoundedSemaphore(jobs)
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        self._uploads: set[Future[None]] = set()
        self._unindexed: list[PackEntries] = []
        self._uploaded_bytes = 0
        self._failure: BaseException | None = None

    @property
    def bytes_uploaded(self) -> int:
        """Bytes of packs and index objects that the store has acknowledged."""
        return self._uploaded_bytes

    def adopt(self, packs: list[PackEntries]) -> None:
        """Packs of an earlier, killed run: the next index object names them too."""
        with self._lock:
            self._unindexed += packs

    @contextmanager
    def lane(self) -> Iterator[Append]:
        """Where a stream's blobs go: what is read together lies together. The pack that it leaves
        half full is gone on with by a later stream."""
        with self._lock:
            if len(self._lanes) < LANES and all(lane.streams for lane in self._lanes):
                self._lanes.append(_Lane())
            lane = min(self._lanes, key=lambda lane: lane.streams)
            lane.streams += 1
        try:
            yield partial(self._append, lane)
        finally:
            with self._lock:
                lane.streams -= 1

    def _append(self, lane: _Lane, blobs: Sequence[Blob]) -> None:
        self.check()
        full: list[PackBuilder] = []
        with self._lock:
            for blob in blobs:
                lane.pack.append(blob)
                if len(lane.pack) >= self._pack_size or lane.pack.count >= MANY:
                    full.append(lane.take())
        for pack in full:
            self._submit(pack)

    def check(self) -> None:
        """Raises what an upload failed with."""
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Upload the open packs, wait for all uploads, write the index. Raises the first
        failure."""
        for pack in self._leftovers():
            self._submit(pack)
        self._drain()
        self._write_index(1)

    def close(self) -> None:
        """End the pool; uploads not yet begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leftovers(self) -> list[PackBuilder]:
        """What is in the open packs, in as few as it fits into."""
        with self._lock:
            packs = [lane.take() for lane in self._lanes if lane.pack.count]
        found: list[PackBuilder] = []
        for pack in sorted(packs, key=len):
            last = found[-1] if found else None
            if (
                last
                and len(last) + len(pack) <= self._pack_size
                and last.count + pack.count <= MANY
            ):
                last.absorb(pack)
            else:
                found.append(pack)
        return found

    def _submit(self, pack: PackBuilder) -> None:
        self._slots.acquire()
        try:
            upload = self._pool.submit(self._upload, pack)
        except RuntimeError:
            self._slots.release()
            raise Failed("the backup was given up") from None
        with self._lock:
            self._uploads.add(upload)
        upload.add_done_callback(self._finished)

    def _finished(self, upload: Future[None]) -> None:
        self._slots.release()
        error = None if upload.cancelled() else upload.exception()
        with self._lock:
            # Before it is no longer waited for: whoever sees no upload left looks here next.
            self._failure = self._failure or error
            self._uploads.discard(upload)

    def _upload(self, builder: PackBuilder) -> None:
        self.check()
        pack = builder.finish(self._seal)
        self._store.put(pack_key(pack.id), pack.data)
        self._index.add(pack.id, len(pack.data), pack.entries)
        self.stored(pack.entries)
        with self._lock:
            self.packs.add(pack.id)
            self._uploaded_bytes += len(pack.data)
            self._unindexed.append((pack.id, len(pack.data), pack.entries))
        self._write_index(PACKS_AN_INDEX)

    def _write_index(self, at_least: int) -> None:
        with self._lock:
            if len(self._unindexed) < at_least:
                return
            packs, self._unindexed = self._unindexed, []
        _, size = index_objects.write(self._store, self._seal, packs)
        with self._lock:
            self._uploaded_bytes += size

    def _drain(self) -> None:
        while True:
            with self._lock:
                waiting = list(self._uploads)
            if not waiting:
                break
            for upload in waiting:
                upload.exception()
        self.check()
