"""From sealed chunks to stored packs and index objects: one bounded upload pool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from vbackup.errors import Failed
from vbackup.ports import ObjectStore
from vbackup.repository import index as index_objects
from vbackup.repository.blobs import Blob
from vbackup.repository.codec import Seal
from vbackup.repository.index import ChunkIndex, PackEntries
from vbackup.repository.packs import MAX_ENTRIES, Entries, PackBuilder, pack_key

MANY = MAX_ENTRIES // 2
"""Chunks that fill a pack whatever its size: the next blob may bring many more."""

PACKS_AN_INDEX = 64
"""An index object is written this often, so that a killed backup leaves little to rediscover."""


class PackUploader:
    """Fills packs and uploads them. `append` blocks while the pool is behind; thread-safe.

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
        self._slots = threading.BoundedSemaphore(jobs + 1)
        self._lock = threading.Lock()
        self._open = PackBuilder()
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

    def append(self, blob: Blob) -> None:
        """Put one sealed blob into the open pack."""
        self.check()
        with self._lock:
            self._open.append(blob)
            if len(self._open) < self._pack_size and self._open.count < MANY:
                return
            full, self._open = self._open, PackBuilder()
        self._submit(full)

    def check(self) -> None:
        """Raises what an upload failed with."""
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Upload the open pack, wait for all uploads, write the index. Raises the first failure."""
        with self._lock:
            last, self._open = self._open, PackBuilder()
        if last.count:
            self._submit(last)
        self._drain()
        self._write_index(1)

    def close(self) -> None:
        """End the pool; uploads not yet begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

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
        with self._lock:
            self._uploads.discard(upload)
        error = None if upload.cancelled() else upload.exception()
        if error is not None and self._failure is None:
            self._failure = error

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
