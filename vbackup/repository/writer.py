"""One backup being written: streams in, packs and index out, the manifest last."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from blake3 import blake3

from vbackup.errors import AlreadyExists, Damaged, Failed, Locked, NotFound, VbackupError
from vbackup.model.manifest import Artifact, Manifest, Statistics
from vbackup.ports import Buffer, Clock, ObjectStore, Step, StreamShape
from vbackup.repository import catalog, header, locks
from vbackup.repository import manifest as manifests
from vbackup.repository.blobs import BlobMaker
from vbackup.repository.chunker import Chunkers, Window
from vbackup.repository.codec import Seal
from vbackup.repository.index import ChunkIndex
from vbackup.repository.keys import ChunkHasher
from vbackup.repository.lease import Lease
from vbackup.repository.marks import is_whole
from vbackup.repository.packs import Entries, chunk_ids, pack_key, stored_packs
from vbackup.repository.reader import ChunkReader
from vbackup.repository.recipe import RecipeWriter
from vbackup.repository.uploader import Append, PackUploader

_IN_FLIGHT = 32
_AGAIN = "run the backup again: only what is missing is uploaded"

_Stored = tuple[list[bytes], list[int]]
"""Ids and lengths of a window's chunks."""


@dataclass(frozen=True, slots=True)
class WriterParts:
    """What a writer is made of; `lease` is held while it lives, `release` is called at its end."""

    store: ObjectStore
    seal: Seal
    hasher: ChunkHasher
    chunkers: Chunkers
    blobs: BlobMaker
    index: ChunkIndex
    uploader: PackUploader
    lease: Lease
    release: Callable[[], None]
    clock: Clock


class Writer:
    """`vbackup.ports.BackupWriter`. After a failed upload every call raises that failure."""

    def __init__(self, backup_id: str, parts: WriterParts) -> None:
        self._id = manifests.check_id(backup_id)
        self._parts = parts
        # One more than there are processors: now and then each waits for Python's lock.
        jobs = min(8, (os.cpu_count() or 1) + 1)
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="vbackup-chunks")
        self._slots = threading.BoundedSemaphore(2 * jobs + 1)
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()
        self._used: set[bytes] = set()
        self._bytes_read = 0
        self._chunks_new = 0
        self._chunks_reused = 0
        parts.uploader.stored = self._stored_chunks
        self._started = parts.clock.monotonic()
        self._closed = False

    @property
    def id(self) -> str:
        return self._id

    # ------------------------------------------------------------ streams

    def add(
        self,
        name: str,
        stream: Iterable[Buffer],
        *,
        step: Step | None = None,
        shape: StreamShape | None = None,
    ) -> Artifact:
        """See `BackupWriter.add`. Raises Usage for a name that climbs (`manifest.artifact_name`
        makes good ones of any text)."""
        manifests.check_name(name)
        with self._parts.uploader.lane() as append:
            return self._add(append, name, stream, step, shape or StreamShape())

    def _add(
        self,
        append: Append,
        name: str,
        stream: Iterable[Buffer],
        step: Step | None,
        shape: StreamShape,
    ) -> Artifact:
        chunker = self._parts.chunkers.of(name, shape)
        digest = blake3()
        length = 0
        recipe = RecipeWriter(self._parts.chunkers.recipes, partial(self._store, append))
        flight: deque[Future[_Stored]] = deque()
        try:
            for window in chunker.windows(_digested(stream, digest)):
                flight.append(self._submit(append, window))
                length += len(window.data)
                while flight and (flight[0].done() or len(flight) >= _IN_FLIGHT):
                    recipe.extend(*flight.popleft().result())
                if step is not None:
                    step.advance(len(window.data))
            while flight:
                recipe.extend(*flight.popleft().result())
        finally:
            for future in flight:
                future.cancel()
        root, depth = recipe.finish()
        with self._lock:
            self._bytes_read += length
        return Artifact(
            name,
            length,
            root=root,
            depth=depth,
            average=chunker.average,
            blake3=digest.hexdigest(),
        )

    def _submit(self, append: Append, window: Window) -> Future[_Stored]:
        self._parts.uploader.check()
        self._slots.acquire()
        try:
            future = self._pool.submit(self._store_window, append, window)
        except RuntimeError:
            self._slots.release()
            raise Failed(f"backup {self._id} has ended already") from None
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def _store_window(self, append: Append, window: Window) -> _Stored:
        chunks = list(window.chunks())
        return self._store(append, chunks), list(map(len, chunks))

    def _store(self, append: Append, chunks: Sequence[Buffer]) -> list[bytes]:
        """The ids of the chunks; those that are new are stored, several in a blob."""
        ids = list(map(self._parts.hasher.id, chunks))
        new = self._claim(ids)
        blobs = self._parts.blobs.make([ids[at] for at in new], [chunks[at] for at in new])
        append(list(blobs))
        return ids

    def _claim(self, ids: Sequence[bytes]) -> list[int]:
        """Which of the chunks this caller must store: nobody did, nobody is about to."""
        with self._lock:
            known, packs = self._parts.index.known(ids)
            self._used |= packs
            new = []
            for at, chunk in enumerate(ids):
                if not known[at] and chunk not in self._claimed:
                    self._claimed.add(chunk)
                    new.append(at)
            self._chunks_new += len(new)
            self._chunks_reused += len(ids) - len(new)
        return new

    def _stored_chunks(self, entries: Entries) -> None:
        with self._lock:
            self._claimed.difference_update(chunk_ids(entries))

    # ------------------------------------------------------------ the end

    def publish(self, manifest: Manifest) -> Manifest:
        """See `BackupWriter.publish`. Raises Locked when the lease was lost, Failed when a chunk
        or a pack that the backup relies on is not there; then no backup appears."""
        if manifest.id != self._id:
            raise Failed(f"manifest {manifest.id} published by the writer of {self._id}")
        try:
            # A stream that broke may have left a chunk half way that another stream relies on.
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._parts.uploader.flush()
            self._check_chunks()
            self._check_packs()
            self._prolong_locks()
            self._parts.lease.confirm()
            final = replace(manifest, statistics=self._statistics())
            self._put_manifest(final)
        finally:
            self._close()
        return final

    def abort(self) -> None:
        """See `BackupWriter.abort`. Indexes what was uploaded where the store still answers."""
        if self._closed:
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        try:
            with suppress(VbackupError):
                self._parts.uploader.flush()
        finally:
            self._close()

    def _statistics(self) -> Statistics:
        return Statistics(
            bytes_read=self._bytes_read,
            chunks_new=self._chunks_new,
            chunks_reused=self._chunks_reused,
            bytes_uploaded=self._parts.uploader.bytes_uploaded,
            seconds=round(self._parts.clock.monotonic() - self._started, 3),
        )

    def _check_chunks(self) -> None:
        """Every chunk that a stream said it would store is in an uploaded pack: others of this
        backup have relied on it since."""
        with self._lock:
            lacking = len(self._claimed)
        if lacking:
            raise Failed(
                f"{lacking} chunks of backup {self._id} were never stored",
                hint=_AGAIN,
                retryable=True,
            )

    def _check_packs(self) -> None:
        """Every pack that this backup relies on is stored, whole: new ones as well as reused."""
        sizes = self._parts.index.packs
        listed = stored_packs(self._parts.store)
        for pack in self._used | self._parts.uploader.packs:
            # A listing may lag behind a write; a request for the object itself does not.
            stat = listed.get(pack) or self._parts.store.stat(pack_key(pack))
            if stat is None or stat.size != sizes[pack]:
                raise Failed(
                    f"pack {pack.hex()[:16]} of backup {self._id} is missing or cut short",
                    hint=_AGAIN,
                    retryable=True,
                )

    def _prolong_locks(self) -> None:
        """What is used again, and the header without which nothing opens, stay locked as long as
        what was uploaded now."""
        reused = self._used - self._parts.uploader.packs
        locks.prolong(self._parts.store, [header.KEY, *map(pack_key, reused)])

    def _put_manifest(self, manifest: Manifest) -> None:
        parts = self._parts
        key = manifests.manifest_key(self._id)
        data = manifests.encode(parts.seal, manifest)
        if not parts.store.conditional and parts.store.stat(key) is not None:
            raise AlreadyExists(f"backup {self._id} exists already")
        try:
            parts.store.put(key, data, if_absent=True)
        except VbackupError as error:
            # A reply may be lost after the write, a repeated request may meet its own first try.
            stored = self._stored(key)
            if stored != data:
                if stored is not None and not isinstance(error, AlreadyExists):
                    parts.store.delete([key])
                raise
        try:
            if self._stored(key) != data:
                raise Damaged(f"the manifest of {self._id} was not stored as it was written")
            self._confirm_published(manifest)
        except VbackupError:
            parts.store.delete([key])
            raise

    def _confirm_published(self, manifest: Manifest) -> None:
        """The lease still held, or the backup whole all the same. A prune may have taken it for
        the newest and removed others: then it must not go for the lease alone. One that read the
        manifests before this one was there has announced what it deletes, or is done with it."""
        try:
            self._parts.lease.confirm()
        except Locked:
            parts = self._parts
            found = catalog.load_for_writing(parts.store, parts.seal)
            reader = ChunkReader(parts.store, parts.seal, parts.hasher, lambda: found.index)
            if not is_whole(found.index, reader, manifest, found.missing | found.doomed):
                raise

    def _stored(self, key: str) -> bytes | None:
        try:
            return self._parts.store.get(key)
        except NotFound:
            return None

    def _close(self) -> None:
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._parts.uploader.close()
        self._parts.release()


def _digested(stream: Iterable[Buffer], digest: blake3) -> Iterator[Buffer]:
    """The stream as it comes in, before anything is done with it."""
    for block in stream:
        digest.update(block)
        yield block
