"""Ranged reads that are checked: what a server says it sends, and what arrives."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from vbackup.errors import Failed, Unreachable
from vbackup.storage.stall import StallGuard

if TYPE_CHECKING:
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

_PIECE = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class _Raw(Protocol):
    """The part of urllib3's response that a read needs."""

    def read1(self, amt: int | None = None) -> bytes: ...
    def read(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` None: to the end."""

    start: int = 0
    length: int | None = None

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.length is None

    @property
    def header(self) -> str:
        last = "" if self.length is None else str(self.start + self.length - 1)
        return f"bytes={self.start}-{last}"


def read_checked(
    answer: GetObjectOutputTypeDef, wanted: ByteRange, guard: StallGuard, what: str
) -> bytes:
    """The wanted bytes. Raises Unreachable when the body ends early or stalls, Failed when the
    server sent another range than was asked for."""
    expected, offset = _announced(answer, wanted, what)
    # Entering the body gives urllib3's response; leaving it closes what was not read to the end.
    with cast("AbstractContextManager[_Raw]", answer["Body"]) as raw:
        data = _drain(raw, expected, guard, what) if expected else b""
    if offset:
        data = data[offset:]
    return data if wanted.length is None else data[: wanted.length]


def _announced(answer: GetObjectOutputTypeDef, wanted: ByteRange, what: str) -> tuple[int, int]:
    """How many bytes the body has, and where in them the wanted range starts."""
    length = answer["ContentLength"]
    if wanted.whole:
        return length, 0
    partial = answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    if not partial and not answer.get("ContentRange"):  # rclone sends a range with status 200
        return length, wanted.start  # a server that ignores ranges sends everything
    found = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if found is None:
        raise Failed(f"cannot read {what}: a partial answer without a Content-Range")
    if found[3] == "0":  # some servers say "0-0/0", and even announce a byte
        return 0, 0
    first, last = int(found[1]), int(found[2])
    end = last + 1 if found[3] == "*" else int(found[3])
    wished = end if wanted.length is None else min(end, wanted.start + wanted.length)
    if (first, last + 1) != (wanted.start, wished) or length != last + 1 - first:
        raise Failed(f"cannot read {what}: asked for {wanted.header}, was sent {found[0]}")
    return length, 0


def _drain(raw: _Raw, expected: int, guard: StallGuard, what: str) -> bytes:
    pieces: list[bytes] = []
    got = 0
    # read1 returns what has arrived, so that the guard sees a trickle; read would wait.
    while got < expected and (piece := raw.read1(min(_PIECE, expected - got))):
        pieces.append(piece)
        got += len(piece)
        guard.moved(len(piece))
    if got != expected:
        raise Unreachable(
            f"cannot read {what}: {got} of {expected} bytes arrived",
            hint="the connection was cut on its way",
        )
    raw.read()  # nothing is left; this gives the connection back to the pool
    return b"".join(pieces)
