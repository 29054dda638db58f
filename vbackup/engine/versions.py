"""Versions of rows and points: when two are equal, and which of two is the newer.

Integers (of 64 bits) compare as numbers, ISO 8601 timestamps as instants whatever their
spelling (one without an offset is read as UTC), everything else is equal or different.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from vbackup.engine.fingerprints import (
    I64,
    INT,
    TEXT,
    U8,
    UUID,
    fingerprint,
    scramble,
)
from vbackup.model.columns import Integers

TIME = 4
ORDERED = (INT, TIME)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6})0*)?\s?(?:Z|([+-]\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Versions:
    """One block: `kind` NONE, INT, UUID, TEXT or TIME; `value` is exact for INT and TIME
    (microseconds since 1970), else a 64-bit fingerprint."""

    kind: U8
    value: I64


def encode(versions: Sequence[str | None]) -> Versions:
    if isinstance(versions, Integers):
        return Versions(np.full(len(versions), INT, np.uint8), versions.values)
    prints = fingerprint(versions)
    kind, value = prints.kind, prints.lo.view(np.int64).copy()
    hashed = (kind == UUID) | (kind == TEXT)
    if hashed.any():
        value[hashed] = (scramble(prints.hi[hashed]) ^ prints.lo[hashed]).view(np.int64)
        for i in np.flatnonzero(kind == TEXT).tolist():
            instant = microseconds(str(versions[i]))
            if instant is not None:
                kind[i], value[i] = TIME, instant
    return Versions(kind, value)


def microseconds(text: str) -> int | None:
    """Microseconds since 1970 of an ISO timestamp with date and time; None for other text, and
    for a fraction finer than microseconds, which would not compare exactly."""
    if len(text) < 19 or text[4] != "-" or not (found := _ISO.fullmatch(text)):
        return None
    day, time, fraction, hours, minutes = found.groups()
    try:
        instant = datetime.fromisoformat(f"{day}T{time}+00:00")
    except ValueError:
        return None
    offset = int(hours or 0) * 60
    offset += -int(minutes or 0) if (hours or "").startswith("-") else int(minutes or 0)
    whole = (instant - _EPOCH) // _MICROSECOND - offset * 60_000_000
    return whole + int((fraction or "0").ljust(6, "0"))


def same(one: str | None, other: str | None) -> bool:
    """Whether two versions are equal by the comparison's rules; None is equal to None only."""
    if one == other:
        return True
    return one is not None and other is not None and _ordered(one) == _ordered(other) is not None


def later(one: str, other: str) -> bool:
    """Whether the first version is known to be newer than the second."""
    first, second = _ordered(one), _ordered(other)
    return first is not None and second is not None and first[0] == second[0] and first > second


def _ordered(version: str) -> tuple[int, int] | None:
    """(kind, value) of a version that has an order."""
    encoded = encode([version])
    kind = int(encoded.kind[0])
    return (kind, int(encoded.value[0])) if kind in ORDERED else None
