"""Points of live collections: pages of ids and versions, lookups, whole points.

Plain REST pages with only the needed payload keys are the fastest way Qdrant has. The filters of
a link run on the server, or here where strict mode forbids filters without an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from vbackup.errors import Refused
from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.conditions import (
    JsonFilter,
    Kind,
    covering_kind,
    link_filter,
    owned_filter,
    point_ids,
)
from vbackup.qdrant.limits import Limits
from vbackup.qdrant.projection import (
    Answer,
    Projection,
    by_reference,
    chosen,
    decode_records,
    joined,
)
from vbackup.qdrant.rest import collection_path

SCAN_INSTEAD = 4
"""Filtered requests without a payload index cost the server a full scan each: from this many on,
one scan with only the needed keys is cheaper."""
FIRST_PAGE = 1_000
"""Points of the first page, which tells how large points are."""

PAGE_BYTES = 4 << 20
"""What a page of answer is meant to be: references may hide in long JSON texts."""

LIMITS_HOLD = 10.0
"""Seconds for which a collection's limits are remembered: a capture asks many times a second."""


class _Whole(msgspec.Struct, gc=False):
    id: PointId
    payload: dict[str, Any] | None = None
    vector: Any = None
    shard_key: str | int | None = None

    def point(self) -> Point:
        return Point(self.id, self.vector, self.payload or {}, self.shard_key)


class _WholeAnswer(msgspec.Struct):
    result: list[_Whole]


_decode_whole = msgspec.json.Decoder(_WholeAnswer).decode


class LivePoints:
    """`vbackup.ports.PointReader` of a running deployment, and whole points out of it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known_limits: dict[str, tuple[float, Limits]] = {}

    def collections(self) -> Sequence[str]:
        return self._cluster.names()

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """Every point that the link's filters admit, in id order, up to 10,000 a block."""
        limits = self._limits(collection)
        conditions = link_filter(link)
        by_server = not conditions or limits.unindexed_filters
        projection = Projection(link, filtered=by_server)
        body = self._body(projection, limits.page, conditions if by_server else {})
        yield from self._pages(collection, projection, body)

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """These points, as far as they exist and the link's filters admit them."""
        projection = Projection(link)
        path = collection_path(collection, "points")
        blocks = []
        for chunk in _chunks(list(dict.fromkeys(ids)), self._limits(collection).matched):
            body = {"ids": chunk, "with_payload": projection.keys or False, "with_vector": False}
            raw = self._ask(path, body)
            blocks.append(projection.page(decode_records(raw).result))
        return joined(blocks or [projection.page([])])

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """All points that refer to one of these keys.

        References that no server can match (JSON text on the way), or that have no payload index
        while there are many keys, cost one scan of the collection. A reference that is an array
        is found by scans only.
        """
        if link.by_id:
            return self.lookup(link, collection, point_ids(keys))
        wanted = set(keys)
        info = self._cluster.info(collection)
        limits = Limits.of(info["config"])
        chunks = list(_chunks(sorted(wanted), limits.matched))
        if self._scan_pays(link, info["payload_schema"], len(chunks)):
            return self._scanned(link, collection, wanted)
        try:
            return joined(
                [block for c in chunks for block in self._matched(link, collection, c, info)]
                or [Projection(link).page([])]
            )
        except Refused:  # strict mode wants an index for each of these conditions
            return self._scanned(link, collection, wanted)

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        """Whole points, by the key they refer to; keys without points are left out."""
        if link.by_id:
            ids: Sequence[PointId] = point_ids(keys)
        else:
            ids = self.owned(link, collection, keys).ids
        return by_reference(link, self.fetch_ids(collection, ids), keys)

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        """Whole points by id; absent ones are left out. All of them are held in memory."""
        path = collection_path(collection, "points")
        found: list[Point] = []
        if not ids:
            return found
        for chunk in _chunks(list(dict.fromkeys(ids)), self._limits(collection).whole):
            raw = self._ask(path, {"ids": chunk, "with_payload": True, "with_vector": True})
            found += [whole.point() for whole in _decode_whole(raw).result]
        return found

    def _scan_pays(self, link: Link, schema: dict[str, Any], requests: int) -> bool:
        if owned_filter(link.ref, ()) is None:
            return True
        indexed = any(path.root in schema for path in link.ref)
        return not indexed and requests >= SCAN_INSTEAD

    def _scanned(self, link: Link, collection: str, wanted: set[str]) -> PointBlock:
        blocks = [chosen(block, wanted) for block in self.points(link, collection)]
        return joined(blocks or [Projection(link).page([])])

    def _matched(
        self, link: Link, collection: str, keys: Sequence[str], info: dict[str, Any]
    ) -> Iterator[PointBlock]:
        projection = Projection(link)
        wanted = set(keys)
        kinds = [_kind(path, info) for path in link.ref]
        conditions = owned_filter(link.ref, keys, kinds) or {}
        body = self._body(projection, Limits.of(info["config"]).page, conditions)
        for block in self._pages(collection, projection, body):
            yield chosen(block, wanted)

    def _body(self, projection: Projection, limit: int, conditions: JsonFilter) -> dict[str, Any]:
        body: dict[str, Any] = {
            "limit": limit,
            "with_payload": projection.keys or False,
            "with_vector": False,
        }
        if conditions:
            body["filter"] = conditions
        return body

    def _pages(
        self, collection: str, projection: Projection, body: dict[str, Any]
    ) -> Iterator[PointBlock]:
        """The pages of a scroll; while the consumer works on one, the server makes the next."""
        path = collection_path(collection, "points", "scroll")
        most = body["limit"]
        with ThreadPoolExecutor(1, thread_name_prefix="scroll") as pool:
            limit = min(most, FIRST_PAGE)
            raw = pool.submit(self._ask, path, body | {"limit": limit}).result()
            while True:
                answer = Answer(projection, raw)
                if answer.start is None:
                    yield answer.block()
                    return
                limit = next_limit(len(raw), answer.points(limit), most)
                following = body | {"limit": limit, "offset": answer.start}
                pending = pool.submit(self._ask, path, following)
                del raw
                yield answer.block()
                del answer
                raw = pending.result()

    def _ask(self, path: str, body: dict[str, Any]) -> bytes:
        return self._cluster.ask("POST", path, body)

    def _limits(self, collection: str) -> Limits:
        """What the collection's strict mode said at most a few seconds ago."""
        now = self._cluster.clock.monotonic()
        known = self._known_limits.get(collection)
        if known and now < known[0]:
            return known[1]
        limits = Limits.of(self._cluster.info(collection)["config"])
        self._known_limits[collection] = (now + LIMITS_HOLD, limits)
        return limits


def next_limit(answered: int, points: int, most: int) -> int:
    """How many points to ask for next, when so many bytes held so many points."""
    if not points:
        return most
    return max(1, min(most, PAGE_BYTES * points // max(1, answered)))


def _kind(path: PayloadPath, info: dict[str, Any]) -> Kind | None:
    index = info["payload_schema"].get(path.root) or {}
    total = info.get("points_count") or 0
    return covering_kind(path, index.get("data_type"), index.get("points", 0), total)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
