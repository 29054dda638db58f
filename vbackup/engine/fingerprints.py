"""Keys as fixed-width numbers: exact for integers and UUIDs, a 128-bit hash for other text.

A key becomes (kind, hi, lo). Kinds never mix, so the text "7f" can never equal a number. Work
is done a block at a time on the joined bytes: a Python call a key would cost more than all of
the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbackup.model.columns import Integers, Numbers, Uuids, uuid_text

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
Records = NDArray[Any]

NONE, INT, UUID, TEXT = 0, 1, 2, 3

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = range(-(2**63), 2**63)
_POWERS = np.array([10**n for n in range(19)], dtype=np.int64)
_NIBBLE = np.full(256, 255, dtype=np.uint8)
_NIBBLE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_DASHES = [8, 13, 18, 23]
_HEX = [i for i in range(36) if i not in _DASHES]
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """One block of keys: `kind` says which of NONE, INT, UUID, TEXT; None is NONE."""

    kind: U8
    hi: U64
    lo: U64


def fingerprint(keys: Sequence[str | None]) -> Fingerprints:
    """Fingerprints of canonical keys (model.keys); only canonical spellings are numbers."""
    if isinstance(keys, Integers):
        return _of_kind(INT, None, keys.values.view(np.uint64))
    if isinstance(keys, Uuids):
        return _of_kind(UUID, keys.hi, keys.lo)
    count = len(keys)
    kind = np.zeros(count, np.uint8)
    hi, lo = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    present = [key for key in keys if key is not None]
    if not present:
        return Fingerprints(kind, hi, lo)
    if len(present) == count:
        kind, hi, lo = _present(present)
    else:
        where = np.flatnonzero(np.fromiter((key is not None for key in keys), np.bool_, count))
        kind[where], hi[where], lo[where] = _present(present)
    return Fingerprints(kind, hi, lo)


def ids(points: Sequence[int | str]) -> Fingerprints:
    """Point ids as they are: unsigned integers and UUIDs, exact both."""
    if isinstance(points, Numbers):
        return _of_kind(INT, None, points.values)
    if isinstance(points, Uuids):
        return _of_kind(UUID, points.hi, points.lo)
    if all(type(i) is int for i in points):
        return _of_kind(INT, None, np.fromiter(points, np.uint64, len(points)))
    if all(type(i) is str for i in points):
        return fingerprint([str(i) for i in points])
    kind = np.fromiter((INT if type(i) is int else UUID for i in points), np.uint8, len(points))
    hi, lo = np.zeros(len(points), np.uint64), np.zeros(len(points), np.uint64)
    lo[kind == INT] = [i for i in points if type(i) is int]
    others = fingerprint([i for i in points if isinstance(i, str)])
    hi[kind != INT], lo[kind != INT] = others.hi, others.lo
    return Fingerprints(kind, hi, lo)


def _of_kind(kind: int, hi: U64 | None, lo: U64) -> Fingerprints:
    return Fingerprints(
        np.full(len(lo), kind, np.uint8), np.zeros(len(lo), np.uint64) if hi is None else hi, lo
    )


def _present(keys: list[str]) -> tuple[U8, U64, U64]:
    count = len(keys)
    numbers = integers(keys)
    if numbers is not None:
        return np.full(count, INT, np.uint8), np.zeros(count, np.uint64), numbers.view(np.uint64)
    pair = uuids(keys)
    if pair is not None:
        return np.full(count, UUID, np.uint8), *pair
    return _mixed(keys)


def _mixed(keys: list[str]) -> tuple[U8, U64, U64]:
    """Blocks that hold more than one kind: sort the keys out first, then by kind at once."""
    kind = np.fromiter(map(_kind_of, keys), np.uint8, len(keys))
    hi, lo = np.zeros(len(keys), np.uint64), np.zeros(len(keys), np.uint64)
    where = np.flatnonzero(kind == INT)
    values = np.fromiter((int(keys[i]) for i in where), np.int64, len(where))
    lo[where] = values.view(np.uint64)
    where = np.flatnonzero(kind == UUID)
    if len(where) and (pair := uuids([keys[i] for i in where])) is not None:
        hi[where], lo[where] = pair
    where = np.flatnonzero(kind == TEXT)
    hi[where], lo[where] = hashes([keys[i] for i in where])
    return kind, hi, lo


def _kind_of(key: str) -> int:
    if len(key) <= 20 and _INTEGER.fullmatch(key) and int(key) in _INT64:
        return INT
    if len(key) == 36 and uuids([key]) is not None:
        return UUID
    return TEXT


def integers(keys: list[str]) -> I64 | None:
    """The values when every key is a canonical integer of at most 18 digits, else None."""
    text = "\n".join(keys)
    if not text.isascii():
        return None
    codes = np.frombuffer(text.encode() + b"\n", np.uint8)
    ends = np.flatnonzero(codes == 10)
    if len(ends) != len(keys):
        return None
    return integers_at(codes, np.concatenate(([0], ends[:-1] + 1)), ends)


def integers_at(codes: U8, starts: I64, ends: I64) -> I64 | None:
    """The same of the texts at these places, with no digit between them."""
    if not len(ends):
        return np.zeros(0, np.int64)
    negative = codes[starts] == 45
    starts = starts + negative
    lengths = ends - starts
    if lengths.min() < 1 or lengths.max() > 18:
        return None
    digits = codes - np.uint8(48)
    if np.count_nonzero(digits < 10) != lengths.sum():
        return None
    if np.any((digits[starts] == 0) & ((lengths > 1) | negative)):
        return None
    values = _positional(digits, starts, ends, lengths)
    return np.where(negative, -values, values)


def _positional(digits: U8, starts: I64, ends: I64, lengths: I64) -> I64:
    """Horner's rule over columns: a step a digit, each for all keys at once."""
    values = np.zeros(len(starts), np.int64)
    for place in range(int(lengths.max())):
        here = np.maximum(ends - 1 - place, starts)
        digit = digits[here].astype(np.int64)
        digit *= _POWERS[place]
        digit[lengths <= place] = 0
        values += digit
    return values


def uuids(keys: list[str]) -> tuple[U64, U64] | None:
    """High and low halves when every key is a UUID in canonical text, else None."""
    text = "".join(keys)
    if len(text) != 36 * len(keys) or not text.isascii():
        return None
    if any(len(key) != 36 for key in keys):
        return None
    return uuids_of(np.frombuffer(text.encode(), np.uint8).reshape(-1, 36))


def uuids_of(codes: U8) -> tuple[U64, U64] | None:
    """The same of a table of 36 bytes a text."""
    if not (codes[:, _DASHES] == 45).all():
        return None
    nibbles = _NIBBLE[codes[:, _HEX]]
    if (nibbles == 255).any():
        return None
    packed = (nibbles[:, 0::2] << 4) | nibbles[:, 1::2]
    halves = np.ascontiguousarray(packed).view(">u8").astype(np.uint64)
    return halves[:, 0].copy(), halves[:, 1].copy()


def hashes(keys: list[str]) -> tuple[U64, U64]:
    """BLAKE2b-128 of each key's UTF-8."""
    digests = b"".join(
        [blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest() for key in keys]
    )
    halves = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()


def key_text(kind: int, hi: int, lo: int) -> str | None:
    """The key of an INT or a UUID fingerprint; None for NONE and for TEXT, which has to be
    kept elsewhere."""
    if kind == INT:
        return str(lo - 2**64 if lo >= 2**63 else lo)
    if kind == UUID:
        return uuid_text(hi, lo)
    return None


def scramble(values: U64) -> U64:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit
    (the finaliser of splitmix64, http://prng.di.unimi.it/splitmix64.c)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def spread(kind: U8, hi: U64, lo: U64, salt: int = 0) -> U64:
    """A 64-bit hash of fingerprints, even over all its bits: partitions and sort order.

    For keys of one kind with one `hi` (all integers) no two collide; the comparison checks
    the rest and never takes equal hashes for equal keys.
    """
    start = np.uint64((salt * 2 + 1) * _GOLDEN % 2**64)
    tagged = hi ^ (kind.astype(np.uint64) * start)
    return scramble(lo ^ scramble(tagged + start))
