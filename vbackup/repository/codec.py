"""Sealing and compression: how bytes become stored bytes, and back, never trusting either.

Every sealed thing has a key of its own, derived from the data key, a purpose and a name, and a
random 96-bit nonce. A nonce could therefore only ever repeat among sealings of the same name,
so the number of chunks that a repository may hold is not bounded by the birthday of nonces.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vbackup.errors import Damaged
from vbackup.ports import Buffer
from vbackup.repository import planes

RAW = 0
ZSTD = 1
PLANES = 2
CODECS = (RAW, ZSTD, PLANES)

NONCE = 12
TAG = 16


class Seal(Protocol):
    """Authenticates, and usually encrypts. `overhead` is what sealing adds, in bytes."""

    overhead: int
    encrypted: bool

    def seal(
        self, purpose: bytes, name: bytes, data: Buffer, bound: bytes = b"", prefix: bytes = b""
    ) -> bytearray:
        """`prefix` as it is, then the sealed form of data: one buffer, written once. `bound` is
        authenticated beside it, not stored."""
        ...

    def unseal(self, purpose: bytes, name: bytes, sealed: Buffer, bound: bytes = b"") -> bytes:
        """The data. Raises Damaged when one bit of anything differs."""
        ...


def _subkey(data_key: bytes, purpose: bytes, name: bytes) -> bytes:
    return blake3(purpose + b"\0" + name, key=data_key).digest()


class AesGcmSeal:
    """nonce (12) | AES-256-GCM ciphertext | tag (16)."""

    overhead = NONCE + TAG
    encrypted = True

    def __init__(self, data_key: bytes) -> None:
        self._data_key = data_key

    def seal(
        self, purpose: bytes, name: bytes, data: Buffer, bound: bytes = b"", prefix: bytes = b""
    ) -> bytearray:
        nonce = os.urandom(NONCE)
        sealed = bytearray(len(prefix) + len(data) + self.overhead)
        start = len(prefix) + NONCE
        sealed[:start] = prefix + nonce
        cipher = AESGCM(_subkey(self._data_key, purpose, name))
        cipher.encrypt_into(nonce, data, bound, memoryview(sealed)[start:])
        return sealed

    def unseal(self, purpose: bytes, name: bytes, sealed: Buffer, bound: bytes = b"") -> bytes:
        view = memoryview(sealed)
        if len(view) < self.overhead:
            raise Damaged("sealed data is too short")
        cipher = AESGCM(_subkey(self._data_key, purpose, name))
        try:
            return cipher.decrypt(bytes(view[:NONCE]), view[NONCE:], bound)
        except InvalidTag:
            raise Damaged("sealed data does not authenticate") from None


class PlainSeal:
    """data | first 16 bytes of its keyed BLAKE3: for repositories without encryption."""

    overhead = TAG
    encrypted = False

    def __init__(self, data_key: bytes) -> None:
        self._data_key = data_key

    def seal(
        self, purpose: bytes, name: bytes, data: Buffer, bound: bytes = b"", prefix: bytes = b""
    ) -> bytearray:
        return bytearray().join((prefix, data, self._tag(purpose, name, data, bound)))

    def unseal(self, purpose: bytes, name: bytes, sealed: Buffer, bound: bytes = b"") -> bytes:
        view = memoryview(sealed)
        if len(view) < self.overhead:
            raise Damaged("sealed data is too short")
        data = bytes(view[:-TAG])
        if self._tag(purpose, name, data, bound) != view[-TAG:]:
            raise Damaged("sealed data does not match its checksum")
        return data

    def _tag(self, purpose: bytes, name: bytes, data: Buffer, bound: bytes) -> bytes:
        digest = blake3(
            len(bound).to_bytes(8, "little"), key=_subkey(self._data_key, purpose, name)
        )
        return digest.update(bound).update(data).digest()[:TAG]


def _of_planes() -> zstandard.ZstdCompressionParameters:
    """A plane repeats no strings, its bytes are only unevenly frequent: looking for matches costs
    three times as much, and what is found by chance makes the frame longer."""
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST,
        window_log=18,
        hash_log=6,
        chain_log=6,
        search_log=1,
        min_match=7,
        write_content_size=1,
    )


class Compression(threading.local):
    """Zstandard at one level; one context a thread, since contexts are not thread-safe."""

    def __init__(self, level: int) -> None:
        self._whole = zstandard.ZstdCompressor(level=level)
        self._plane = zstandard.ZstdCompressor(compression_params=_of_planes())

    def pack(self, data: Buffer) -> tuple[int, Buffer]:
        """The codec and the bytes to store: the data itself where nothing saves 3 %."""
        squeeze, squeeze_plane = self._whole.compress, self._plane.compress
        if planes.worthwhile(data, squeeze, squeeze_plane):
            codec, squeezed = PLANES, planes.pack(data, planes.STRIDE, squeeze_plane)
        else:
            codec, squeezed = ZSTD, squeeze(data)
        return (codec, squeezed) if len(squeezed) < len(data) * 0.97 else (RAW, data)


_decompressors = threading.local()


def expand(codec: int, stored: bytes, length: int) -> bytes:
    """The `length` bytes that were stored. Raises Damaged, and before it allocates anything
    when the stored bytes would expand to another length."""
    if codec == RAW:
        expanded = stored
    elif codec == ZSTD:
        expanded = _decompress(stored, length)
    elif codec == PLANES:
        expanded = planes.unpack(stored, length, _decompress)
    else:
        raise Damaged(f"unknown codec {codec}")
    if len(expanded) != length:
        raise Damaged(f"expands to {len(expanded)} bytes, {length} were expected")
    return expanded


def _decompress(stored: Buffer, length: int) -> bytes:
    try:
        if zstandard.frame_content_size(stored) != length:
            raise Damaged(f"does not expand to the {length} bytes it should")
        decompressor = getattr(_decompressors, "zstd", None)
        if decompressor is None:
            decompressor = _decompressors.zstd = zstandard.ZstdDecompressor()
        return bytes(decompressor.decompress(stored, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise Damaged(f"does not decompress: {error}") from None
