"""Recipes: the list of chunks that an artifact consists of, stored as chunks itself.

An entry is a chunk id (32) and its length (u32 LE). Level 0 are the content chunks; the entries
of one level are a byte stream whose chunks are the next level, until few enough remain to stand
in the manifest (`Artifact.root`, at level `Artifact.depth`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vbackup.errors import Damaged
from vbackup.model.manifest import Artifact
from vbackup.ports import Buffer
from vbackup.repository.chunker import MAX_CHUNK, Chunker, Window

MAX_ROOT = 16
MAX_DEPTH = 6

_ENTRY = struct.Struct("<32sI")


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of a stream, in order."""

    chunk: bytes
    length: int


class _Level:
    def __init__(self) -> None:
        self.first: list[bytes] = []
        self.raw = bytearray()
        self.count = 0


class RecipeWriter:
    """Builds one artifact's recipe while its chunks go by, in memory bounded by a few windows."""

    def __init__(self, chunker: Chunker, store: Callable[[Buffer], Piece]) -> None:
        self._chunker = chunker
        self._store = store
        self._levels = [_Level()]

    def extend(self, pieces: Iterable[Piece]) -> None:
        """Append the next content chunks."""
        for piece in pieces:
            self._push(0, piece)

    def finish(self) -> tuple[tuple[str, ...], int]:
        """`Artifact.root` and `Artifact.depth`."""
        depth = 0
        while (level := self._levels[depth]).count > MAX_ROOT:
            self._spill(depth, self._chunker.whole(level.raw))
            depth += 1
        return tuple(chunk.hex() for chunk in level.first), depth

    def _push(self, depth: int, piece: Piece) -> None:
        if depth == len(self._levels):
            self._levels.append(_Level())
        level = self._levels[depth]
        level.count += 1
        if level.count <= MAX_ROOT:
            level.first.append(piece.chunk)
        level.raw += _ENTRY.pack(piece.chunk, piece.length)
        if len(level.raw) >= self._chunker.window:
            window, level.raw = self._chunker.split(level.raw)
            self._spill(depth, window)

    def _spill(self, depth: int, window: Window) -> None:
        for chunk in window.chunks():
            self._push(depth + 1, self._store(chunk))


def pieces(
    artifact: Artifact,
    length_of: Callable[[bytes], int],
    fetch: Callable[[bytes], bytes],
    seen: Callable[[Piece], None] = lambda _: None,
) -> Iterator[Piece]:
    """The content chunks of an artifact in order; `seen` is told of the recipe's own chunks.

    Raises Damaged as soon as the recipe is malformed or exceeds the artifact's length.
    """
    level: Iterator[Piece] = (
        Piece(chunk, length_of(chunk)) for chunk in map(bytes.fromhex, artifact.root)
    )
    for _ in range(artifact.depth):
        level = _unfold(level, fetch, seen)
    return _within(level, artifact)


def _unfold(
    level: Iterator[Piece], fetch: Callable[[bytes], bytes], seen: Callable[[Piece], None]
) -> Iterator[Piece]:
    carried = b""
    for piece in level:
        seen(piece)
        raw = carried + fetch(piece.chunk)
        whole = len(raw) - len(raw) % _ENTRY.size
        for chunk, length in _ENTRY.iter_unpack(memoryview(raw)[:whole]):
            if not 0 < length <= MAX_CHUNK:
                raise Damaged(f"a recipe holds a chunk of {length} bytes")
            yield Piece(chunk, length)
        carried = raw[whole:]
    if carried:
        raise Damaged("a recipe ends in the middle of an entry")


def _within(level: Iterator[Piece], artifact: Artifact) -> Iterator[Piece]:
    position = 0
    for piece in level:
        position += piece.length
        if position > artifact.length:
            raise Damaged(f"{artifact.name}: its recipe exceeds its {artifact.length} bytes")
        yield piece
    if position != artifact.length:
        raise Damaged(f"{artifact.name}: its recipe ends at byte {position} of {artifact.length}")
