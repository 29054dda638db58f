"""Points out of shard snapshots, without a server: `vbackup.ports.PointReader` and whole points.

Qdrant's engine (`qdrant-edge-py`) opens the unpacked shards, each in a process of its own.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from vbackup.errors import Failed, NotFound, Refused
from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.link import Link
from vbackup.ports import ShardSpool
from vbackup.qdrant.conditions import point_ids
from vbackup.qdrant.edge_process import LARGE, EdgeProcess
from vbackup.qdrant.edge_protocol import Columns, Lookup, Owned, Scan, Whole, WholePoints
from vbackup.qdrant.fanin import FanIn
from vbackup.qdrant.limits import MATCHED, PAGE, WHOLE
from vbackup.qdrant.projection import Projection, by_reference, chosen, joined

PAGE_OF_TEXTS = 1_000
READERS = 4
"""Processes for one shard at most."""
HELD = 10_000_000
"""Points that they may hold together: each has all ids of the shard in memory (220 MiB for five
million numbers), so one that is too large for two of them is left to one."""
PARTS = 2
"""Ranges of ids for each of them: ids that only look evenly spread leave none idle for long."""
PROCESSES = 16
"""Of more shards than this, those that were read to their end do without a process until they are
asked again."""


@contextmanager
def open_offline(
    tars: Mapping[str, Sequence[Path]], directory: Path, *, vectors: bool = False
) -> Iterator[OfflinePoints]:
    """The collections whose shard snapshots (tars as Qdrant streamed them) these files are.

    `directory` gets the unpacked files (the payload's size; with `vectors` everything) until the
    context ends. The files' hashes must have been checked before: damaged data can be read
    without an error. Raises Refused without `qdrant-edge-py`; reading raises Damaged.
    """
    if find_spec("qdrant_edge") is None:
        raise Refused(
            "reading shard snapshots without a server needs qdrant-edge-py, which is not installed",
            hint="pip install 'vbackup[edge]'; restores and backups without links work without it",
        )
    directory.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix="offline-", dir=directory))
    shards = {
        name: [EdgeProcess(tar, room, vectors=vectors) for tar in paths]
        for name, paths in tars.items()
    }
    try:
        yield OfflinePoints(shards, vectors=vectors)
    finally:
        for processes in shards.values():
            for process in processes:
                process.close()
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def open_spools(spools: Sequence[ShardSpool], directory: Path) -> Iterator[OfflinePoints]:
    """The same out of spools, once all of them are done. Raises what one of them failed with."""
    tars: dict[str, list[Path]] = {}
    for spool in spools:
        spool.done.wait()
        if spool.error:
            raise spool.error
        tars.setdefault(spool.ref.collection, []).append(spool.path)
    with open_offline(tars, directory) as points:
        yield points


class OfflinePoints:
    """Reads collections shard by shard, several shards at once."""

    def __init__(self, shards: Mapping[str, Sequence[EdgeProcess]], *, vectors: bool) -> None:
        self._shards = shards
        self._vectors = vectors

    def collections(self) -> Sequence[str]:
        return sorted(self._shards)

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """Every point that the link's filters admit, up to 10,000 a block, shards mixed."""
        shards = self._of(collection)
        cores = os.cpu_count() or 2
        readers = [partial(self._scan, shard, link, cores // len(shards)) for shard in shards]
        if readers:
            yield from FanIn(readers, workers=cores)

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """These points, as far as they exist and the link's filters admit them."""
        wanted = list(dict.fromkeys(ids))
        blocks = [Projection(link).block([], [])]
        for shard in self._of(collection):
            for start in range(0, len(wanted), PAGE):
                request = Lookup(link, wanted[start : start + PAGE])
                blocks.append(shard.ask(request, Columns).block())
        return joined(blocks)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """All points that refer to one of these keys; without a payload index the first few calls
        read all payloads, then one is made."""
        if link.by_id:
            return self.lookup(link, collection, point_ids(keys))
        wanted = sorted(set(keys))
        blocks = [Projection(link).block([], [])]
        for shard in self._of(collection):
            for at in range(0, len(wanted), MATCHED):
                part = wanted[at : at + MATCHED]
                blocks += [chosen(block, set(part)) for block in _owned(shard, link, part)]
        return joined(blocks)

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        """Whole points by the key they refer to. Needs `vectors`, raises Failed without."""
        ids = self.owned(link, collection, keys).ids
        return by_reference(link, self.fetch_ids(collection, ids), keys)

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        """Whole points by id; absent ones are left out. Needs `vectors`, raises Failed without."""
        if not self._vectors:
            raise Failed("these shard snapshots were opened without their vectors")
        wanted = list(dict.fromkeys(ids))
        found: list[Point] = []
        for shard in self._of(collection):
            for start in range(0, len(wanted), WHOLE):
                answer = shard.ask(Whole(wanted[start : start + WHOLE]), WholePoints)
                found += [Point(id_, vector, payload) for id_, vector, payload in answer.points]
        return found

    def _scan(self, shard: EdgeProcess, link: Link, cores: int) -> Iterator[PointBlock]:
        points = shard.begin() or shard.ready().points
        processes = min(cores, READERS, HELD // max(1, points)) if points >= LARGE else 1
        with ExitStack() as stack:
            twins = [stack.enter_context(closing(shard.double())) for _ in range(1, processes)]
            for twin in twins:
                twin.begin()
            # Once all have their files, and side by side.
            for process in (shard, *twins):
                process.load()
            if twins and (sample := shard.ready().sample):
                yield from _shared_out([shard, *twins], link, sample)
            else:
                yield from _part(shard, link, None, None)
        if sum(map(len, self._shards.values())) > PROCESSES:
            shard.rest()

    def _of(self, collection: str) -> Sequence[EdgeProcess]:
        try:
            return self._shards[collection]
        except KeyError:
            raise NotFound(f"the snapshots hold no collection {collection!r}") from None


def _owned(shard: EdgeProcess, link: Link, keys: list[str]) -> Iterator[PointBlock]:
    return _pages(shard, lambda start: Owned(link, keys, start, PAGE))


def _shared_out(
    processes: Sequence[EdgeProcess], link: Link, sample: Sequence[PointId]
) -> Iterator[PointBlock]:
    """The shard by several processes, each taking one range of ids after the other."""
    free: queue.SimpleQueue[EdgeProcess] = queue.SimpleQueue()

    def part(start: PointId | None, stop: PointId | None) -> Iterator[PointBlock]:
        process = free.get()
        try:
            yield from _part(process, link, start, stop)
        finally:
            free.put(process)

    for process in processes:
        free.put(process)
    bounds = [None, *_bounds(sample, len(processes) * PARTS), None]
    readers = [partial(part, start, stop) for start, stop in pairwise(bounds)]
    yield from FanIn(readers, workers=len(processes))


def _bounds(sample: Sequence[PointId], parts: int) -> list[PointId]:
    """Ids that divide those of a sample into so many parts."""
    places = range(1, parts)
    return list(dict.fromkeys(sample[len(sample) * place // parts] for place in places))


def _part(
    process: EdgeProcess, link: Link, start: PointId | None, stop: PointId | None
) -> Iterator[PointBlock]:
    """All points from one id to before another."""
    # JSON text may be long, and a page of it is in memory at once.
    texts = any(path and not path.indexable for path in (*link.ref, link.version, link.tenant))
    page = PAGE_OF_TEXTS if texts else PAGE
    return _pages(process, lambda at: Scan(link, start if at is None else at, page, stop))


def _pages(
    shard: EdgeProcess, request: Callable[[PointId | None], Scan | Owned]
) -> Iterator[PointBlock]:
    start: PointId | None = None
    while True:
        columns = shard.ask(request(start), Columns)
        yield columns.block()
        if columns.start is None:
            return
        start = columns.start
