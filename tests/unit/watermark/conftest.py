"""A pair in memory, under seeded writers, for every interleaving that a seed can think of.

Rows have full history, so a snapshot is just a number; points live in shards that are cut by
copying. Every call that the engine makes lets the world move on: the application writes rows,
its indexer follows late, and shards cut when they feel like it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vbackup.errors import Unreachable
from vbackup.model.blocks import Point, PointBlock, PointId, RowBlock
from vbackup.model.keys import canonical
from vbackup.model.link import Link
from vbackup.ports import DumpStream, PointReader, ShardRef, ShardSpool, Step

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """One version of a row; `version` None says it is deleted."""

    xid: int
    version: int | None
    live: bool = True
    count: int = 1


@dataclass
class World:
    """Both stores, the clock, and what the application still has to index."""

    link: Link
    seed: int
    shards: int = 1
    index_lag: int = 20
    feed_misses: float = 0.0
    point_first: float = 0.0
    keys: int = 30
    break_streams: float = 0.0
    random: random.Random = field(init=False)
    now: float = 0.0
    xid: int = 1
    versions: int = 0
    rows: dict[str, list[Row]] = field(default_factory=dict)
    points: dict[PointId, Point] = field(default_factory=dict)
    queue: list[tuple[float, str, Row]] = field(default_factory=list)
    pending_cuts: list[ShardSpool] = field(default_factory=list)
    cut_states: dict[Path, dict[PointId, Point]] = field(default_factory=dict)
    writing: bool = True
    hot_keys: int = 0
    skips: bool = False
    slow_cuts: bool = False
    reused_ids: int = 0
    late_rows: float = 0.0
    query: bool = False
    commits: list[tuple[float, str, Row]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    held_ever: list[set[str]] = field(default_factory=list)
    locked: bool = False
    fenced: bool = False
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        for number in range(self.keys):
            self.write(str(number))
        self.drain()

    # ------------------------------------------------------------ the application

    def step(self) -> None:
        """Some time passes and anybody may act."""
        self.now += self.random.random() * 0.05
        if self.writing and not self.locked and not self.fenced:
            for _ in range(self.random.randrange(3)):
                self.write(str(self.random.randrange(self.keys + 5)))
            for key in range(self.hot_keys):
                self.write(str(key))
        for commit in [one for one in self.commits if one[0] <= self.now and self._free(one[1])]:
            self.commits.remove(commit)
            self._commit(*commit[1:])
        self.index()
        for spool in list(self.pending_cuts):
            if self.random.random() < 0.3 and not (self.slow_cuts and self.fenced):
                self._cut(spool)

    def _free(self, key: str) -> bool:
        """Whether the backup lets this row be written."""
        return not self.locked and key not in self.held

    def write(self, key: str) -> None:
        """Insert, update, disable or delete one row, point first or row first. Between its point
        and its late row, a row is nobody else's."""
        if key in self.held or any(key == waiting for _, waiting, _ in self.commits):
            return
        self.versions += 1
        roll = self.random.random()
        count = 1 if self.link.cardinality == "one" else self.random.randrange(1, 4)
        row = Row(self.xid + 1, self.versions, live=roll > 0.1, count=count)
        if self.link.immutable:
            row = replace(row, version=int(key) + 1)
            if self.link.cardinality == "many":
                row = replace(row, count=1 + int(key) % 3)
        if roll > 0.85:
            row = replace(row, version=None)
        if self.random.random() < self.point_first:
            self._index(key, row)
            if self.late_rows:
                due = self.now + self.random.random() * self.late_rows
                self.commits.append((due, key, row))
                return
        self._commit(key, row)

    def _commit(self, key: str, row: Row) -> None:
        self.xid += 1
        row = replace(row, xid=self.xid)
        self.rows.setdefault(key, []).append(row)
        if self.late_rows:
            return
        due = self.now + self.random.random() * self.index_lag * 0.05
        self.queue.append((0.0 if self.index_lag == 0 else due, key, row))

    def index(self) -> None:
        """The indexer: per key in order, as late as it likes. One that skips goes straight to a
        key's newest row."""
        if self.skips:
            newest = {key: row for _, key, row in self.queue}
            self.queue = [(due, key, newest[key]) for due, key, _ in self.queue]
        waiting: set[str] = set()
        left: list[tuple[float, str, Row]] = []
        for due, key, row in self.queue:
            if due > self.now or key in waiting:
                waiting.add(key)
                left.append((due, key, row))
            else:
                self._index(key, row)
        self.queue = left

    def drain(self) -> None:
        """Index everything that waits."""
        for _, key, row in self.commits:
            self._commit(key, row)
        self.commits = []
        for _, key, row in self.queue:
            self._index(key, row)
        self.queue = []

    def _index(self, key: str, row: Row) -> None:
        for point in [p.id for p in self.points.values() if p.payload["key"] == key]:
            del self.points[point]
        if row.version is None or not row.live:
            return
        for part in range(row.count):
            point_id = int(key) if self.link.by_id else int(key) * 10 + part
            if self.reused_ids:
                point_id = self.random.randrange(self.reused_ids)
                if point_id in self.points:
                    # Its place is taken: the lowest that is free.
                    point_id = next(i for i in range(10**6) if i not in self.points)
            payload: dict[str, object] = {"key": key, "v": row.version, "part": part}
            self.points[point_id] = Point(point_id, [float(row.version)], payload)

    # ------------------------------------------------------------ shards

    def shard_of(self, point: PointId) -> int:
        return hash(point) % self.shards

    def _cut(self, spool: ShardSpool) -> None:
        self.pending_cuts.remove(spool)
        if self.random.random() < self.break_streams:
            spool.error = Unreachable(f"shard {spool.ref.id}: the stream broke")
            spool.path.unlink()
        else:
            mine = {i: p for i, p in self.points.items() if self.shard_of(i) == spool.ref.id}
            self.cut_states[spool.path] = mine
            spool.cut_at = EPOCH + timedelta(seconds=self.now)
            spool.length = spool.path.stat().st_size
        self.trace.append(f"cut {spool.ref.id} at {self.now:.2f}")
        spool.cut.set()
        spool.done.set()

    # ------------------------------------------------------------ what is true

    def row_at(self, key: str, snapshot: int) -> Row | None:
        """The row as a snapshot sees it; None when it is not there."""
        seen = [row for row in self.rows.get(key, []) if row.xid <= snapshot]
        return seen[-1] if seen and seen[-1].version is not None else None

    def table_at(self, snapshot: int) -> dict[str, Row]:
        """Every row a snapshot sees."""
        found = {key: self.row_at(key, snapshot) for key in self.rows}
        return {key: row for key, row in found.items() if row}


class WorldClock:
    """Sleeping lets the world act."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._world.now)

    def monotonic(self) -> float:
        self._world.now += 0.0005
        return self._world.now

    def sleep(self, seconds: float) -> None:
        until = self._world.now + seconds
        while self._world.now < until:
            self._world.step()


def row_block(link: Link, rows: dict[str, Row], *, query: bool = False) -> RowBlock:
    """Rows as an adapter gives them; without a version key, the transaction is the identity,
    and a query's rows have none."""
    said = [str(row.version if link.keyed else row.xid) for row in rows.values()]
    return RowBlock(
        keys=list(rows),
        versions=None if query else said,
        live=[row.live for row in rows.values()],
        counts=[row.count for row in rows.values()],
    )


class WorldSnapshot:
    """A candidate watermark, or a view."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.xid = world.xid
        self.snapshot = f"snap-{world.xid}"
        self.lsn = f"0/{world.xid:X}"
        self.at = EPOCH + timedelta(seconds=world.now)
        self.timeline = 1
        self.closed = False

    def waiters(self) -> Sequence[str]:
        return []

    def room(self) -> int:
        return 100

    def rows(self, link: Link) -> Iterator[RowBlock]:
        self._world.step()
        yield row_block(link, self._world.table_at(self.xid), query=self._world.query)

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        self._world.step()
        table = self._world.table_at(self.xid)
        found = {key: table[key] for key in keys if key in table}
        return row_block(link, found, query=self._world.query)

    def changed(self, link: Link, base: str) -> Iterator[RowBlock]:
        self._world.step()
        table = self._world.table_at(self.xid)
        found = {k: r for k, r in table.items() if self._fed(k, r, int(base))}
        yield row_block(link, found, query=self._world.query)

    def _fed(self, key: str, row: Row, base: int) -> bool:
        """Whether the change feed tells of a row; what it misses, it always misses."""
        if self._world.query:
            return True  # nothing tells which of its rows have changed
        rolled = random.Random(f"{self._world.seed} {key} {row.xid}").random()
        return row.xid > base and rolled >= self._world.feed_misses

    def dumps(self) -> Sequence[DumpStream]:
        table = self._world.table_at(self.xid)
        return [DumpStream("main", "main", lambda: iter([repr(sorted(table)).encode()]))]

    def close(self) -> None:
        self.closed = True


class WorldHold:
    """Rows held still: now and then one is being written, and skipped."""

    def __init__(self, world: World) -> None:
        self.world = world

    def take(self, link: Link, keys: Sequence[str]) -> RowBlock:
        self.world.step()
        table = self.world.table_at(self.world.xid)
        free = {k: table[k] for k in keys if k in table and self.world.random.random() < 0.7}
        self.world.held |= set(free)
        return row_block(link, free)


class WorldRecords:
    """RecordSource of the world."""

    client_version = "test"

    def __init__(self, world: World) -> None:
        self.world = world
        self.opened: list[WorldSnapshot] = []
        self.following = False

    def change_base(self, links: Sequence[Link] = ()) -> str:
        self.following = True
        return str(self.world.xid)

    def stop_following(self) -> None:
        self.following = False

    def changed(
        self, links: Sequence[Link], base: str, *, most: int | None = None
    ) -> tuple[dict[str, RowBlock], str]:
        self.world.step()
        snapshot = WorldSnapshot(self.world)
        return {link.name: next(snapshot.changed(link, base)) for link in links}, str(snapshot.xid)

    def candidate(self, links: Sequence[Link]) -> WorldSnapshot:
        self.world.step()
        self.opened.append(WorldSnapshot(self.world))
        return self.opened[-1]

    def view(self) -> WorldSnapshot:
        self.world.step()
        return WorldSnapshot(self.world)

    @contextmanager
    def fence(self) -> Iterator[float]:
        """Writers finish what they began (index included), then wait."""
        self.world.drain()
        self.world.fenced = True
        yield 0.0
        self.world.fenced = False

    @contextmanager
    def hold_rows(self, seconds: float) -> Iterator[WorldHold]:
        yield WorldHold(self.world)
        self.world.held_ever.append(self.world.held)
        self.world.held = set()

    @contextmanager
    def lock(self, links: Sequence[Link], timeout: float) -> Iterator[bool]:
        self.world.step()
        self.world.locked = True
        yield True
        self.world.locked = False


class WorldPoints:
    """PointSource of the world."""

    def __init__(self, world: World, points: dict[PointId, Point] | None = None) -> None:
        self.world = world
        self._frozen = points

    def _now(self) -> dict[PointId, Point]:
        return self.world.points if self._frozen is None else self._frozen

    def collections(self) -> Sequence[str]:
        return ["docs"]

    def _block(self, link: Link, points: Sequence[Point]) -> PointBlock:
        return PointBlock(
            ids=[p.id for p in points],
            refs=[str(p.id) if link.by_id else canonical(p.payload["key"]) for p in points],
            versions=[canonical(p.payload["v"]) for p in points] if link.version else None,
        )

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        yield self._block(link, list(self._now().values()))

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        return self._block(link, [self._now()[i] for i in ids if i in self._now()])

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        wanted = [p for p in self._now().values() if p.payload["key"] in keys]
        return self._block(link, wanted)

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        self.world.step()
        found: dict[str, list[Point]] = {}
        for point in self._now().values():
            if point.payload["key"] in keys:
                found.setdefault(str(point.payload["key"]), []).append(point)
        return found

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        return [self._now()[i] for i in ids if i in self._now()]

    def spool(self, shard: ShardRef, directory: Path) -> ShardSpool:
        path = directory / "shard.tar"
        path.write_bytes(b"x" * 1000)
        spool = ShardSpool(shard, path, EPOCH + timedelta(seconds=self.world.now))
        self.world.pending_cuts.append(spool)
        return spool

    @contextmanager
    def offline(self, spools: Sequence[ShardSpool], directory: Path) -> Iterator[PointReader]:
        merged: dict[PointId, Point] = {}
        for spool in spools:
            merged |= self.world.cut_states[spool.path]
        yield WorldPoints(self.world, merged)

    def facts(self, patterns: Sequence[str]) -> object:
        raise NotImplementedError


class SilentStep:
    def advance(self, amount: int = 1) -> None: ...

    def detail(self, text: str) -> None: ...


class SilentReporter:
    """Keeps warnings for tests to look at."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    @contextmanager
    def step(self, name: str, *, total: int | None = None, unit: str = "bytes") -> Iterator[Step]:
        yield SilentStep()

    def note(self, event: str, **fields: object) -> None: ...

    def warn(self, event: str, **fields: object) -> None:
        self.warnings.append(event)


@dataclass(frozen=True)
class Kit:
    """What tests need of this module (tests are not packages, so nothing is imported)."""

    world: Callable[..., World]
    clock: Callable[[World], WorldClock]
    records: Callable[[World], WorldRecords]
    points: Callable[[World], WorldPoints]
    reporter: Callable[[], SilentReporter]


@pytest.fixture
def kit() -> Kit:
    return Kit(World, WorldClock, WorldRecords, WorldPoints, SilentReporter)
