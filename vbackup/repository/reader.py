"""Reading chunks back: ranges of packs fetched ahead, every byte verified on the way."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from vbackup.errors import Damaged, NotFound
from vbackup.model.manifest import Artifact
from vbackup.ports import Buffer
from vbackup.repository.codec import Seal
from vbackup.repository.index import ChunkIndex
from vbackup.repository.keys import ChunkHasher
from vbackup.repository.packs import Location, open_chunk, pack_key
from vbackup.repository.recipe import Piece, RecipeReader

_BATCH = 4 * 1024**2
_GAP = 64 * 1024
_AHEAD = 6
_JOBS = 4
_CACHED = 8


@dataclass(slots=True)
class _Batch:
    """Consecutive pieces that one ranged read of one pack yields, or one that cannot be read."""

    pieces: list[Piece] = field(default_factory=list)
    places: list[Location] = field(default_factory=list)
    plain: int = 0

    def takes(self, place: Location | None) -> bool:
        if not self.pieces:
            return True
        if place is None or not self.places or self.plain + place.length > _BATCH:
            return False
        last = self.places[-1]
        after = last.offset + last.stored
        return place.pack == last.pack and (place == last or 0 <= place.offset - after <= _GAP)

    def add(self, piece: Piece, place: Location | None) -> None:
        self.pieces.append(piece)
        self.plain += piece.span
        if place is not None:
            self.places.append(place)


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
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

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
        with self._lock:
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
                return self._cache[chunk]
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
                    return self._remember(chunk, self._fetch(chunk, place))
                except (Damaged, NotFound) as error:
                    problem = f"{pack_key(place.pack)}: {error}"
        raise Damaged(problem, hint="vbackup verify, then a new backup heals what it still has")

    def _fetch(self, chunk: bytes, place: Location) -> bytes:
        blob = self._store.get(pack_key(place.pack), place.offset, place.stored)
        return self._open(chunk, place, blob)

    def _open(self, chunk: bytes, place: Location, blob: Buffer) -> bytes:
        if len(blob) != place.stored:
            raise Damaged(f"cut short at byte {place.offset + len(blob)}")
        return open_chunk(self._seal, self._hasher, chunk, place.codec, place.length, blob)

    def _remember(self, chunk: bytes, data: bytes) -> bytes:
        with self._lock:
            self._cache[chunk] = data
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return data

    # ------------------------------------------------------------ streams

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """See `Repository.read`."""
        digest = hashlib.sha256()
        for data in self.read_range(artifact, 0, artifact.length):
            digest.update(data)
            yield data
        if digest.hexdigest() != artifact.sha256:
            raise Damaged(f"{artifact.name}: bytes 0-{artifact.length} do not match its SHA-256")

    def read_range(self, artifact: Artifact, start: int, length: int) -> Iterator[bytes]:
        """These bytes, or fewer where the artifact ends earlier; only their chunks are read.

        Raises Damaged with artifact and byte range."""
        stop = min(start + length, artifact.length)
        for piece, data in self._stream(artifact, start, stop):
            if isinstance(data, Damaged):
                raise Damaged(
                    f"{artifact.name}: bytes {piece.start}-{piece.start + piece.span} "
                    f"are damaged: {data}",
                    hint=data.hint,
                )
            wanted = data[max(0, start - piece.start) : stop - piece.start]
            yield wanted

    def damage(self, artifact: Artifact) -> Iterator[tuple[int, int, str]]:
        """Read it all: every damaged range (start, stop, why), not only the first."""
        digest = hashlib.sha256()
        whole = True
        for piece, data in self._stream(artifact, 0, artifact.length):
            if isinstance(data, Damaged):
                whole = False
                yield piece.start, piece.start + piece.span, str(data)
            else:
                digest.update(data)
        if whole and digest.hexdigest() != artifact.sha256:
            yield 0, artifact.length, "does not match its SHA-256"

    def pieces(
        self, artifact: Artifact, seen: Callable[[bytes], None] = lambda _: None
    ) -> Iterator[Piece]:
        """The artifact's content chunks in order; `seen` is told of its recipe's own chunks."""
        return RecipeReader(self.fetch, seen).pieces(artifact)

    def _stream(
        self, artifact: Artifact, start: int, stop: int
    ) -> Iterator[tuple[Piece, bytes | Damaged]]:
        """All pieces that touch the range with their content, fetched ahead."""
        batches = self._batches(RecipeReader(self.fetch).pieces(artifact, start, stop))
        flight: deque[tuple[_Batch, Future[list[bytes | Damaged]]]] = deque()
        pool = ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-read")
        try:
            while True:
                while len(flight) < _AHEAD and (batch := next(batches, None)) is not None:
                    flight.append((batch, pool.submit(self._fetch_batch, batch)))
                if not flight:
                    break
                batch, future = flight.popleft()
                yield from zip(batch.pieces, future.result(), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batches(self, pieces: Iterator[Piece]) -> Iterator[_Batch]:
        batch = _Batch()
        for piece in pieces:
            place = self._place(piece)
            if not batch.takes(place):
                yield batch
                batch = _Batch()
            batch.add(piece, place)
        if batch.pieces:
            yield batch

    def _place(self, piece: Piece) -> Location | None:
        try:
            return None if piece.problem else self.places(piece.chunk)[0]
        except Damaged:
            return None

    def _fetch_batch(self, batch: _Batch) -> list[bytes | Damaged]:
        blobs = self._blobs(batch) if len(batch.pieces) > 1 else {}
        return [self._content(piece, blobs) for piece in batch.pieces]

    def _blobs(self, batch: _Batch) -> dict[bytes, tuple[Location, memoryview]]:
        first, last = batch.places[0], batch.places[-1]
        length = last.offset + last.stored - first.offset
        try:
            data = memoryview(self._store.get(pack_key(first.pack), first.offset, length))
        except NotFound:
            return {}
        found = {}
        for piece, place in zip(batch.pieces, batch.places, strict=True):
            begin = place.offset - first.offset
            found[piece.chunk] = place, data[begin : begin + place.stored]
        return found

    def _content(
        self, piece: Piece, blobs: dict[bytes, tuple[Location, memoryview]]
    ) -> bytes | Damaged:
        if piece.problem:
            return piece.problem
        try:
            data = self._from_blob(piece.chunk, blobs) or self.fetch(piece.chunk)
        except Damaged as error:
            return error
        if len(data) != piece.span:
            return Damaged(f"a chunk of {len(data)} bytes where the recipe says {piece.span}")
        return data

    def _from_blob(
        self, chunk: bytes, blobs: dict[bytes, tuple[Location, memoryview]]
    ) -> bytes | None:
        if chunk not in blobs:
            return None
        place, blob = blobs[chunk]
        try:
            return self._open(chunk, place, blob)
        except Damaged:
            return None  # Read again, and from elsewhere, before it is called damaged.
