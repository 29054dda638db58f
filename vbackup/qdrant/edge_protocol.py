"""What the parent and the process that reads a shard offline say to each other.

Frames of msgpack, each with its length before it; one answer a request, in order.
"""

from __future__ import annotations

import struct
from typing import IO, Any

import msgspec

from vbackup.model.blocks import PointId
from vbackup.model.link import Link

LARGEST = 1 << 30
"""Bytes of one frame that are believed."""
_LENGTH = struct.Struct("<I")


class Scan(msgspec.Struct, frozen=True, tag=True):
    """One page of all points, from an id on, as the link reads them."""

    link: Link
    start: PointId | None
    limit: int


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


class Columns(msgspec.Struct, frozen=True, tag=True):
    """A block of points. `start` is the id that the next page starts from."""

    ids: list[PointId]
    refs: list[str | None]
    versions: list[str | None] | None = None
    tenants: list[str | None] | None = None
    start: PointId | None = None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The shard is loaded."""

    points: int


class WholePoints(msgspec.Struct, frozen=True, tag=True):
    """Each point's id, vectors (as Qdrant's REST API spells them) and payload."""

    points: list[tuple[PointId, Any, dict[str, Any]]]


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """The request failed: the data is damaged, or (`ours`) the reader is wrong."""

    message: str
    ours: bool = False


Request = Scan | Lookup | Owned | Whole
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
