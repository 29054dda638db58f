"""The patch: JSON lines that turn shard snapshots into the state at the watermark.

Lines come in the order deletes, upserts, re-embeds (docs/format.md, section Patch).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from vbackup.errors import Damaged
from vbackup.model.blocks import PointId

DeleteReason = Literal["orphan", "not_live", "stale", "ahead", "replaced"]
ReembedReason = Literal["unindexed", "overtaken", "incomplete", "unverifiable", "drift"]

EXPLAINED: dict[str, str] = {
    "unindexed": "its point was not written yet when the backup looked for it",
    "overtaken": "its point had already moved past the watermark's version",
    "incomplete": "only some of its points were there",
    "unverifiable": "nothing says which version its point belongs to",
    "drift": "it had no fitting point, and did not change while the backup watched",
}


class Delete(msgspec.Struct, frozen=True, tag_field="op", tag="delete"):
    """A point that must not survive the restore."""

    collection: str
    link: str
    key: str | None
    id: PointId
    reason: DeleteReason

    @property
    def shrinks(self) -> bool:
        """Whether no other point of the same row comes in its place."""
        return self.reason != "replaced"


class Upsert(msgspec.Struct, frozen=True, tag_field="op", tag="upsert"):
    """A point as it was at the watermark. `vector` is Qdrant's REST JSON."""

    collection: str
    link: str
    key: str
    version: str | None
    id: PointId
    vector: Any
    payload: dict[str, Any]
    shard_key: str | int | None = None


class Reembed(msgspec.Struct, frozen=True, tag_field="op", tag="reembed", omit_defaults=True):
    """A live row whose point must be made again by the application's indexer. `collection` is
    where it belongs, "" where the row names none; None where rows do not say."""

    link: str
    key: str
    version: str | None
    tenant: str | None
    reason: ReembedReason
    collection: str | None = None

    @property
    def named(self) -> str:
        """The row among all of its link."""
        return self.key if self.collection is None else named(self.key, self.collection)


def named(key: str, collection: str) -> str:
    """A row of a link whose rows name their collection: one of that key may be in each."""
    return f"{key}\0{collection}"


PatchLine = Delete | Upsert | Reembed

_decoder: msgspec.json.Decoder[PatchLine] = msgspec.json.Decoder(Delete | Upsert | Reembed)
_encoder = msgspec.json.Encoder()


def encode(line: PatchLine) -> bytes:
    """One JSON line with its newline."""
    return _encoder.encode(line) + b"\n"


def decode(stream: Iterable[bytes]) -> Iterator[PatchLine]:
    """Parse a stream of JSON lines cut anywhere. Raises Damaged."""
    rest = b""
    number = 0
    for block in stream:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            yield _parse(line, number)
    if rest:
        yield _parse(rest, number + 1)


def _parse(line: bytes, number: int) -> PatchLine:
    try:
        return _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise Damaged(f"patch line {number} cannot be read: {error}") from error
