"""Reads the member headers of a tar while it streams past, and tells whether it ended properly.

A failed Qdrant stream looks like a successful one (HTTP 200, a clean end of the chunks), so the
tar itself must prove that it is whole. Only headers are looked at: stored sizes, GNU long names,
GNU sparse maps and pax records, as the `tar` crate that Qdrant uses writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vbackup.errors import Damaged
from vbackup.ports import Buffer

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
LONGEST_TEXT: Final = 1 << 20
"""Bytes of a long name or a pax record that are believed."""


@dataclass(frozen=True, slots=True)
class Member:
    """`stored` is what follows the header in the stream, without padding: for a sparse file less
    than its size."""

    name: str
    kind: str
    stored: int


class TarStream:
    """Feed it the bytes of a tar in order; `seen` is called for every member as its header
    completes. `finish` raises Damaged unless the tar ended with its two zero blocks."""

    def __init__(self, seen: Callable[[Member], None]) -> None:
        self._seen = seen
        self._head = bytearray()
        self._skip = 0
        self._sparse_next = False
        self._text: bytearray | None = None
        self._text_kind = ""
        self._text_left = 0
        self._long_name = ""
        self._pax_size: int | None = None
        self._zeros = 0
        self.length = 0

    def feed(self, data: Buffer) -> None:
        """The next bytes. Raises Damaged where a header cannot be one."""
        self.length += len(data)
        at = 0
        while at < len(data):
            at = self._passed(data, at) if self._skip else self._taken(data, at)

    def finish(self) -> None:
        """The stream is over. Raises Damaged when the tar is not."""
        whole = self._zeros >= 2 and not self._head and not self._skip and self._text is None
        if not whole:
            raise Damaged(f"the tar is cut off after {self.length} bytes", hint="", retryable=True)

    def _passed(self, data: Buffer, at: int) -> int:
        """Go over member data; the text of a long name or pax record is kept."""
        step = min(self._skip, len(data) - at)
        if self._text is not None and self._text_left:
            kept = min(step, self._text_left)
            self._text += data[at : at + kept]
            self._text_left -= kept
        self._skip -= step
        if not self._skip and self._text is not None:
            self._apply(bytes(self._text))
            self._text = None
        return at + step

    def _taken(self, data: Buffer, at: int) -> int:
        """Collect one header block."""
        step = min(BLOCK - len(self._head), len(data) - at)
        self._head += data[at : at + step]
        if len(self._head) == BLOCK:
            block = bytes(self._head)
            self._head.clear()
            self._block(block)
        return at + step

    def _block(self, block: bytes) -> None:
        if self._sparse_next:
            self._sparse_next = block[504] != 0
            if not self._sparse_next:
                self._skip = self._after_sparse
            return
        if block == END[:BLOCK]:
            self._zeros += 1
            return
        if self._zeros:
            raise Damaged("the tar goes on after its end")
        self._header(block)

    def _header(self, block: bytes) -> None:
        if number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise Damaged(f"the tar has no header where one belongs (byte {self.length})")
        kind = chr(block[156]) if block[156] else "0"
        stored = number(block[124:136])
        if kind in "LKxg":
            self._begin_text(kind, stored)
            return
        if self._pax_size is not None:
            stored = self._pax_size
        if kind in "12345" or kind == "6":
            stored = 0
        self._seen(Member(self._long_name or _name(block), kind, stored))
        self._long_name, self._pax_size = "", None
        padded = _padded(stored)
        self._sparse_next = kind == "S" and block[482] != 0
        self._skip, self._after_sparse = (0, padded) if self._sparse_next else (padded, 0)

    def _begin_text(self, kind: str, stored: int) -> None:
        if stored > LONGEST_TEXT:
            raise Damaged(f"the tar has a name of {stored} bytes")
        self._text, self._text_kind, self._text_left = bytearray(), kind, stored
        self._skip = _padded(stored)

    def _apply(self, text: bytes) -> None:
        if self._text_kind == "L":
            self._long_name = text.rstrip(b"\0").decode("utf-8", "replace")
        elif self._text_kind == "x":
            records = pax_records(text)
            self._long_name = records.get("path", self._long_name)
            if records.get("size", "").isdigit():
                self._pax_size = int(records["size"])

    _after_sparse = 0


def number(field: bytes) -> int:
    """A tar number: octal text, or base 256 when the first bit is set. Raises Damaged."""
    if field and field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    text = field.split(b"\0")[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise Damaged("the tar has a header with a number that is none") from None


def pax_records(text: bytes) -> dict[str, str]:
    """The `length key=value` records of a pax header; what is malformed ends them."""
    records: dict[str, str] = {}
    while text:
        size, _, _ = text.partition(b" ")
        if not size.isdigit() or not len(size) < int(size) <= len(text):
            break
        key, _, value = text[len(size) + 1 : int(size) - 1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        text = text[int(size) :]
    return records


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0")[0].decode("utf-8", "replace")
    if block[257:263] != b"ustar\0":
        return name
    prefix = block[345:500].split(b"\0")[0].decode("utf-8", "replace")
    return f"{prefix}/{name}" if prefix else name


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
