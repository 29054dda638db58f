"""Columns of keys and versions that are all numbers or all UUIDs, kept as numbers.

They read like any other sequence of canonical texts (`model.keys`); who has a million of them
takes the arrays. Making a text of each would cost more than comparing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

T = TypeVar("T")

_TEXT = 36
_DIGITS = [at for at in range(_TEXT) if at not in (8, 13, 18, 23)]


class Integers(Sequence[str]):
    """The decimal texts of signed 64-bit integers."""

    __slots__ = ("values",)

    def __init__(self, values: I64) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        return map(str, self.values.tolist())

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Integers: ...
    def __getitem__(self, at: int | slice) -> str | Integers:
        return Integers(self.values[at]) if isinstance(at, slice) else str(self.values[at])

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    def __repr__(self) -> str:
        return f"Integers({self.values.tolist()})"


class Numbers(Sequence[int]):
    """Unsigned 64-bit integers: point ids."""

    __slots__ = ("values",)

    def __init__(self, values: U64) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[int]:
        return iter(self.values.tolist())

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Numbers: ...
    def __getitem__(self, at: int | slice) -> int | Numbers:
        return Numbers(self.values[at]) if isinstance(at, slice) else int(self.values[at])

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    def __repr__(self) -> str:
        return f"Numbers({self.values.tolist()})"


class Uuids(Sequence[str]):
    """The canonical texts of UUIDs: their first and last 64 bits."""

    __slots__ = ("hi", "lo")

    def __init__(self, hi: U64, lo: U64) -> None:
        self.hi = hi
        self.lo = lo

    @classmethod
    def of_bytes(cls, raw: bytes) -> Uuids:
        """Out of 16 bytes a UUID, in the order in which they are written."""
        halves = np.frombuffer(raw, ">u8").reshape(-1, 2).astype(np.uint64)
        return cls(halves[:, 0].copy(), halves[:, 1].copy())

    def codes(self) -> NDArray[np.uint8]:
        """Their canonical texts as a table of bytes, 36 a row."""
        raw = np.stack([self.hi, self.lo], axis=1).astype(">u8").tobytes()
        table = np.full((len(self), _TEXT), ord("-"), np.uint8)
        table[:, _DIGITS] = np.frombuffer(raw.hex().encode(), np.uint8).reshape(-1, 32)
        return table

    def __len__(self) -> int:
        return len(self.lo)

    def __iter__(self) -> Iterator[str]:
        texts = self.codes().tobytes().decode("ascii")
        return (texts[at : at + _TEXT] for at in range(0, len(texts), _TEXT))

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Uuids: ...
    def __getitem__(self, at: int | slice) -> str | Uuids:
        if isinstance(at, slice):
            return Uuids(self.hi[at], self.lo[at])
        return uuid_text(int(self.hi[at]), int(self.lo[at]))

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    def __repr__(self) -> str:
        return f"Uuids({list(self)})"


def uuid_text(hi: int, lo: int) -> str:
    """The canonical text of a UUID given by its halves."""
    text = f"{hi:016x}{lo:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def picked(column: Sequence[T], mask: NDArray[np.bool_]) -> Sequence[T]:
    """The items that the mask marks; numbers and UUIDs stay what they are."""
    if isinstance(column, Integers):
        return cast("Sequence[T]", Integers(column.values[mask]))
    if isinstance(column, Numbers):
        return cast("Sequence[T]", Numbers(column.values[mask]))
    if isinstance(column, Uuids):
        return cast("Sequence[T]", Uuids(column.hi[mask], column.lo[mask]))
    return list(compress(column, mask.tolist()))


def _same(column: Sequence[object], other: object) -> bool:
    if not isinstance(other, Sequence) or isinstance(other, str):
        return False
    return len(column) == len(other) and all(a == b for a, b in zip(column, other, strict=True))
