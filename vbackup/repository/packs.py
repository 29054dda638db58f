"""Packs: many sealed blobs in one immutable object, with their own index at the end.

    "VBPK" 1 0 0 0 | blob ... | sealed index | salt (16) | index length u32 LE | "KPBV"

A pack's id is the BLAKE3 of all its bytes, so anyone can check one without keys.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from vbackup.errors import Damaged
from vbackup.ports import Buffer, ObjectStat, ObjectStore
from vbackup.repository.blobs import MAX_BLOB, SALT, Blob
from vbackup.repository.codec import CODECS, NONCE, TAG, Seal
from vbackup.repository.keys import CHUNK_ID

PREFIX = "packs/"
MAX_PACK = 1024**3
MAX_ENTRIES = 65_536
ENTRY = np.dtype(
    [
        ("id", "V16"),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("content", "<u4"),
        ("codec", "u1"),
        ("start", "<u4"),
        ("length", "<u4"),
    ]
)
"""One chunk in a pack: where its blob lies, how much comes out of that, and which part of it
the chunk is."""

Entries = np.ndarray[tuple[int], np.dtype[np.void]]

# As they are stored: the blobs, then the chunks of each of them in their order.
_TABLE = struct.Struct("<II")
_BLOB = np.dtype(
    [("offset", "<u4"), ("stored", "<u4"), ("content", "<u4"), ("chunks", "<u4"), ("codec", "u1")]
)
_CHUNK = np.dtype([("id", "V16"), ("length", "<u4")])

HEADER = b"VBPK\x01\0\0\0"
_END = b"KPBV"
_TRAILER = struct.Struct("<16sI4s")
_INDEX = b"pack index"
_TAIL = 64 * 1024
# What a trailer may claim: it is not authenticated, and several packs are read at a time.
_MAX_INDEX = _TABLE.size + MAX_ENTRIES * (_BLOB.itemsize + _CHUNK.itemsize) + NONCE + TAG


class Location(NamedTuple):
    """Where one chunk is stored: a blob in a pack, and a range of what comes out of it."""

    pack: bytes
    offset: int
    stored: int
    content: int
    codec: int
    start: int
    length: int


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
        self._blobs: list[tuple[int, int, int, int, int]] = []
        self._ids: list[bytes] = []
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._data)

    @property
    def count(self) -> int:
        """The number of chunks in it."""
        return len(self._ids)

    def append(self, blob: Blob) -> None:
        """Add one sealed blob."""
        content = sum(blob.lengths)
        place = (len(self._data), len(blob.data), content, len(blob.ids), blob.codec)
        self._blobs.append(place)
        self._ids += blob.ids
        self._lengths += blob.lengths
        self._data += blob.data

    def absorb(self, other: PackBuilder) -> None:
        """Add all blobs of another pack, which must not be used any more."""
        moved = len(self._data) - len(HEADER)
        for offset, stored, content, chunks, codec in other._blobs:
            self._blobs.append((offset + moved, stored, content, chunks, codec))
        self._ids += other._ids
        self._lengths += other._lengths
        self._data += memoryview(other._data)[len(HEADER) :]

    def finish(self, seal: Seal) -> FinishedPack:
        """Add index and trailer; the builder must not be used any more."""
        end = len(self._data)
        chunks = np.empty(len(self._ids), dtype=_CHUNK)
        chunks["id"] = np.frombuffer(b"".join(self._ids), dtype="V16")
        chunks["length"] = self._lengths
        entries = _entries(np.array(self._blobs, dtype=_BLOB), chunks, end)
        salt = os.urandom(SALT)
        sealed = seal.seal(_INDEX, salt, dump_entries(entries), HEADER)
        self._data += sealed
        self._data += _TRAILER.pack(salt, len(sealed), _END)
        return FinishedPack(pack_id(self._data), self._data, entries)


def pack_id(data: Buffer) -> bytes:
    """The id of a whole pack's bytes."""
    return blake3(data).digest()


# ---------------------------------------------------------------- the index in a pack


def chunk_ids(entries: Entries) -> list[bytes]:
    """The ids of the chunks, in their order."""
    raw = entries["id"].tobytes()
    return [raw[at : at + CHUNK_ID] for at in range(0, len(raw), CHUNK_ID)]


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
    if end != _END or start < len(HEADER) or length > _MAX_INDEX:
        raise Damaged("the pack has no index at its end")
    return int(start)


def dump_entries(entries: Entries) -> bytes:
    """The stored form of a pack's index."""
    first = np.flatnonzero(entries["start"] == 0)
    blobs = np.empty(len(first), dtype=_BLOB)
    for name in ("offset", "stored", "content", "codec"):
        blobs[name] = entries[name][first]
    blobs["chunks"] = np.diff(first, append=len(entries))
    chunks = np.empty(len(entries), dtype=_CHUNK)
    chunks["id"], chunks["length"] = entries["id"], entries["length"]
    return _TABLE.pack(len(blobs), len(chunks)) + blobs.tobytes() + chunks.tobytes()


def parse_entries(raw: bytes, blobs_end: int) -> Entries:
    """Entries whose every blob lies within the pack's. Raises Damaged."""
    count, chunks = _TABLE.unpack_from(raw) if len(raw) >= _TABLE.size else (0, 0)
    split = _TABLE.size + count * _BLOB.itemsize
    if not 0 < count <= chunks <= MAX_ENTRIES or len(raw) != split + chunks * _CHUNK.itemsize:
        raise Damaged("a pack index has an impossible length")
    return _entries(
        np.frombuffer(raw, _BLOB, count, _TABLE.size),
        np.frombuffer(raw, _CHUNK, chunks, split),
        blobs_end,
    )


def _entries(blobs: Entries, chunks: Entries, blobs_end: int) -> Entries:
    """One entry a chunk out of the two tables. Raises Damaged when they cannot be true."""
    counts, lengths = blobs["chunks"].astype(np.int64), chunks["length"].astype(np.int64)
    ends = blobs["offset"].astype(np.int64) + blobs["stored"]
    sane = (
        int(counts.min()) > 0
        and int(counts.sum()) == len(chunks)
        and int(blobs["offset"].min()) >= len(HEADER)
        and int(ends.max()) <= blobs_end
        and int(blobs["content"].max()) <= MAX_BLOB
        and int(lengths.min()) > 0
        and bool(np.isin(blobs["codec"], CODECS).all())
    )
    first = np.cumsum(counts) - counts
    if not sane or not np.array_equal(np.add.reduceat(lengths, first), blobs["content"]):
        raise Damaged("a pack index holds impossible values")
    entries: Entries = np.empty(len(chunks), dtype=ENTRY)
    for name in ("offset", "stored", "content", "codec"):
        entries[name] = np.repeat(blobs[name], counts)
    before = np.cumsum(lengths) - lengths
    entries["start"] = before - np.repeat(before[first], counts)
    entries["id"], entries["length"] = chunks["id"], chunks["length"]
    return entries


def by_blob(entries: Entries) -> Iterator[Entries]:
    """The entries of one blob after the other."""
    first = np.flatnonzero(entries["start"] == 0)
    return (entries[a:b] for a, b in pairwise([*first.tolist(), len(entries)]))
