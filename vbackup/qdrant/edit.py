"""Conditional changes to live points: `vbackup.engine.editor.PointEditor` on Qdrant.

A filter that travels with a delete or an upsert is evaluated by each shard when it applies the
operation, in the order of its writes: so a point that an application wrote in between no longer
fits and stays as it is (`update_filter` exists since Qdrant 1.16; tests/integration/reconcile).
Requests ask for strong ordering, so that all replicas see the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from vbackup.errors import Refused
from vbackup.model.blocks import Point, PointId
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.conditions import JsonFilter, server_key
from vbackup.qdrant.points import LivePoints
from vbackup.qdrant.rest import collection_path
from vbackup.qdrant.shardkeys import ensure_keys

BATCH = 64
"""Points a request: each brings its own condition, and its vectors when it is written."""

LONGEST_TEXT = 2_000
"""Longer texts are not made part of a condition."""

SINCE = (1, 16)
"""The first version that knows `update_filter`; older ones would ignore it."""

_PARAMS = {"wait": "true", "ordering": "strong"}
_NO_POINT: JsonFilter = {"must": [{"has_id": []}]}
_INT64 = range(-(2**63), 2**63)


class LiveEditor:
    """Edits the collections of one running deployment."""

    def __init__(self, cluster: Cluster) -> None:
        """Raises Refused where a node is too old for conditional upserts."""
        for location, version in cluster.versions().items():
            if tuple(int(part) for part in version.split(".")[:2]) < SINCE:
                raise Refused(
                    f"Qdrant {version} at {location} has no conditional writes",
                    hint="a repair beside writers needs Qdrant 1.16 or newer",
                )
        self._cluster = cluster
        self._points = LivePoints(cluster)

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        """Whole points by id; absent ones are left out."""
        return self._points.fetch_ids(collection, ids)

    def delete_unchanged(self, collection: str, points: Sequence[Point]) -> None:
        """Delete each of these points unless its payload is another one by now."""
        path = collection_path(collection, "points", "delete")
        for where, batch in _batches(points):
            body = {"filter": {"should": [unchanged(point) for point in batch]}, **where}
            self._cluster.ask("POST", path, body, params=_PARAMS)

    def write_unchanged(
        self, collection: str, points: Sequence[Point], seen: Mapping[PointId, Point]
    ) -> None:
        """Write each of these points where none of its id is, or where the point in `seen`
        still is as it was. (A point in `seen` that is gone by now is written as well.) Shard keys
        that the points name and the collection lacks are made."""
        ensure_keys(self._cluster, collection, (point.shard_key for point in points))
        path = collection_path(collection, "points")
        for where, batch in _batches(points):
            before = [unchanged(seen[point.id]) for point in batch if point.id in seen]
            body = {
                "points": [
                    {"id": p.id, "vector": p.vector or {}, "payload": p.payload} for p in batch
                ],
                "update_filter": {"should": before} if before else _NO_POINT,
                **where,
            }
            self._cluster.ask("PUT", path, body, params=_PARAMS)


def unchanged(point: Point) -> JsonFilter:
    """What holds as long as a point has this payload. A payload that only gained new members
    passes, as do changes within long texts: what an indexer writes differs in its version."""
    return {"must": [{"has_id": [point.id]}, *_same(point.payload, ())]}


def _same(value: object, steps: tuple[str, ...]) -> Iterator[JsonFilter]:
    """Conditions for one value of a payload and everything below it."""
    if isinstance(value, dict):
        for name, below in value.items():
            if '"' not in name:
                yield from _same(below, (*steps, name))
    elif steps:
        yield from _same_leaf(value, server_key(steps))


def _same_leaf(value: object, key: str) -> Iterator[JsonFilter]:
    if value is None:
        yield {"is_null": {"key": key}}
    elif isinstance(value, float):
        yield {"key": key, "range": {"gte": value, "lte": value}}
    elif isinstance(value, list):
        if value:
            yield {"key": key, "values_count": {"gte": len(value), "lte": len(value)}}
            yield from (
                condition
                for item in value
                if isinstance(item, (str, int))
                for condition in _same_leaf(item, key)
            )
    elif isinstance(value, str):
        if len(value) <= LONGEST_TEXT:
            yield {"key": key, "match": {"value": value}}
    elif isinstance(value, bool) or (isinstance(value, int) and value in _INT64):
        yield {"key": key, "match": {"value": value}}


def _batches(points: Sequence[Point]) -> Iterator[tuple[dict[str, Any], Sequence[Point]]]:
    """Points of one shard key together, and the member of a request that names it: a collection
    with shard keys takes no request without."""
    for _, group in groupby(sorted(points, key=_shard), key=_shard):
        same = list(group)
        key = same[0].shard_key
        where = {} if key is None else {"shard_key": key}
        for start in range(0, len(same), BATCH):
            yield where, same[start : start + BATCH]


def _shard(point: Point) -> tuple[str, str | None]:
    key = point.shard_key
    return type(key).__name__, None if key is None else str(key)
