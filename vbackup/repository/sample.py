"""Samples of packs to verify: `5%`, `1/7`, `10GiB`. They rotate, so that in time all are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from vbackup.config_types import parse_size
from vbackup.errors import Damaged, Denied, NotFound, Refused, Usage
from vbackup.ports import ObjectStore
from vbackup.repository import sealed
from vbackup.repository.codec import Seal

CURSOR_KEY = "checks/cursor"
_LIMIT = 4096

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_FRACTION = re.compile(r"(\d+)\s*/\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Sample:
    """A share (0 to 1) of the stored bytes, or a number of bytes."""

    share: float = 1.0
    size: int | None = None

    @classmethod
    def parse(cls, text: str) -> Sample:
        """Raises Usage."""
        percent, fraction = _PERCENT.fullmatch(text.strip()), _FRACTION.fullmatch(text.strip())
        try:
            if percent:
                found = cls(float(percent[1]) / 100)
            elif fraction:
                found = cls(int(fraction[1]) / int(fraction[2]))
            else:
                found = cls(0.5, parse_size(text))
        except (ValueError, ZeroDivisionError):
            found = cls(0.0)
        if not 0 < found.share <= 1 or found.size == 0:
            raise Usage(f"not a sample: {text!r}", hint="write 5%, 1/7 or 10GiB")
        return found

    def of(self, total: int) -> int:
        """The bytes to read of a total."""
        return min(total, math.ceil(total * self.share) if self.size is None else self.size)


def choose(sizes: Mapping[bytes, int], sample: Sample, cursor: bytes) -> list[bytes]:
    """Packs in the order of their ids from just behind the cursor on, round the end, until the
    sample is full. Sampling n times 1/n from where the last one ended reads every pack."""
    ordered = sorted(sizes)
    behind = [pack for pack in ordered if pack > cursor]
    wanted = sample.of(sum(sizes.values()))
    chosen: list[bytes] = []
    total = 0
    for pack in behind + ordered[: len(ordered) - len(behind)]:
        if total >= wanted:
            break
        chosen.append(pack)
        total += sizes[pack]
    return chosen


def read_cursor(store: ObjectStore, seal: Seal) -> bytes:
    """Where the last sample ended; the beginning where nobody knows."""
    try:
        data = sealed.fetch(store, CURSOR_KEY, _LIMIT)
        return sealed.decode(seal, sealed.CURSOR, CURSOR_KEY, data, limit=_LIMIT)
    except (NotFound, Damaged):
        return b""


def write_cursor(store: ObjectStore, seal: Seal, cursor: bytes) -> None:
    """Remember it, where writing is allowed."""
    with suppress(Denied, Refused):
        store.put(CURSOR_KEY, sealed.encode(seal, sealed.CURSOR, CURSOR_KEY, cursor))
