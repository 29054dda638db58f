"""Changes to live collections that must not undo what an application writes meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from vbackup.model.blocks import Point, PointId
from vbackup.ports import PointTarget


class PointEditor(Protocol):
    """Compare-and-set on points: what a repair needs of a live Qdrant deployment."""

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        """Whole points by id; absent ones are left out."""
        ...

    def delete_unchanged(self, collection: str, points: Sequence[Point]) -> None:
        """Delete each of these points unless its payload is another one by now."""
        ...

    def write_unchanged(
        self, collection: str, points: Sequence[Point], seen: Mapping[PointId, Point]
    ) -> None:
        """Write each of these points where `seen` holds no point of its id and there still is
        none, or where the point in `seen` still is as it was. Others are left alone."""
        ...


class WholePoints(Protocol):
    """Whole points by id, as `ports.PointSource` gives them."""

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]: ...


class CheckedEditor:
    """A PointEditor out of plain reads and writes, for a store without conditional writes.

    Between its check and its write there is a moment in which an application's write to that
    very point would be lost; what a repair reads afterwards (engine.removal) notices, but
    cannot always make up for it. Conditional requests have no such moment: prefer them.
    """

    def __init__(self, source: WholePoints, target: PointTarget) -> None:
        self._source = source
        self._target = target

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        """See PointEditor."""
        return self._source.fetch_ids(collection, ids)

    def delete_unchanged(self, collection: str, points: Sequence[Point]) -> None:
        """See PointEditor."""
        now = self._now(collection, points)
        same = [p.id for p in points if p.id in now and now[p.id].payload == p.payload]
        if same:
            self._target.delete(collection, same)

    def write_unchanged(
        self, collection: str, points: Sequence[Point], seen: Mapping[PointId, Point]
    ) -> None:
        """See PointEditor."""
        now = self._now(collection, points)
        fit = [point for point in points if _unchanged(seen.get(point.id), now.get(point.id))]
        if fit:
            self._target.upsert(collection, fit)

    def _now(self, collection: str, points: Sequence[Point]) -> dict[PointId, Point]:
        found = self._source.fetch_ids(collection, [point.id for point in points])
        return {point.id: point for point in found}


def _unchanged(seen: Point | None, now: Point | None) -> bool:
    if seen is None or now is None:
        return seen is now
    return seen.payload == now.payload
