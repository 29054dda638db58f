"""Columns of a row listing: JSON arrays of texts, of numbers and UUIDs without making each text."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from vbackup.engine.fingerprints import U8, integers_at, uuids_of
from vbackup.model.columns import Integers, Uuids

_QUOTE, _COMMA, _OPEN, _CLOSE = b'",[]'
_UUID = 36
_ENTRY = _UUID + 3
"""A UUID with its quotes and what follows it."""
_BETWEEN = 3
"""What lies between two texts: a quote, a comma, a quote."""

_decode = msgspec.json.Decoder(list[str | None]).decode
_decode_whole = msgspec.json.Decoder(list[str]).decode


def written(column: Sequence[str]) -> msgspec.Raw | list[str]:
    """A column as msgspec can encode it."""
    if not isinstance(column, Uuids):
        return list(column)
    table = np.empty((len(column), _ENTRY), np.uint8)
    table[:, 0] = table[:, _UUID + 1] = _QUOTE
    table[:, 1 : _UUID + 1] = column.codes()
    table[:, _UUID + 2] = _COMMA
    return msgspec.Raw(b"[" + table.tobytes()[:-1] + b"]")


def whole(raw: bytes) -> Sequence[str]:
    """An array of texts, none of them null. Raises msgspec's errors."""
    return _packed(raw) or _decode_whole(raw)


def said(raw: bytes) -> Sequence[str | None] | None:
    """An array of texts and nulls, or null. Raises msgspec's errors."""
    return None if raw == b"null" else _packed(raw) or _decode(raw)


def _packed(raw: bytes) -> Integers | Uuids | None:
    """The array, if it holds canonical UUIDs or canonical integers alone, and no spaces."""
    codes = np.frombuffer(raw, np.uint8)
    return (_uuids(codes) or _integers(codes)) if len(codes) > _BETWEEN else None


def _uuids(codes: U8) -> Uuids | None:
    if len(codes) % _ENTRY != 1:
        return None
    table = codes[1:].reshape(-1, _ENTRY)
    edges = table[:, (0, _UUID + 1, _UUID + 2)]
    if not (edges == (_QUOTE, _QUOTE, _COMMA))[:-1].all():
        return None
    if codes[0] != _OPEN or edges[-1].tolist() != [_QUOTE, _QUOTE, _CLOSE]:
        return None
    halves = uuids_of(table[:, 1 : _UUID + 1])
    return Uuids(*halves) if halves else None


def _integers(codes: U8) -> Integers | None:
    quotes = np.flatnonzero(codes == _QUOTE)
    if len(quotes) % 2 or codes[0] != _OPEN or codes[-1] != _CLOSE:
        return None
    starts, ends = quotes[0::2] + 1, quotes[1::2]
    if not len(ends) or starts[0] != 2 or ends[-1] != len(codes) - 2:
        return None
    if not (starts[1:] - ends[:-1] == _BETWEEN).all() or not (codes[ends[:-1] + 1] == _COMMA).all():
        return None
    values = integers_at(codes, starts, ends)
    return None if values is None else Integers(values)
