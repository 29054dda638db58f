"""One spelling per key, so that rows and points of different types can be compared as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import date, time
from decimal import Decimal

_UUID_TEXT = re.compile(
    r"(?:urn:uuid:)?\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?",
    re.IGNORECASE,
)
_UUID_SIZED = 10**31
_UUID_LINE = 37
_UUID_DASHES = (8, 13, 18, 23)


def canonical(value: object) -> str | None:
    """The canonical text of one key or version value; None for null.

    Integers (and floats and decimals without a fraction) become decimal text, every UUID
    spelling becomes lower-case with dashes, times ISO 8601, bytes hexadecimal, booleans and
    JSON containers their compact JSON. Any other text stays as it is: the text "007" is not
    the integer 7.
    """
    if value is None:
        return None
    if isinstance(value, str):
        # Cheap length test first: 32 hex digits are the shortest UUID spelling, 45 the longest.
        if 32 <= len(value) <= 47 and (found := _UUID_TEXT.fullmatch(value)):
            return "-".join(found.groups()).lower()
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # 32 digits read as a UUID when they come as text, so they do when they come as a number.
        return str(value) if abs(value) < _UUID_SIZED else canonical(str(value))
    if isinstance(value, float):
        return canonical(int(value)) if value.is_integer() else repr(value)
    return canonical(_other(value))


def _other(value: object) -> str:
    """The text of what is neither text nor a plain number."""
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return str(int(value)) if whole else str(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return str(value)


def composite(parts: Iterable[str | None]) -> str | None:
    """The text of a composite key (already canonical parts): a compact JSON array.

    A key of one part is that part. A null part makes the whole key null.
    """
    values = list(parts)
    if any(part is None for part in values):
        return None
    if len(values) == 1:
        return values[0]
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)


def all_uuids(column: Sequence[str]) -> bool:
    """Whether all are UUIDs in canonical spelling: the whole column is looked at in a few slices,
    as text columns of a million UUIDs are common."""
    lines, rows = "\n".join(column) + "\n", len(column)
    return (
        len(lines) == _UUID_LINE * rows
        and lines[_UUID_LINE - 1 :: _UUID_LINE] == "\n" * rows
        and all(lines[at::_UUID_LINE] == "-" * rows for at in _UUID_DASHES)
        and not lines.encode().translate(None, b"0123456789abcdef-\n")
    )
