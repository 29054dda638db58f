"""Reading chunks back: ranges of packs fetched ahead, every byte verified on the way."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from blake3 import blake3

from vbackup.errors import Damaged, NotFound
from vbackup.model.manifest import Artifact
from vbackup.ports import Buffer
from vbackup.repository.blobs import open_blob, open_chunk
from vbackup.repository.codec import Seal
from vbackup.repository.index import ChunkIndex, Parts
from vbackup.repository.keys import ChunkHasher
from vbackup.repository.packs import Location, pack_key
from vbackup.repository.recipe import Piece, RecipeReader

_WINDOW = 4 * 1024**2
_NOT_AS_IT_CAME = "are not what came in: their BLAKE3 differs"
_PIECES = 4096
_RANGE = 8 * 1024**2
_GAP = 256 * 1024
"""So many bytes are rather read for nothing than asked around. A window of another part of the
stream is longer: it costs more to transfer than a request."""

_AHEAD = 4
_JOBS = 4
_CACHED = 8 * 1024**2

_Blob = tuple[bytes, int]
"""Pack and offset."""


class PackSource(Protocol):
    """Where packs are read from: an object store, or packs that are kept at hand."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        """The object's bytes, or a range of them. Raises NotFound."""
        ...


class ChunkReader:
    """Reads chunks by id. Thread-safe. `refresh` is called when a chunk is not known."""

    def __init__(
        self,
        store: PackSource,
        seal: Seal,
        hasher: ChunkHasher,
        index: Callable[[], ChunkIndex],
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._seal = seal
        self._hasher = hasher
        self._index = index
        self._refresh = refresh
        self._fresh: ChunkIndex | None = None
        self._refreshing = threading.Lock()
        self._cache: OrderedDict[_Blob, bytes] = OrderedDict()
        self._lock = threading.Lock()
        # More threads wait for the store than can be at work on what it gave: they would only
        # take Python's lock from each other.
        self._working = threading.BoundedSemaphore(os.cpu_count() or 1)

    # ------------------------------------------------------------ one chunk

    def places(self, chunk: bytes) -> list[Location]:
        """Where the chunk is stored, best first. Raises Damaged when it is nowhere."""
        index = self._index()
        found = index.find_all(chunk)
        if not found and self._renewed(index):
            found = self._index().find_all(chunk)
        if not found:
            raise Damaged(
                f"chunk {chunk.hex()[:16]} is in no pack", hint="vbackup verify --repair-index"
            )
        return found

    def _renewed(self, index: ChunkIndex) -> bool:
        """Load the index anew: others store, prune and repack. Once an index: misses come in
        thousands. Whether there is another one now."""
        with self._refreshing:
            if index is self._index() and index is not self._fresh:
                self._refresh()
                self._fresh = self._index()
            return index is not self._index()

    def fetch(self, chunk: bytes) -> bytes:
        """One chunk from wherever it can be had. Raises Damaged when no copy is good."""
        index = self._index()
        try:
            return self._fetch_any(chunk)
        except Damaged:
            if not self._renewed(index):
                raise
        return self._fetch_any(chunk)

    def _fetch_any(self, chunk: bytes) -> bytes:
        problem = ""
        for place in self.places(chunk):
            for _ in range(2):  # A byte that flipped on the way is right the second time.
                try:
                    return self._part(chunk, place, self._content(place))
                except (Damaged, NotFound) as error:
                    problem = f"{pack_key(place.pack)}: {error}"
        raise Damaged(problem, hint="vbackup verify, then a new backup heals what it still has")

    def _content(self, place: Location) -> bytes:
        """What comes out of the blob there: its neighbours are often wanted next."""
        blob = place.pack, place.offset
        with self._lock:
            if blob in self._cache:
                self._cache.move_to_end(blob)
                return self._cache[blob]
        content = self._open(place, self._store.get(pack_key(place.pack), *blob[1:], place.stored))
        with self._lock:
            self._cache[blob] = content
            while sum(map(len, self._cache.values())) > _CACHED and len(self._cache) > 1:
                self._cache.popitem(last=False)
        return content

    def _open(self, place: Location, blob: Buffer) -> bytes:
        if len(blob) != place.stored:
            raise Damaged(f"cut short at byte {place.offset + len(blob)}")
        return open_blob(self._seal, place.codec, place.content, blob)

    def _part(self, chunk: bytes, place: Location, content: bytes) -> bytes:
        return open_chunk(self._hasher, chunk, content, place.start, place.length)

    # ------------------------------------------------------------ streams

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """See `Repository.read`."""
        digest = blake3()
        for data in self.read_range(artifact, 0, artifact.length):
            digest.update(data)
            yield data
        if digest.hexdigest() != artifact.blake3:
            raise Damaged(f"{artifact.name}: bytes 0-{artifact.length} {_NOT_AS_IT_CAME}")

    def read_range(self, artifact: Artifact, start: int, length: int) -> Iterator[bytes]:
        """These bytes, or fewer where the artifact ends earlier; only their chunks are read.

        Raises Damaged with artifact and byte range."""
        stop = min(start + length, artifact.length)
        for window, contents in self._windows(artifact, start, stop):
            good = [data for data in contents if not isinstance(data, Damaged)]
            if len(good) < len(contents):
                self._complain(artifact, window, contents)
            begin = window[0].start
            data = good[0] if len(good) == 1 else b"".join(good)
            yield data[max(0, start - begin) : stop - begin]

    def _complain(
        self, artifact: Artifact, window: Sequence[Piece], contents: Sequence[bytes | Damaged]
    ) -> None:
        for piece, data in zip(window, contents, strict=True):
            if isinstance(data, Damaged):
                raise Damaged(
                    f"{artifact.name}: bytes {piece.start}-{piece.start + piece.span} "
                    f"are damaged: {data}",
                    hint=data.hint,
                )

    def damage(self, artifact: Artifact) -> Iterator[tuple[int, int, str]]:
        """Read it all: every damaged range (start, stop, why), not only the first."""
        digest = blake3()
        whole = True
        for window, contents in self._windows(artifact, 0, artifact.length):
            for piece, data in zip(window, contents, strict=True):
                if isinstance(data, Damaged):
                    whole = False
                    yield piece.start, piece.start + piece.span, str(data)
                else:
                    digest.update(data)
        if whole and digest.hexdigest() != artifact.blake3:
            yield 0, artifact.length, _NOT_AS_IT_CAME

    def pieces(
        self, artifact: Artifact, seen: Callable[[bytes], None] = lambda _: None
    ) -> Iterator[Piece]:
        """The artifact's content chunks in order; `seen` is told of its recipe's own chunks."""
        return RecipeReader(self.fetch, seen).pieces(artifact)

    def _windows(
        self, artifact: Artifact, start: int, stop: int
    ) -> Iterator[tuple[list[Piece], list[bytes | Damaged]]]:
        """All pieces that touch the range with their contents, fetched ahead."""
        windows = _windows(RecipeReader(self.fetch).pieces(artifact, start, stop))
        flight: deque[tuple[list[Piece], Future[list[bytes | Damaged]]]] = deque()
        pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-read")
        try:
            while True:
                while len(flight) < _AHEAD and (window := next(windows, None)) is not None:
                    flight.append((window, pool.submit(self._read_window, window)))
                if not flight:
                    break
                window, future = flight.popleft()
                yield window, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read_window(self, window: Sequence[Piece]) -> list[bytes | Damaged]:
        """The contents of consecutive pieces, however many blobs they are scattered over."""
        found: dict[bytes, bytes] = {}
        chunks = list({piece.chunk for piece in window if not piece.problem})
        for group in _ranges(self._index().parts(chunks)):
            self._read_range(group, found)
        return [self._piece(piece, found) for piece in window]

    def _read_range(self, group: Sequence[Parts], found: dict[bytes, bytes]) -> None:
        """One request for several blobs. What cannot be had so is left out: it is read again,
        and from elsewhere, before it is called damaged."""
        first, last = group[0].blob, group[-1].blob
        length = last.offset + last.stored - first.offset
        try:
            data = memoryview(self._store.get(pack_key(first.pack), first.offset, length))
        except NotFound:
            return
        hasher = self._hasher
        with self._working:
            for place, chunks, starts, lengths in group:
                begin = place.offset - first.offset
                with suppress(Damaged):
                    content = self._open(place, data[begin : begin + place.stored])
                    for chunk, start, size in zip(chunks, starts, lengths, strict=True):
                        found[chunk] = open_chunk(hasher, chunk, content, start, size)

    def _piece(self, piece: Piece, found: dict[bytes, bytes]) -> bytes | Damaged:
        if piece.problem:
            return piece.problem
        try:
            data = found.get(piece.chunk) or self.fetch(piece.chunk)
        except Damaged as error:
            return error
        if len(data) != piece.span:
            return Damaged(f"a chunk of {len(data)} bytes where the recipe says {piece.span}")
        return data


def _windows(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Consecutive pieces that are read together."""
    window: list[Piece] = []
    size = 0
    for piece in pieces:
        if window and (size + piece.span > _WINDOW or len(window) == _PIECES):
            yield window
            window, size = [], 0
        window.append(piece)
        size += piece.span
    if window:
        yield window


def _ranges(blobs: Sequence[Parts]) -> Iterator[list[Parts]]:
    """Blobs, in the order of their places, that one request can bring."""
    group: list[Parts] = []
    for parts in blobs:
        place = parts.blob
        if group:
            first, last = group[0].blob, group[-1].blob
            gap = place.offset - (last.offset + last.stored)
            end = place.offset + place.stored
            if place.pack != last.pack or not 0 <= gap <= _GAP or end - first.offset > _RANGE:
                yield group
                group = []
        group.append(parts)
    if group:
        yield group
