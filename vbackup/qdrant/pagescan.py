"""Pages of a scroll, read as bytes: columns of numbers and UUIDs without an object a point.

Most links need the id and one or two numbers or UUIDs of each point, and then all records of a
page are spelled alike. The first record tells how; the others are held against it byte by byte,
whole columns at a time. A page with anything else in it is not read here, but by the JSON decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.columns import Integers, Numbers, Uuids
from vbackup.model.link import Link, PayloadPath

Codes = NDArray[np.uint8]
Places = NDArray[np.int64]

_HEAD = b'{"result":{"points":['
_TAIL = b'],"next_page_offset":'
_BRACE, _COMMA, _DASH, _ZERO = b"{,-0"
_DIGITS = 18
"""All numbers of so many digits are below 2**63."""
_POWERS = np.array([10**n for n in range(_DIGITS + 1)], np.int64)
_UUID = 36
_DASHES = (8, 13, 18, 23)
_HEXES = (slice(0, 8), slice(9, 13), slice(14, 18), slice(19, 23), slice(24, 36))
_WIDTHS = (4, 10, _DIGITS + 1)
"""Bytes to look at for a number, until one is enough for all."""


class _Record(msgspec.Struct):
    id: PointId
    payload: dict[str, Any] | None = None


class Rest(msgspec.Struct):
    """A page without its points."""

    next_page_offset: PointId | None = None


class _Answer(msgspec.Struct):
    result: Rest


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
_decode_record = msgspec.json.Decoder(_Record).decode
_decode_rest = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, slots=True)
class Field:
    """One value of each record, and the bytes before it."""

    name: str | None
    before: bytes
    kind: Literal["number", "uuid"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How every record of a page is spelled. The first field is the id, its name None."""

    fields: tuple[Field, ...]
    after: bytes

    @property
    def braces(self) -> int:
        """How many `{` a record has."""
        return b"".join([*(field.before for field in self.fields), self.after]).count(b"{")


def rest_of(raw: bytes) -> Rest | None:
    """What comes behind the points of an answer; None when that cannot be told without decoding
    them."""
    end = raw.rfind(_TAIL)
    if end < 0 or not raw.startswith(_HEAD):
        return None
    try:
        return _decode_rest(_HEAD + raw[end:]).result
    except _UNREADABLE:
        return None


class PageScan:
    """Reads the pages of one link, whose filters the server applies."""

    def __init__(self, link: Link) -> None:
        self._link = link
        paths = [*link.ref, *([link.version] if link.version else [])]
        self._able = (
            len(link.ref) <= 1 and link.tenant is None and all(len(p.steps) == 1 for p in paths)
        )

    def block(self, raw: bytes) -> PointBlock | None:
        """The points of an answer; None when they have to be decoded."""
        end = raw.rfind(_TAIL)
        if not self._able or end < 0 or not raw.startswith(_HEAD):
            return None
        codes = np.frombuffer(raw, np.uint8, offset=len(_HEAD))
        length = end - len(_HEAD)
        starts = np.flatnonzero(codes[:length] == _BRACE)
        layout = layout_of(raw, len(_HEAD), length)
        if layout is None or len(starts) % layout.braces:
            return None
        columns = read(codes, starts[:: layout.braces], length, layout)
        return None if columns is None else self._block(columns)

    def _block(self, columns: dict[str | None, Integers | Uuids]) -> PointBlock | None:
        ids = columns[None]
        refs = ids if self._link.by_id else columns.get(_name(self._link.ref[0]))
        versions = columns.get(_name(self._link.version)) if self._link.version else None
        if refs is None or (versions is None and self._link.version):
            return None
        return PointBlock(
            ids=ids if isinstance(ids, Uuids) else Numbers(ids.values.view(np.uint64)),
            refs=refs,
            versions=versions,
        )


def _name(path: PayloadPath) -> str:
    return path.steps[0]


def layout_of(raw: bytes, start: int, length: int) -> Layout | None:
    """How the first record is spelled; None where one of its values is neither a number nor a
    UUID."""
    after = raw.find(b'},{"id":', start, start + length)
    try:
        record = _decode_record(raw[start : start + length if after < 0 else after + 1])
    except _UNREADABLE:
        return None
    fields: list[Field] = []
    between, payload = b'{"id":', record.payload
    for name, value in [(None, record.id), *(payload or {}).items()]:
        if name is not None:
            between += (b"," if len(fields) > 1 else b',"payload":{') + _quoted(name) + b":"
        kind = _kind(value)
        if kind is None:
            return None
        quote = b'"' if kind == "uuid" else b""
        fields.append(Field(name, between + quote, kind))
        between = quote
    closing = b"}" if payload is None else b"}}" if payload else b',"payload":{}}'
    return Layout(tuple(fields), between + closing)


def _quoted(name: str) -> bytes:
    return msgspec.json.encode(name)


def _kind(value: object) -> Literal["number", "uuid"] | None:
    if type(value) is int:
        return "number"
    return "uuid" if isinstance(value, str) and len(value) == _UUID else None


def read(
    codes: Codes, starts: Places, length: int, layout: Layout
) -> dict[str | None, Integers | Uuids] | None:
    """The columns of a page; None unless every byte up to `length` is accounted for.

    `codes` goes on behind that with the rest of the answer."""
    if not len(starts) or starts[0] != 0:
        return None
    columns: dict[str | None, Integers | Uuids] = {}
    at = starts
    for field in layout.fields:
        if not _spelled(codes, at, field.before):
            return None
        found = _FIELDS[field.kind](codes, at + len(field.before))
        if found is None:
            return None
        columns[field.name], at = found
    if not _spelled(codes, at, layout.after):
        return None
    at = at + len(layout.after)
    between = at[:-1]
    if at[-1] != length or not (between + 1 == starts[1:]).all():
        return None
    return columns if (codes[between] == _COMMA).all() else None


def _windows(codes: Codes, at: Places, size: int) -> NDArray[np.uint8]:
    """`size` bytes from each place on; other bytes where that would be past the end.

    Where all records are of one length nothing is copied."""
    every = np.lib.stride_tricks.sliding_window_view(codes, size)
    if at[-1] < len(every) and (step := _step(at)):
        return every[at[0] : at[-1] + 1 : step]
    return every[np.minimum(at, len(every) - 1)]


def _step(at: Places) -> int:
    """The distance between places in even steps; 0 where the steps differ."""
    if len(at) < 2:
        return 0
    step = int(at[1] - at[0])
    return step if step > 0 and (at[1:] - at[:-1] == step).all() else 0


def _spelled(codes: Codes, at: Places, text: bytes) -> bool:
    """Whether these bytes are at every place."""
    return bool((_windows(codes, at, len(text)) == np.frombuffer(text, np.uint8)).all())


def _numbers(codes: Codes, at: Places) -> tuple[Integers, Places] | None:
    """Unsigned numbers of up to 18 digits at these places, and where they end."""
    first = int((_windows(codes, at[:1], _WIDTHS[-1])[0] - np.uint8(_ZERO) > 9).argmax())
    for width in (width for width in _WIDTHS if width > first):
        digits = _windows(codes, at, width) - np.uint8(_ZERO)
        other = digits > 9
        if other.any(axis=1).all():
            break
    else:
        return None
    sizes = other.argmax(axis=1)
    if not sizes.all():
        return None
    most = int(sizes.max())
    digits = np.where(np.arange(most) < sizes[:, None], digits[:, :most], 0)
    values = digits.astype(np.int64) @ _POWERS[:most][::-1]
    return Integers(values // _POWERS[most - sizes]), at + sizes


def _uuids(codes: Codes, at: Places) -> tuple[Uuids, Places] | None:
    """UUIDs with their dashes, in small letters, at these places, and where they end. Capitals
    are for the decoder, which knows where a spelling counts."""
    texts = _windows(codes, at, _UUID)
    if not (texts[:, _DASHES] == _DASH).all():
        return None
    digits = np.concatenate([texts[:, part] for part in _HEXES], axis=1).tobytes()
    if digits != digits.lower():
        return None
    try:
        raw = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return None
    return (Uuids.of_bytes(raw), at + _UUID) if len(raw) == 16 * len(at) else None


_FIELDS = {"number": _numbers, "uuid": _uuids}
