"""Packs: many sealed chunks in one immutable object, with their own index at the end.

    "VBPK" 1 0 0 0 | blob ... | sealed index | salt (16) | index length u32 LE | "KPBV"

A pack's id is the BLAKE3 of all its bytes, so anyone can check one without keys.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from vbackup.errors import Damaged
from vbackup.ports import Buffer, ObjectStat, ObjectStore
from vbackup.repository.chunker import MAX_CHUNK
from vbackup.repository.codec import CODECS, Seal, expand
from vbackup.repository.keys import ChunkHasher

PREFIX = "packs/"
MAX_PACK = 1024**3
MAX_ENTRIES = 16_384

ENTRY = np.dtype(
    [
        ("id", "V32"),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("length", "<u4"),
        ("codec", "u1"),
    ]
)
"""One chunk in a pack, 45 bytes: where its blob lies, and what comes out of it."""

Entries = np.ndarray[tuple[int], np.dtype[np.void]]

HEADER = b"VBPK\x01\0\0\0"
_END = b"KPBV"
_TRAILER = struct.Struct("<16sI4s")
_CHUNK = b"chunk"
_INDEX = b"pack index"
_BINDING = struct.Struct("<BI")
_TAIL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Location:
    """Where one chunk is stored: a range of a pack."""

    pack: bytes
    offset: int
    stored: int
    length: int
    codec: int


def stored_packs(store: ObjectStore) -> dict[bytes, ObjectStat]:
    """All packs that the store lists."""
    found: dict[bytes, ObjectStat] = {}
    for stat in store.scan(PREFIX):
        pack = pack_of(stat.key)
        if pack is not None:
            found[pack] = stat
    return found


def pack_key(pack: bytes) -> str:
    """The object that holds this pack."""
    name = pack.hex()
    return f"{PREFIX}{name[:2]}/{name}"


def pack_of(key: str) -> bytes | None:
    """The pack id of an object key, None where it is not a pack's key."""
    name = key.rpartition("/")[2]
    try:
        pack = bytes.fromhex(name)
    except ValueError:
        return None
    return pack if len(pack) == 32 and key == pack_key(pack) else None


def seal_chunk(seal: Seal, chunk: bytes, codec: int, length: int, payload: Buffer) -> bytearray:
    """The blob of one chunk."""
    return seal.seal(_CHUNK, chunk, payload, _BINDING.pack(codec, length))


def open_chunk(
    seal: Seal, hasher: ChunkHasher, chunk: bytes, codec: int, length: int, blob: Buffer
) -> bytes:
    """The chunk's bytes, proven to be the ones its id names. Raises Damaged."""
    payload = seal.unseal(_CHUNK, chunk, blob, _BINDING.pack(codec, length))
    data = expand(codec, payload, length)
    if hasher.id(data) != chunk:
        raise Damaged(f"chunk {chunk.hex()[:16]} does not hold what its id says")
    return data


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A pack ready for upload."""

    id: bytes
    data: bytearray
    entries: Entries


class PackBuilder:
    """One pack being filled. Not thread-safe."""

    def __init__(self) -> None:
        self._data = bytearray(HEADER)
        self._entries: list[tuple[bytes, int, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._data)

    @property
    def count(self) -> int:
        """The number of chunks in it."""
        return len(self._entries)

    def append(self, chunk: bytes, blob: Buffer, length: int, codec: int) -> None:
        """Add one sealed chunk of `length` plain bytes."""
        self._entries.append((chunk, len(self._data), len(blob), length, codec))
        self._data += blob

    def finish(self, seal: Seal) -> FinishedPack:
        """Add index and trailer; the builder must not be used any more."""
        entries = np.array(self._entries, dtype=ENTRY)
        salt = os.urandom(16)
        sealed = seal.seal(_INDEX, salt, entries.tobytes(), HEADER)
        self._data += sealed
        self._data += _TRAILER.pack(salt, len(sealed), _END)
        return FinishedPack(pack_id(self._data), self._data, entries)


def pack_id(data: Buffer) -> bytes:
    """The id of a whole pack's bytes."""
    return blake3(data).digest()


def read_entries(store: ObjectStore, seal: Seal, pack: bytes, size: int) -> Entries:
    """A stored pack's own index, by one or two ranged reads. Raises NotFound, Damaged."""
    key = pack_key(pack)
    start = max(0, size - _TAIL)
    tail = store.get(key, start, size - start)
    needed = _index_start(tail, size)
    if needed < start:
        tail = store.get(key, needed, size - needed)
    return entries_of(seal, tail, size)


def entries_of(seal: Seal, tail: Buffer, size: int) -> Entries:
    """The index in the last bytes of a pack of `size` bytes. Raises Damaged."""
    start = _index_start(tail, size)
    view = memoryview(tail)
    salt, length, _ = _TRAILER.unpack(view[-_TRAILER.size :])
    begin = start - (size - len(view))
    raw = seal.unseal(_INDEX, salt, view[begin : begin + length], HEADER)
    return parse_entries(raw, start)


def _index_start(tail: Buffer, size: int) -> int:
    view = memoryview(tail)
    if len(view) < _TRAILER.size or size > MAX_PACK:
        raise Damaged("the pack is truncated or too large")
    _, length, end = _TRAILER.unpack(view[-_TRAILER.size :])
    start = size - _TRAILER.size - length
    if end != _END or start < len(HEADER):
        raise Damaged("the pack has no index at its end")
    return int(start)


def parse_entries(raw: bytes, blobs_end: int) -> Entries:
    """Entries whose every range lies within the pack's blobs. Raises Damaged."""
    if not raw or len(raw) % ENTRY.itemsize:
        raise Damaged("a pack index has an impossible length")
    entries: Entries = np.frombuffer(raw, dtype=ENTRY)
    ends = entries["offset"].astype(np.uint64) + entries["stored"]
    sane = (
        len(entries) <= MAX_ENTRIES
        and int(entries["offset"].min()) >= len(HEADER)
        and int(ends.max()) <= blobs_end
        and int(entries["length"].max()) <= MAX_CHUNK
        and int(entries["length"].min()) > 0
        and bool(np.isin(entries["codec"], CODECS).all())
    )
    if not sane:
        raise Damaged("a pack index holds impossible values")
    return entries
