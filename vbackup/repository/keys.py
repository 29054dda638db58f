"""Keys: one random repository key, wrapped once per passphrase in key slots.

Adding and removing passphrases rewrites vbackup.json only. Everything else is derived from the
repository key with keyed BLAKE3 (docs/format.md).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vbackup.errors import Damaged, Denied, NotFound, Refused
from vbackup.ports import Buffer
from vbackup.repository.codec import AesGcmSeal, PlainSeal, Seal

CHUNK_ID = 16
"""Bytes of a chunk id."""

_SCRYPT_N = 2**16
_SCRYPT_R = 8
_SCRYPT_P = 1
_SCRYPT_MEMORY = 512 * 1024**2
_WRAP = b"vbackup key slot 1"


@dataclass(frozen=True, slots=True)
class RepositoryKeys:
    """What the repository key yields. Never printed: it has no useful repr."""

    master: bytes

    def __repr__(self) -> str:
        return "RepositoryKeys(...)"

    def _derive(self, purpose: bytes) -> bytes:
        return blake3(purpose, key=self.master).digest()

    @property
    def seed(self) -> int:
        """The chunker's seed: 63 random bits, never 0."""
        return int.from_bytes(self._derive(b"vbackup chunker seed")[:8], "little") >> 1 | 1

    def hasher(self) -> ChunkHasher:
        """Names chunks."""
        return ChunkHasher(self._derive(b"vbackup chunk ids"))

    def seal(self, *, encrypted: bool) -> Seal:
        """Seals data."""
        data_key = self._derive(b"vbackup data")
        return AesGcmSeal(data_key) if encrypted else PlainSeal(data_key)

    def mac(self, data: bytes) -> str:
        """64 hex digits that authenticate vbackup.json."""
        return blake3(data, key=self._derive(b"vbackup config")).hexdigest()


class ChunkHasher:
    """Chunk ids: keyed BLAKE3, so that a stranger cannot test for known content."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def id(self, data: Buffer) -> bytes:
        """16 bytes."""
        return blake3(data, key=self._key).digest(CHUNK_ID)


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One passphrase's copy of the repository key. Binary values are hex."""

    id: str
    label: str
    created_at: datetime
    n: int
    r: int
    p: int
    salt: str
    wrapped: str


def new_keys() -> RepositoryKeys:
    """A fresh random repository key."""
    return RepositoryKeys(secrets.token_bytes(32))


def wrap(keys: RepositoryKeys, passphrase: str, label: str, at: datetime) -> KeySlot:
    """A new slot for this passphrase. Raises Refused for an empty one."""
    if not passphrase:
        raise Refused("the passphrase is empty", hint="choose one of at least 12 characters")
    salt, nonce = os.urandom(32), os.urandom(12)
    key = _stretch(passphrase, salt, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P)
    wrapped = nonce + AESGCM(key).encrypt(nonce, keys.master, _WRAP)
    return KeySlot(
        id=secrets.token_hex(4),
        label=label,
        created_at=at,
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
        salt=salt.hex(),
        wrapped=wrapped.hex(),
    )


def unwrap(slots: Sequence[KeySlot], passphrase: str) -> tuple[RepositoryKeys, KeySlot]:
    """The keys and the slot that opened. Raises Denied when no slot does."""
    for slot in slots:
        key = _stretch(passphrase, bytes.fromhex(slot.salt), slot.n, slot.r, slot.p)
        sealed = bytes.fromhex(slot.wrapped)
        try:
            return RepositoryKeys(AESGCM(key).decrypt(sealed[:12], sealed[12:], _WRAP)), slot
        except InvalidTag:
            continue
    raise Denied(
        "the passphrase opens none of the repository's key slots",
        hint="check repository.passphrase (or its file, environment or command)",
    )


def without(slots: Sequence[KeySlot], wanted: str) -> tuple[KeySlot, ...]:
    """The slots but the one with this id. Raises NotFound; Refused for the last one."""
    kept = tuple(slot for slot in slots if slot.id != wanted)
    if len(kept) == len(slots):
        raise NotFound(f"no key slot {wanted}", hint="vbackup key list")
    if not kept:
        raise Refused(
            "this is the last passphrase; without it nothing could be read",
            hint="vbackup key add first",
        )
    return kept


def check_slot(slot: KeySlot) -> None:
    """Raises Damaged for a slot that would cost absurd memory or is not well formed."""
    bounded = 1 < slot.n <= 2**20 and 1 <= slot.r <= 64 and 1 <= slot.p <= 16
    # The last is scrypt's own bound (RFC 7914): outside it, it refuses to work at all.
    costly = 128 * slot.n * slot.r > _SCRYPT_MEMORY or slot.n >= 2 ** (16 * slot.r)
    if not bounded or slot.n & (slot.n - 1) or costly:
        raise Damaged(f"key slot {slot.id}: parameters out of bounds")
    try:
        lengths = len(bytes.fromhex(slot.salt)), len(bytes.fromhex(slot.wrapped))
    except ValueError:
        raise Damaged(f"key slot {slot.id}: not hexadecimal") from None
    if lengths != (32, 12 + 32 + 16):
        raise Damaged(f"key slot {slot.id}: wrong lengths")


def _stretch(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * _SCRYPT_MEMORY, dklen=32
    )
