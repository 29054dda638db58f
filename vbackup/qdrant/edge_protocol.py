"""What the parent and the process that reads a shard offline say to each other.

Frames of msgpack, each with its length before it; one answer a request, in order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import IO, Any, Literal, TypeVar, cast

import msgspec
import numpy as np

from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.columns import Integers, Numbers, Uuids
from vbackup.model.link import Link

T = TypeVar("T")

LARGEST = 1 << 30
"""Bytes of one frame that are believed."""
_LENGTH = struct.Struct("<I")


class Open(msgspec.Struct, frozen=True, tag=True):
    """The shard's files are there: load them. The first request, and sent once. Of `large` points
    and more the answer brings a sample."""

    large: int


class Scan(msgspec.Struct, frozen=True, tag=True):
    """One page of all points, from an id on to before another, as the link reads them."""

    link: Link
    start: PointId | None
    limit: int
    stop: PointId | None = None


class Lookup(msgspec.Struct, frozen=True, tag=True):
    """These points, as the link reads them."""

    link: Link
    ids: list[PointId]


class Owned(msgspec.Struct, frozen=True, tag=True):
    """The points that refer to one of these keys by payload; one page of them, from an id on."""

    link: Link
    keys: list[str]
    start: PointId | None
    limit: int


class Whole(msgspec.Struct, frozen=True, tag=True):
    """These points with payload and vectors."""

    ids: list[PointId]


class Array(msgspec.Struct, frozen=True, tag=True):
    """A column of `model.columns`, as it lies in memory: both ends are on one machine."""

    kind: Literal["integers", "numbers", "uuids"]
    data: bytes

    @classmethod
    def of(cls, column: Integers | Numbers | Uuids) -> Array:
        if isinstance(column, Uuids):
            return cls("uuids", column.hi.tobytes() + column.lo.tobytes())
        kind: Literal["integers", "numbers"] = (
            "integers" if isinstance(column, Integers) else "numbers"
        )
        return cls(kind, column.values.tobytes())

    def column(self) -> Integers | Numbers | Uuids:
        if self.kind == "integers":
            return Integers(np.frombuffer(self.data, np.int64))
        numbers = np.frombuffer(self.data, np.uint64)
        if self.kind == "numbers":
            return Numbers(numbers)
        return Uuids(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :])


class Columns(msgspec.Struct, frozen=True, tag=True):
    """A block of points. `start` is the id that the next page starts from."""

    ids: list[PointId] | Array
    refs: list[str | None] | Array
    versions: list[str | None] | Array | None = None
    tenants: list[str | None] | None = None
    start: PointId | None = None

    @classmethod
    def of(cls, block: PointBlock, start: PointId | None) -> Columns:
        return cls(
            ids=_packed(block.ids),
            refs=_packed(block.refs),
            versions=None if block.versions is None else _packed(block.versions),
            tenants=None if block.tenants is None else list(block.tenants),
            start=start,
        )

    def block(self) -> PointBlock:
        return PointBlock(
            cast("Sequence[PointId]", _unpacked(self.ids)),
            cast("Sequence[str | None]", _unpacked(self.refs)),
            cast("Sequence[str | None] | None", self.versions and _unpacked(self.versions)),
            self.tenants,
        )


def _packed(column: Sequence[T]) -> list[T] | Array:
    return Array.of(column) if isinstance(column, (Integers, Numbers, Uuids)) else list(column)


def _unpacked(column: Sequence[T] | Array) -> Sequence[T] | Integers | Numbers | Uuids:
    return column.column() if isinstance(column, Array) else column


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The shard is loaded. `points`: about how many it has; `sample`: some of their ids, in the
    order of a scan, if it is large."""

    points: int
    sample: list[PointId] = []


class WholePoints(msgspec.Struct, frozen=True, tag=True):
    """Each point's id, vectors (as Qdrant's REST API spells them) and payload."""

    points: list[tuple[PointId, Any, dict[str, Any]]]


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """The request failed: the data is damaged, or (`ours`) the reader is wrong."""

    message: str
    ours: bool = False


Request = Open | Scan | Lookup | Owned | Whole
Answer = Columns | Ready | WholePoints | Trouble

_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def send(pipe: IO[bytes], message: Request | Answer) -> None:
    data = _encode(message)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive_request(pipe: IO[bytes]) -> Request | None:
    """The next request; None when the parent has gone."""
    data = _frame(pipe)
    return None if data is None else _decode_request(data)


def receive_answer(pipe: IO[bytes]) -> Answer | None:
    """The answer; None when the other process has died."""
    data = _frame(pipe)
    return None if data is None else _decode_answer(data)


def _frame(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    data = pipe.read(size) if size <= LARGEST else b""
    return data if len(data) == size else None
