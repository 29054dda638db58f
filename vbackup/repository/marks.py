"""Marking: which stored chunks the manifests that are kept refer to."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from vbackup.errors import Damaged
from vbackup.model.manifest import Artifact, Manifest
from vbackup.repository.index import ChunkIndex
from vbackup.repository.reader import ChunkReader
from vbackup.repository.recipe import parse


class Marks:
    """One flag a stored copy of a chunk. The best copy of a chunk is the one that counts.

    `missing` counts references to chunks that no known pack holds.
    """

    def __init__(self, index: ChunkIndex, reader: ChunkReader) -> None:
        index.settle()
        self._index = index
        self._reader = reader
        self._flags = np.zeros(len(index), dtype=np.bool_)
        self._walked: set[bytes] = set()
        self.missing = 0

    def manifest(self, manifest: Manifest) -> None:
        """Mark everything that a backup refers to. Raises Damaged when a recipe cannot be read:
        then nobody knows what it refers to."""
        for artifact in manifest.artifacts():
            self._artifact(artifact)

    def _artifact(self, artifact: Artifact) -> None:
        self._entries(
            [(bytes.fromhex(root), artifact.length) for root in artifact.root], artifact.depth
        )

    def _entries(self, entries: Sequence[tuple[bytes, int]], depth: int) -> None:
        """Depth first: a small recipe may name very many chunks, but not on every level."""
        self._mark([chunk for chunk, _ in entries])
        for chunk, span in entries if depth else ():
            # Backups share most of their recipes: what was walked once need not be read again.
            if chunk not in self._walked:
                inner = parse(self._reader.fetch(chunk), span=span, depth=depth)
                self._walked.add(chunk)
                self._entries(inner, depth - 1)

    def _mark(self, chunks: Sequence[bytes]) -> None:
        if chunks:
            rows = self._index.rows_of(chunks)
            self._flags[rows[rows >= 0]] = True
            self.missing += int((rows < 0).sum())

    def bytes_by_pack(self) -> dict[bytes, int]:
        """Stored bytes in use, for every known pack."""
        return self._index.row_bytes(self._flags)

    def chunks(self, pack: bytes) -> set[bytes]:
        """The chunks in this pack that are in use."""
        return self._index.row_ids(self._flags, pack)

    def packs(self) -> set[bytes]:
        """The packs of which anything is in use."""
        return {pack for pack, used in self.bytes_by_pack().items() if used}

    def packs_beyond(self, others: Marks) -> set[bytes]:
        """The packs of which more is in use than others, of the same index, use."""
        more = self._index.row_bytes(self._flags & ~others._flags)
        return {pack for pack, used in more.items() if used}


def is_whole(
    index: ChunkIndex, reader: ChunkReader, manifest: Manifest, gone: AbstractSet[bytes]
) -> bool:
    """Whether every chunk of a backup is in a pack that is not among these."""
    marks = Marks(index, reader)
    try:
        marks.manifest(manifest)
    except Damaged:
        return False
    return not marks.missing and not marks.packs() & gone
