"""A pair in memory that tests change behind the engine's back, on a clock of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings

from vbackup.model.blocks import Point, PointBlock, PointId, RowBlock
from vbackup.model.keys import canonical, composite
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.progress import SilentReporter

# A busy machine is no defect.
settings.register_profile("engine", deadline=None)
settings.load_profile("engine")


@dataclass(frozen=True)
class Row:
    version: str | None = "1"
    live: bool = True
    count: int | None = None
    tenant: str | None = None


@dataclass
class Clock:
    """Time moves only when somebody sleeps; `at` runs actions when their time has come."""

    seconds: float = 1000.0
    slept: list[float] = field(default_factory=list)
    actions: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        due = [action for action in self.actions if action[0] <= self.seconds]
        self.actions = [action for action in self.actions if action[0] > self.seconds]
        for _, act in due:
            act()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.actions.append((self.seconds + seconds, act))


class View:
    """The rows as they were when it was opened."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._rows = dict(pair.rows)

    def rows(self, link: Link) -> Iterator[RowBlock]:
        self._pair.called("rows")
        keys = list(self._rows)
        for at in range(0, len(keys), 3):
            yield self._block(keys[at : at + 3])

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        self._pair.called("lookup rows")
        return self._block([key for key in keys if key in self._rows])

    def close(self) -> None:
        self._pair.open_views -= 1

    def _block(self, keys: list[str]) -> RowBlock:
        rows = [self._rows[key] for key in keys]
        return RowBlock(
            keys,
            [row.version for row in rows],
            [row.live for row in rows],
            [row.count for row in rows],
            [row.tenant for row in rows],
        )


@dataclass
class Pair:
    """Both stores: RecordSource as far as a reconcile needs it, PointReader and PointTarget."""

    cardinality: str = "one"
    names: tuple[str, ...] = ("documents",)
    rows: dict[str, Row] = field(default_factory=dict)
    stores: dict[str, dict[PointId, Point]] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    reporter: SilentReporter = field(default_factory=SilentReporter)
    calls: Counter[str] = field(default_factory=Counter)
    scripts: dict[tuple[str, int], Callable[[], None]] = field(default_factory=dict)
    deleted: list[tuple[str, PointId]] = field(default_factory=list)
    open_views: int = 0

    def __post_init__(self) -> None:
        self.stores = {name: {} for name in self.names}

    @property
    def link(self) -> Link:
        return Link(
            name="documents",
            collection="*",
            rows=(RowSource(table="documents", key=("id",), version="version", tenant="owner"),),
            ref=(PayloadPath.parse("key"),),
            version=PayloadPath.parse("version"),
            tenant=PayloadPath.parse("owner"),
            cardinality="many" if self.cardinality == "many" else "one",
        )

    # ------------------------------------------------------------ what tests do

    def row(self, key: str, version: str | None = "1", **said: object) -> None:
        self.rows[key] = Row(version, **said)  # type: ignore[arg-type]

    def point(
        self,
        id: PointId,  # noqa: A002
        key: str | None = None,
        version: object = 1,
        collection: str = "documents",
        **payload: object,
    ) -> None:
        said = {"version": version, **payload} | ({} if key is None else {"key": key})
        self.stores[collection][id] = Point(id, [float(len(said)), 0.5], said)

    def agree(self, count: int) -> None:
        """Rows and points that fit each other."""
        for number in range(1000, 1000 + count):
            self.row(str(number))
            self.point(number, str(number))

    def on(self, call: str, number: int, act: Callable[[], None]) -> None:
        """Act just before the given call (counted from 1) answers."""
        self.scripts[call, self.calls[call] + number] = act

    def called(self, name: str) -> None:
        self.calls[name] += 1
        if act := self.scripts.pop((name, self.calls[name]), None):
            act()

    # ------------------------------------------------------------ ports

    def view(self) -> View:
        self.called("view")
        self.open_views += 1
        return View(self)

    def collections(self) -> Sequence[str]:
        return list(self.stores)

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        self.called("points")
        points = list(self.stores[collection].values())
        for at in range(0, len(points), 4):
            yield self._block(points[at : at + 4])

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        self.called("lookup points")
        store = self.stores[collection]
        return self._block([store[point] for point in ids if point in store])

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        self.called("owned")
        wanted = set(keys)
        return self._block([p for p in self.stores[collection].values() if key_of(p) in wanted])

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        self.called("fetch")
        store = self.stores[collection]
        return [store[point] for point in ids if point in store]

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        self.called("delete")
        for point in ids:
            self.stores[name].pop(point, None)
            self.deleted.append((name, point))

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        self.called("upsert")
        for point in points:
            self.stores[name][point.id] = point

    def delete_unchanged(self, collection: str, points: Sequence[Point]) -> None:
        self.called("delete")
        store = self.stores[collection]
        for point in points:
            if point.id in store and store[point.id].payload == point.payload:
                del store[point.id]
                self.deleted.append((collection, point.id))
        self.called("deleted")

    def write_unchanged(
        self, collection: str, points: Sequence[Point], seen: Mapping[PointId, Point]
    ) -> None:
        self.called("write")
        store = self.stores[collection]
        for point in points:
            before, now = seen.get(point.id), store.get(point.id)
            if (before is None and now is None) or (
                before is not None and now is not None and before.payload == now.payload
            ):
                store[point.id] = point
        self.called("written")

    def _block(self, points: Sequence[Point]) -> PointBlock:
        return PointBlock(
            [point.id for point in points],
            [key_of(point) for point in points],
            [canonical(point.payload.get("version")) for point in points],
            [canonical(point.payload.get("owner")) for point in points],
        )


def key_of(point: Point) -> str | None:
    return composite([canonical(point.payload.get("key"))])


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def pair_of_many() -> Pair:
    return Pair(cardinality="many")


@pytest.fixture
def pair_of_two() -> Pair:
    """Two collections that make up one link."""
    return Pair(names=("documents", "more"))
