"""JSON out of the store: anybody who may write one object may have written it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from vbackup.errors import Damaged
from vbackup.ports import Buffer

T = TypeVar("T")


def parse(decoder: msgspec.json.Decoder[T], data: Buffer, what: str, *, hint: str = "") -> T:
    """The value that the decoder is for. Raises Damaged, naming `what`, for anything else: not
    JSON, other types, text that is no UTF-8, or so deep that the decoder gives up."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Damaged(f"{what} is malformed: {error}", hint=hint) from None
