"""The row listing of a link: every (key, version, live, ...) as the watermark saw it.

The comparison under the watermark reads all of it anyway; stored beside the dump it lets the two
halves of a backup be compared later with no server, although `where`, `live` and the others are
SQL that only a server can evaluate. One JSON line a block (docs/format.md, section Row listing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import msgspec

from vbackup.engine.listedcolumns import said, whole, written
from vbackup.errors import Damaged, NotFound
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link
from vbackup.ports import RowReader

READ_BLOCK = 1 << 20
# Columns of numbers and of UUIDs are stored as the texts that they read like.
_encoder = msgspec.json.Encoder(enc_hook=written)
_NULL = msgspec.Raw(b"null")


class _Line(msgspec.Struct):
    """A RowBlock as it is stored: columns that the link does not have are null."""

    keys: msgspec.Raw
    versions: msgspec.Raw = _NULL
    live: list[bool] | None = None
    counts: list[int | None] | None = None
    tenants: list[str | None] | None = None
    collections: list[str | None] | None = None


_decoder = msgspec.json.Decoder(_Line)


class ListedRows:
    """A RowReader that keeps in a file what it reads."""

    def __init__(self, rows: RowReader, path: Path) -> None:
        self._rows = rows
        self._path = path
        self.count = 0

    def rows(self, link: Link) -> Iterator[RowBlock]:
        """See ports.RowReader."""
        with self._path.open("wb") as file:
            for block in self._rows.rows(link):
                file.write(_encoder.encode(block) + b"\n")
                self.count += len(block)
                yield block

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        """See ports.RowReader."""
        return self._rows.lookup(link, keys)

    def stream(self) -> Iterator[bytes]:
        """The listing, as it is stored."""
        with self._path.open("rb") as file:
            while block := file.read(READ_BLOCK):
                yield block


class StoredRows:
    """A RowReader over the row listings of a backup."""

    def __init__(self, open_listing: Callable[[str], Iterator[bytes] | None]) -> None:
        """`open_listing` gives the stored listing of a link by name; None when there is none."""
        self._open = open_listing

    def rows(self, link: Link) -> Iterator[RowBlock]:
        """See ports.RowReader. Raises NotFound, Damaged."""
        stream = self._open(link.name)
        if stream is None:
            raise NotFound(
                f"the backup has no row listing of link {link.name!r}",
                hint="it was taken without this link; use --level drill",
            )
        for number, line in enumerate(_lines(stream), 1):
            try:
                block = _block(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Damaged(f"row listing of {link.name!r}, line {number}: {error}") from error
            yield block

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        """See ports.RowReader; reads the whole listing."""
        wanted = set(keys)
        found = _Found()
        for block in self.rows(link):
            mask = [key in wanted for key in block.keys]
            if any(mask):
                _extend(found, block, mask)
        return RowBlock(
            found.keys, found.versions, found.live, found.counts, found.tenants, found.collections
        )


def _block(line: bytes) -> RowBlock:
    found = _decoder.decode(line)
    return RowBlock(
        whole(bytes(found.keys)),
        said(bytes(found.versions)),
        found.live,
        found.counts,
        found.tenants,
        found.collections,
    )


@dataclass(slots=True)
class _Found:
    """The rows of a lookup so far."""

    keys: list[str] = field(default_factory=list)
    versions: list[str | None] | None = None
    live: list[bool] | None = None
    counts: list[int | None] | None = None
    tenants: list[str | None] | None = None
    collections: list[str | None] | None = None


def _extend(into: _Found, block: RowBlock, mask: Sequence[bool]) -> None:
    into.keys += compress(block.keys, mask)
    for name in ("versions", "live", "counts", "tenants", "collections"):
        column = getattr(block, name)
        if column is not None:
            setattr(into, name, [*(getattr(into, name) or []), *compress(column, mask)])


def _lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    for block in stream:
        first, *more = block.split(b"\n")
        rest.append(first)
        if more:
            yield b"".join(rest)
            yield from more[:-1]
            rest = [more[-1]]
    if last := b"".join(rest):
        yield last
