"""Recipes: the list of chunks that an artifact consists of, stored as chunks itself.

An entry is a chunk id (16) and the number of artifact bytes that it stands for (u64 LE). The
entries of one level, cut into chunks of whole entries, are what the entries of the next level
name, until one chunk is left: `Artifact.root`, at level `Artifact.depth`. An artifact of one
chunk has that chunk as its root (depth 0), an empty one has none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from vbackup.errors import Damaged
from vbackup.model.manifest import Artifact
from vbackup.ports import Buffer
from vbackup.repository.chunker import MAX_CHUNK, Chunker

MAX_DEPTH = 6

ENTRY = struct.Struct("<16sQ")


class Piece(NamedTuple):
    """A chunk of an artifact: `span` artifact bytes from `start` on.

    With `problem`, those bytes cannot even be named: the recipe is damaged there."""

    chunk: bytes
    span: int
    start: int = 0
    problem: Damaged | None = None


class _Level:
    def __init__(self) -> None:
        self.first = b""
        self.raw = bytearray()
        self.count = 0


class RecipeWriter:
    """Builds one artifact's recipe while its chunks go by, in memory bounded by a few windows.

    `store` takes the chunks of a recipe and gives their ids."""

    def __init__(
        self, chunker: Chunker, store: Callable[[Sequence[Buffer]], Sequence[bytes]]
    ) -> None:
        self._chunker = chunker
        self._store = store
        self._levels = [_Level()]

    def extend(self, ids: Sequence[bytes], lengths: Sequence[int]) -> None:
        """Append the next content chunks."""
        self._push(0, ids, lengths)

    def finish(self) -> tuple[tuple[str, ...], int]:
        """`Artifact.root` and `Artifact.depth`."""
        depth = 0
        while (level := self._levels[depth]).count > 1:
            self._fold(depth, keep_last=False)
            depth += 1
        return ((level.first.hex(),) if level.count else ()), depth

    def _push(self, depth: int, ids: Sequence[bytes], spans: Sequence[int]) -> None:
        if depth == len(self._levels):
            self._levels.append(_Level())
        level = self._levels[depth]
        if ids and not level.count:
            level.first = ids[0]
        level.count += len(ids)
        level.raw += b"".join(map(ENTRY.pack, ids, spans))
        if len(level.raw) >= self._chunker.window:
            self._fold(depth, keep_last=True)

    def _fold(self, depth: int, *, keep_last: bool) -> None:
        """Store the level's entries as chunks; the last may still change while more come."""
        raw = self._levels[depth].raw
        ends = [end - end % ENTRY.size for end in self._chunker.cuts(raw)]
        ends = ends[:-1] if keep_last else ends
        chunks = [raw[start:end] for start, end in pairwise([0, *ends])]
        spans = [sum(span for _, span in ENTRY.iter_unpack(chunk)) for chunk in chunks]
        self._levels[depth].raw = raw[ends[-1] :]
        self._push(depth + 1, self._store(chunks), spans)


def parse(raw: bytes, *, span: int, depth: int) -> list[tuple[bytes, int]]:
    """The entries of a recipe chunk at `depth` that stands for `span` bytes. Raises Damaged."""
    if not raw or len(raw) % ENTRY.size:
        raise Damaged("a recipe chunk ends in the middle of an entry")
    entries = list(ENTRY.iter_unpack(raw))
    spans = [each for _, each in entries]
    if min(spans) <= 0 or max(spans) > (MAX_CHUNK if depth == 1 else span):
        raise Damaged("a recipe chunk holds an impossible length")
    if sum(spans) != span:
        raise Damaged("a recipe chunk does not add up")
    return entries


class RecipeReader:
    """Walks recipes. `seen` is told of every recipe chunk before it is read."""

    def __init__(
        self, fetch: Callable[[bytes], bytes], seen: Callable[[bytes], None] = lambda _: None
    ) -> None:
        self._fetch = fetch
        self._seen = seen

    def pieces(
        self, artifact: Artifact, start: int = 0, stop: int | None = None
    ) -> Iterator[Piece]:
        """The content chunks that touch the range, in order, damaged stretches included."""
        stop = artifact.length if stop is None else min(stop, artifact.length)
        if artifact.root and start < stop:
            root = Piece(bytes.fromhex(artifact.root[0]), artifact.length)
            yield from self._walk(root, artifact.depth, start, stop)

    def _walk(self, piece: Piece, depth: int, start: int, stop: int) -> Iterator[Piece]:
        if depth == 0:
            yield piece
            return
        self._seen(piece.chunk)
        try:
            entries = parse(self._fetch(piece.chunk), span=piece.span, depth=depth)
        except Damaged as error:
            yield Piece(piece.chunk, piece.span, piece.start, error)
            return
        position = piece.start
        if depth == 1 and start <= position and position + piece.span <= stop:
            # Nearly always, and there are many: nothing is done for each alone.
            chunks, spans = zip(*entries, strict=True)
            yield from map(Piece, chunks, spans, accumulate(spans, initial=position))
            return
        for chunk, span in entries:
            if position < stop and position + span > start:
                yield from self._walk(Piece(chunk, span, position), depth - 1, start, stop)
            position += span
