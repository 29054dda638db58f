"""The process that reads one unpacked shard with Qdrant's engine: `python -m ... DIRECTORY`.

Damaged data can make the engine abort or take all memory. So it runs here, behind a memory
limit, and whatever happens to it is only an answer that does not come.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np
import qdrant_edge

from vbackup.model.blocks import PointId
from vbackup.model.columns import Numbers, Uuids
from vbackup.model.link import Link
from vbackup.qdrant.conditions import owned_filter
from vbackup.qdrant.edge_filter import FieldIndexes, edge_filter
from vbackup.qdrant.edge_protocol import (
    Answer,
    Columns,
    Lookup,
    Open,
    Owned,
    Ready,
    Request,
    Scan,
    Trouble,
    Whole,
    WholePoints,
    receive_request,
    send,
)
from vbackup.qdrant.projection import Payload, Projection

GIB = 1 << 30
SAMPLED = 256


def main() -> None:
    """Serve requests from standard input until it ends."""
    directory = Path(sys.argv[1])
    answers = _own_stdout()
    # Nothing here makes cycles; looking for them costs a tenth of the time.
    gc.disable()
    if not isinstance(opened := receive_request(sys.stdin.buffer), Open):
        return
    _limit_memory(directory)
    try:
        shard = Shard(directory)
    except BaseException as error:  # noqa: BLE001 - panics and aborts are what it is for
        send(answers, _trouble(error))
        return
    send(answers, shard.answer(opened))
    while (request := receive_request(sys.stdin.buffer)) is not None:
        send(answers, shard.answer(request))
        shard.look_ahead()
    # An engine that is let go of writes the state of its segments, which others may be reading.
    os._exit(0)


class Shard:
    """One loaded shard."""

    def __init__(self, directory: Path) -> None:
        self._shard = qdrant_edge.EdgeShard.load(str(directory))
        self._projections: dict[str, Projection] = {}
        self._indexes = FieldIndexes(self._shard)
        self._next: Scan | None = None
        self._ahead: tuple[Scan, Columns] | None = None

    def ready(self, large: int) -> Ready:
        """What there is, with some ids that are drawn by chance if there are so many."""
        points = self._shard.info().points_count
        ids: set[PointId] = set()
        if points >= large:
            drawn = qdrant_edge.QueryRequest(limit=SAMPLED, query=qdrant_edge.Sample.Random)
            with suppress(BaseException):  # without them, one process reads the shard
                ids.update(_point_id(found.id) for found in self._shard.query(drawn))
        return Ready(points, sorted(ids, key=order))

    def answer(self, request: Request) -> Answer:
        try:
            if isinstance(request, Scan):
                return self._scan(request)
            if isinstance(request, Lookup):
                return self._lookup(request)
            if isinstance(request, Owned):
                return self._owned(request)
            if isinstance(request, Whole):
                return self._whole(request)
            return self.ready(request.large)
        except BaseException as error:  # noqa: BLE001 - the engine's panics are no Exceptions
            return _trouble(error)

    def look_ahead(self) -> None:
        """Read the page that will be asked for next, while the parent is at work on the last."""
        request, self._next = self._next, None
        if request is not None:
            with suppress(BaseException):  # it is tried again, and told, when it is asked for
                self._ahead = (request, self._page(request, None))

    def _scan(self, request: Scan) -> Columns:
        ahead, self._ahead = self._ahead, None
        columns = (
            ahead[1] if ahead is not None and ahead[0] == request else self._page(request, None)
        )
        if columns.start is not None:
            self._next = Scan(request.link, columns.start, request.limit, request.stop)
        return columns

    def _owned(self, request: Owned) -> Columns:
        kinds = self._indexes.asked(request.link)
        wanted = owned_filter(request.link.ref, request.keys, kinds)
        return self._page(request, None if wanted is None else edge_filter(wanted))

    def _page(self, request: Scan | Owned, wanted: qdrant_edge.Filter | None) -> Columns:
        projection = self._projection(request.link)
        records, start = self._shard.scroll(
            qdrant_edge.ScrollRequest(
                offset=None if request.start is None else _edge_id(request.start),
                limit=request.limit,
                filter=wanted,
                with_payload=projection.keys or False,
                with_vector=False,
            )
        )
        following = None if start is None else _point_id(start)
        if isinstance(request, Scan) and request.stop is not None:
            records, following = _before(request.stop, records, following)
        return _columns(projection, records, following)

    def _lookup(self, request: Lookup) -> Columns:
        projection = self._projection(request.link)
        ids = list(map(_edge_id, request.ids))
        records = self._shard.retrieve(ids, projection.keys or False, False)
        return _columns(projection, records, None)

    def _whole(self, request: Whole) -> WholePoints:
        records = self._shard.retrieve(list(map(_edge_id, request.ids)), True, True)
        return WholePoints(
            [(_point_id(r.id), _vectors(r.vector), r.payload or {}) for r in records]
        )

    def _projection(self, link: Link) -> Projection:
        key = repr(link)
        if key not in self._projections:
            self._projections[key] = Projection(link)
        return self._projections[key]


def _before(
    stop: PointId, records: list[Any], start: PointId | None
) -> tuple[list[Any], PointId | None]:
    """The part of a page that comes before an id, and where the next page starts, if one does."""
    if start is not None and order(start) < order(stop):
        return records, start
    end = bisect_left(records, order(stop), key=lambda record: order(_point_id(record.id)))
    return records[:end], None


def _columns(projection: Projection, records: list[Any], start: PointId | None) -> Columns:
    ids = _point_ids([record.id for record in records])
    payloads: list[Payload] = (
        [record.payload for record in records] if projection.keys else [None] * len(ids)
    )
    return Columns.of(projection.block(ids, payloads), start)


def _point_ids(found: list[Any]) -> Sequence[PointId]:
    """The engine's ids, numbers and UUIDs, without a text each where they are all alike."""
    kinds = set(map(type, found))
    if kinds == {int}:
        return Numbers(np.fromiter(found, np.uint64, len(found)))
    if kinds == {UUID}:
        return Uuids.of_bytes(b"".join([id_.int.to_bytes(16) for id_ in found]))
    return list(map(_point_id, found))


def _point_id(found: object) -> PointId:
    return found if isinstance(found, int) else str(found)


def _edge_id(id_: PointId) -> int | UUID | str:
    return UUID(id_) if isinstance(id_, str) else id_


def order(id_: PointId) -> tuple[bool, PointId]:
    """The order of a scan: numbers, then UUIDs."""
    return isinstance(id_, str), id_


def _vectors(found: object) -> object:
    """Vectors as the REST API spells them."""
    if isinstance(found, qdrant_edge.SparseVector):
        return {"indices": list(found.indices), "values": list(found.values)}
    if isinstance(found, dict):
        return {name: _vectors(vector) for name, vector in found.items()}
    return found


def _own_stdout() -> BinaryIO:
    """A private copy of standard output; what libraries print goes to standard error."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


def _limit_memory(directory: Path) -> None:
    """Cap memory well above what intact data needs, far below what damaged data may ask for.

    Mapped files are no heap, so that limit can be tight however large the shard is. The limit on
    all addresses also bounds how far files may grow: one flipped bit in the mapping of ids was
    seen to make 55 MB of files 7 GB, and the heap 1.6 GB.
    """
    sizes = {path: path.stat() for path in directory.rglob("*") if path.is_file()}
    stored = sum(stat.st_blocks * 512 for stat in sizes.values())
    tracker = sum(s.st_size for path, s in sizes.items() if "id_tracker" in path.name)
    mapped = sum(stat.st_size for stat in sizes.values())
    threads = (os.cpu_count() or 1) * (GIB >> 3)
    _limit(resource.RLIMIT_DATA, 2 * GIB + 3 * stored + 16 * tracker)
    _limit(resource.RLIMIT_AS, 4 * GIB + threads + 3 * mapped)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(which: int, size: int) -> None:
    _, hard = resource.getrlimit(which)
    bounded = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(which, (bounded, hard))


def _trouble(error: BaseException) -> Trouble:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    return Trouble(text, ours=isinstance(error, (TypeError, AttributeError, LookupError)))


if __name__ == "__main__":
    main()
