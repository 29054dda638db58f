"""Collections under other names than the links know: a restored pair beside the live one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.link import Link
from vbackup.ports import PointReader


class RenamedPoints:
    """A PointReader that answers to the original names and reads the restored collections."""

    def __init__(self, reader: PointReader, names: Mapping[str, str]) -> None:
        self._reader = reader
        self._names = dict(names)

    def collections(self) -> Sequence[str]:
        """The original names."""
        return list(self._names)

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """See ports.PointReader."""
        return self._reader.points(link, self._names[collection])

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """See ports.PointReader."""
        return self._reader.lookup(link, self._names[collection], ids)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """See ports.PointReader."""
        return self._reader.owned(link, self._names[collection], keys)
