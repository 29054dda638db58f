"""Points of shard snapshots as a restore would leave them: with the patch applied, in memory.

Bounded by the patch, which holds what changed around one backup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import Any

from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.link import Link
from vbackup.model.patch import Delete, PatchLine, Upsert
from vbackup.ports import PointReader

Project = Callable[[Link, Sequence[PointId], Sequence[dict[str, Any]]], PointBlock]
"""Columns of a link out of whole points: those that its filters admit."""


class PatchedPoints:
    """A PointReader over another one and a patch."""

    def __init__(self, points: PointReader, patch: Iterable[PatchLine], project: Project) -> None:
        self._points = points
        self._project = project
        self._gone: dict[str, set[PointId]] = {}
        self._written: dict[str, dict[PointId, dict[str, Any]]] = {}
        for line in patch:
            if isinstance(line, Delete):
                self._gone.setdefault(line.collection, set()).add(line.id)
            elif isinstance(line, Upsert):
                self._written.setdefault(line.collection, {})[line.id] = line.payload

    def collections(self) -> Sequence[str]:
        """See ports.PointReader."""
        return self._points.collections()

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """See ports.PointReader."""
        for block in self._points.points(link, collection):
            yield self._without(collection, block)
        written = self._written.get(collection)
        if written:
            yield self._project(link, list(written), list(written.values()))

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """See ports.PointReader."""
        written = self._written.get(collection, {})
        here = [point for point in ids if point in written]
        old = self._without(collection, self._points.lookup(link, collection, ids))
        return _joined(old, self._project(link, here, [written[point] for point in here]))

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """See ports.PointReader."""
        written = self._written.get(collection, {})
        new = self._project(link, list(written), list(written.values()))
        wanted = set(keys)
        old = self._without(collection, self._points.owned(link, collection, keys))
        return _joined(old, _masked(new, [ref in wanted for ref in new.refs]))

    def _without(self, collection: str, block: PointBlock) -> PointBlock:
        """Without the points that the patch deletes or writes anew."""
        gone = self._gone.get(collection, set())
        written = self._written.get(collection, {})
        if not gone and not written:
            return block
        return _masked(block, [p not in gone and p not in written for p in block.ids])


def _masked(block: PointBlock, mask: Sequence[bool]) -> PointBlock:
    if all(mask):
        return block
    return PointBlock(
        ids=list(compress(block.ids, mask)),
        refs=list(compress(block.refs, mask)),
        versions=None if block.versions is None else list(compress(block.versions, mask)),
        tenants=None if block.tenants is None else list(compress(block.tenants, mask)),
    )


def _joined(one: PointBlock, other: PointBlock) -> PointBlock:
    return PointBlock(
        ids=[*one.ids, *other.ids],
        refs=[*one.refs, *other.refs],
        versions=_both(one.versions, other.versions),
        tenants=_both(one.tenants, other.tenants),
    )


def _both(
    one: Sequence[str | None] | None, other: Sequence[str | None] | None
) -> list[str | None] | None:
    return None if one is None or other is None else [*one, *other]
