"""Blobs: chunks that were new next to each other, compressed and sealed as one.

Small chunks find more in common between two backups; large blobs compress better and cost less.

    salt (16) | sealed payload
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vbackup.errors import Damaged
from vbackup.ports import Buffer
from vbackup.repository.chunker import MAX_CHUNK
from vbackup.repository.codec import Compression, Seal, expand
from vbackup.repository.keys import ChunkHasher

MAX_BLOB = MAX_CHUNK
"""Content bytes of the longest blob that any reader accepts (format limit)."""

SALT = 16
_PURPOSE = b"blob"
_BINDING = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class Blob:
    """`data` is what is stored; `ids` and `lengths` (plain bytes) are the chunks'."""

    data: Buffer
    ids: Sequence[bytes]
    lengths: Sequence[int]
    codec: int


@dataclass(frozen=True, slots=True)
class BlobMaker:
    """Puts chunks into blobs of at most `size` content bytes; a longer one has its own."""

    seal: Seal
    compression: Compression
    size: int

    def make(self, ids: Sequence[bytes], chunks: Sequence[Buffer]) -> Iterator[Blob]:
        """The chunks in as few blobs as they fit into, in their order."""
        lengths = [len(chunk) for chunk in chunks]
        for part in _parts(lengths, self.size):
            content = chunks[part.start] if part.stop - part.start == 1 else b"".join(chunks[part])
            codec, payload = self.compression.pack(content)
            data = seal_blob(self.seal, codec, len(content), payload)
            yield Blob(data, ids[part], lengths[part], codec)


def _parts(lengths: Sequence[int], most: int) -> Iterator[slice]:
    start = size = 0
    for at, length in enumerate(lengths):
        if at > start and size + length > most:
            yield slice(start, at)
            start, size = at, 0
        size += length
    if lengths:
        yield slice(start, len(lengths))


def seal_blob(seal: Seal, codec: int, content: int, payload: Buffer) -> bytearray:
    """The stored form of `content` bytes that were packed into `payload`."""
    salt = os.urandom(SALT)
    return seal.seal(_PURPOSE, salt, payload, _BINDING.pack(codec, content), prefix=salt)


def open_blob(seal: Seal, codec: int, content: int, data: Buffer) -> bytes:
    """The content of a blob; its chunks are still to be checked. Raises Damaged."""
    view = memoryview(data)
    bound = _BINDING.pack(codec, content)
    return expand(codec, seal.unseal(_PURPOSE, bytes(view[:SALT]), view[SALT:], bound), content)


def open_chunk(hasher: ChunkHasher, chunk: bytes, content: bytes, start: int, length: int) -> bytes:
    """A chunk out of its blob's content, proven to be the one its id names. Raises Damaged."""
    data = content[start : start + length]
    if len(data) != length or hasher.id(data) != chunk:
        raise Damaged(f"chunk {chunk.hex()[:16]} does not hold what its id says")
    return data
