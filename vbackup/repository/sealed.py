"""Small sealed objects: manifests, indexes, check records, pins. One envelope for all.

"VBAK" | version 1 | kind | 0 0 | raw length u64 LE | salt (16) | sealed zstd frame
"""

from __future__ import annotations

import os
import struct

import zstandard

from vbackup.errors import Damaged, Refused
from vbackup.ports import Buffer, ObjectStore
from vbackup.repository.codec import ZSTD, Seal, expand

FORMAT_VERSION = 1

_HEADER = struct.Struct("<4sBB2sQ16s")
_MAGIC = b"VBAK"

MANIFEST = b"M"
INDEX = b"I"
CHECK = b"C"
PIN = b"P"
DAMAGED = b"D"
DOOMED = b"X"
CURSOR = b"R"
UNUSED = b"U"


def encode(seal: Seal, kind: bytes, name: str, raw: Buffer) -> bytes:
    """The object that holds `raw`; it opens only as this kind and under this name."""
    salt = os.urandom(16)
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, kind[0], b"\0\0", len(raw), salt)
    body = zstandard.ZstdCompressor(level=3).compress(raw)
    return header + seal.seal(kind, name.encode() + b"\0" + salt, body, header)


def fetch(store: ObjectStore, key: str, limit: int, *, listed: int | None = None) -> bytes:
    """An object whose content may have `limit` bytes, without reading more than such an object
    can have, nor more than it was `listed` with: who fetches several at a time goes by the
    listing. Raises NotFound, Damaged."""
    most = limit + limit // 128 + 4096  # zstd's worst case, the header and the seal
    if listed is not None:
        most = min(most, listed)
    data = store.get(key, 0, most + 1)
    if len(data) > most:
        raise Damaged(f"{key} is larger than {most} bytes")
    return data


def decode(seal: Seal, kind: bytes, name: str, data: Buffer, *, limit: int) -> bytes:
    """The raw bytes. Raises Damaged, also when they would exceed `limit`; Refused when a newer
    vbackup wrote them."""
    view = memoryview(data)
    if len(view) < _HEADER.size:
        raise Damaged("the object is too short")
    header = bytes(view[: _HEADER.size])
    magic, version, found, zeros, length, salt = _HEADER.unpack(header)
    if magic != _MAGIC or found != kind[0] or zeros != b"\0\0":
        raise Damaged("the object is not what its name says")
    if length > limit:
        raise Damaged(f"the object claims {length} bytes, more than the {limit} allowed")
    body = seal.unseal(kind, name.encode() + b"\0" + salt, view[_HEADER.size :], header)
    if version != FORMAT_VERSION:
        raise Refused(f"object version {version} is newer than this vbackup", hint="upgrade")
    return expand(ZSTD, body, length)
