"""Whose a point is: rows that name their collection, rows that several sources repeat, rows that
say how many points they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.faults import ManualClock
from vbackup.engine.authority import Authority
from vbackup.engine.capture import Capturer, ImageStore
from vbackup.engine.keysets import ChangedKeys
from vbackup.engine.links import Target
from vbackup.engine.owners import Owner
from vbackup.engine.patchfile import PatchFile
from vbackup.engine.rowfence import RowFence
from vbackup.model.blocks import Point, PointBlock, PointId, RowBlock
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.model.patch import Delete, PatchLine, Reembed, Upsert, decode
from vbackup.ports import Step
from vbackup.progress import SilentReporter


@dataclass
class Row:
    key: str
    version: int
    collection: str | None = None
    count: int | None = None


Points = dict[str, dict[int, tuple[str, int]]]
"""By collection and id: the key and the version that a point says."""


class Store:
    """Points of several collections, live or in shard snapshots."""

    def __init__(self, points: Points) -> None:
        self.held = points

    def collections(self) -> Sequence[str]:
        return sorted(self.held)

    def _block(self, collection: str, wanted: Callable[[int, str], bool]) -> PointBlock:
        found = [
            (point, key, version)
            for point, (key, version) in self.held[collection].items()
            if wanted(point, key)
        ]
        return PointBlock(
            [point for point, _, _ in found],
            [key for _, key, _ in found],
            [str(version) for _, _, version in found],
        )

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        yield self._block(collection, lambda _point, _key: True)

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        return self._block(collection, lambda point, _key: point in ids)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        return self._block(collection, lambda _point, key: key in keys)

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for point, (key, version) in self.held[collection].items():
            if key in keys:
                said = {"doc": key, "v": version}
                found.setdefault(key, []).append(Point(point, [float(version)], said))
        return found


class Rows:
    """Rows that all have changed; what a reader sees is what they are."""

    def __init__(self, rows: list[Row]) -> None:
        self.held = rows

    def _block(self, rows: Sequence[Row]) -> RowBlock:
        named = any(row.collection for row in self.held)
        return RowBlock(
            [row.key for row in rows],
            [str(row.version) for row in rows],
            counts=[row.count for row in rows],
            collections=[row.collection for row in rows] if named else None,
        )

    def rows(self, link: Link) -> Iterator[RowBlock]:
        yield self._block(self.held)

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        return self._block([row for row in self.held if row.key in keys])

    def changed(
        self, links: Sequence[Link], base: str, *, most: int | None = None
    ) -> tuple[dict[str, RowBlock], str]:
        return {link.name: self._block(self.held) for link in links}, base


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


class SilentStep:
    def advance(self, amount: int = 1) -> None: ...

    def detail(self, text: str) -> None: ...


class Pair:
    """One link's rows and points; `tick` lets the capture look, `patch` compares."""

    def __init__(
        self,
        tmp_path: Path,
        rows: list[Row],
        live: Points,
        *,
        cardinality: Literal["one", "many"] = "one",
        sources: int = 1,
    ) -> None:
        source = RowSource(table="docs", key=("id",), version="v", count="n")
        link = Link(
            "docs", "docs*", (source,) * sources, ref=(PayloadPath(("doc",)),),
            version=PayloadPath(("v",)), cardinality=cardinality,
        )  # fmt: skip
        self.target = Target(link, tuple(sorted(live)))
        self.rows, self.live, self.clock = Rows(rows), Store(live), Clock()
        self.images = ImageStore(tmp_path / "images", 1 << 20)
        self._directory = tmp_path
        records: Any = self.rows
        points: Any = self.live
        clock: Any = self.clock
        self.capturer = Capturer(
            records, points, [self.target], self.images, clock, base="1", settle_lag=2.0,
            aliases={"german": "docs_de"},
        )  # fmt: skip

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.capturer.tick()
            self.clock.time += 1.0

    def patch(self, shards: Points) -> list[PatchLine]:
        patch = PatchFile(self._directory / "patch")
        rows: Any = self.rows
        live: Any = self.live
        offline: Any = Store(shards)
        authority = Authority(
            rows=rows,
            offline=offline,
            live=live,
            images=self.images,
            patch=patch,
            workdir=self._directory,
            changed=ChangedKeys(None, "1", self._directory / "changed"),
            aliases=self.capturer.aliases,
        )
        step: Step = SilentStep()
        authority.run(self.target, step)
        authority.retry([self.target])
        lines = list(decode(patch.stream()))
        patch.close()
        self.images.close()
        return lines


@pytest.mark.parametrize("german", ["docs_de", "german"])
def test_the_same_key_is_another_row_in_another_collection(tmp_path: Path, german: str) -> None:
    """The English point is stale in its shard. The German one is right there, and has moved on."""
    pair = Pair(
        tmp_path,
        [Row("k", 5, "docs_en"), Row("k", 4, german)],
        {"docs_de": {20: ("k", 5)}, "docs_en": {10: ("k", 5)}},
    )
    pair.tick(3)
    lines = pair.patch({"docs_de": {20: ("k", 4)}, "docs_en": {10: ("k", 4)}})

    (upsert,) = lines
    assert isinstance(upsert, Upsert)
    assert (upsert.collection, upsert.id, upsert.payload["v"]) == ("docs_en", 10, 5)


def test_a_row_that_goes_takes_no_point_of_another_collection(tmp_path: Path) -> None:
    """The German row is deleted after the watermark, its live point with it."""
    pair = Pair(
        tmp_path,
        [Row("k", 5, "docs_en", 1), Row("k", 4, "docs_de", 1)],
        {"docs_de": {}, "docs_en": {10: ("k", 5)}},
        cardinality="many",
    )
    pair.tick(3)
    lines = pair.patch({"docs_de": {20: ("k", 4)}, "docs_en": {10: ("k", 4)}})

    assert [(type(line), line.collection) for line in lines] == [(Upsert, "docs_en")]


def test_a_row_to_embed_says_in_which_collection(tmp_path: Path) -> None:
    pair = Pair(
        tmp_path,
        [Row("k", 5, "docs_en"), Row("k", 4, "docs_de"), Row("l", 1)],
        {"docs_de": {20: ("k", 4)}, "docs_en": {}},
    )
    pair.tick(3)
    lines = pair.patch({"docs_de": {20: ("k", 4)}, "docs_en": {10: ("k", 4)}})

    listed = [(line.key, line.collection) for line in lines if isinstance(line, Reembed)]
    assert sorted(listed) == [("k", "docs_en"), ("l", "")]
    assert [line.id for line in lines if isinstance(line, Delete)] == [10]


def test_a_part_of_the_points_is_not_all_of_them(tmp_path: Path) -> None:
    """One point of ten of the next version stands there for long, then its row is committed."""
    ten = dict.fromkeys(range(10), ("k", 3))
    pair = Pair(tmp_path, [Row("k", 2, count=10)], {"docs": {0: ("k", 3)}}, cardinality="many")
    pair.tick(5)
    pair.rows.held = [Row("k", 3, count=10)]
    pair.live.held["docs"] = ten
    pair.tick(2)
    lines = pair.patch({"docs": dict.fromkeys(range(10), ("k", 2))})

    assert sorted(line.id for line in lines if isinstance(line, Upsert)) == list(range(10))
    assert len(lines) == 10


def test_a_part_of_the_points_that_was_captured_is_not_restored(tmp_path: Path) -> None:
    """The rest never came while the backup looked."""
    pair = Pair(tmp_path, [Row("k", 2, count=2)], {"docs": {0: ("k", 3)}}, cardinality="many")
    pair.tick(5)
    pair.rows.held = [Row("k", 3, count=2)]
    lines = pair.patch({"docs": {0: ("k", 2), 1: ("k", 2)}})

    assert [line.reason for line in lines if isinstance(line, Reembed)] == ["incomplete"]
    assert sorted(line.id for line in lines if isinstance(line, Delete)) == [0, 1]


@pytest.mark.parametrize("newest_first", [False, True])
def test_of_a_row_in_two_sources_the_newest_version_counts(
    tmp_path: Path, newest_first: bool
) -> None:
    rows = [Row("k", 5), Row("k", 4)]
    pair = Pair(tmp_path, rows if newest_first else rows[::-1], {"docs": {1: ("k", 4)}}, sources=2)
    pair.tick(3)
    lines = pair.patch({"docs": {1: ("k", 3)}})

    assert [line.version for line in lines if isinstance(line, Reembed)] == ["5"]
    assert [type(line) for line in lines] == [Delete, Reembed]


@pytest.mark.parametrize("cardinality", ["one", "many"])
def test_a_row_without_points_waits_for_none(
    tmp_path: Path, cardinality: Literal["one", "many"]
) -> None:
    """And what the shards still hold of it goes."""
    pair = Pair(tmp_path, [Row("k", 2, count=0)], {"docs": {}}, cardinality=cardinality)
    pair.tick()
    assert pair.capturer.wanted == {}

    (line,) = pair.patch({"docs": {1: ("k", 1)}})
    assert isinstance(line, Delete)
    assert line.id == 1
    # A wrong count column must not get past the guard of a restore.
    assert line.shrinks


class Hold:
    """Takes the rows of these keys, in whatever collection they are; `free` says which keys."""

    def __init__(self, rows: Rows, free: list[set[str]]) -> None:
        self._rows = rows
        self._free = free
        self.tries = 0

    def take(self, link: Link, keys: Sequence[str]) -> RowBlock:
        self.tries += 1
        free = self._free[min(self.tries, len(self._free)) - 1]
        return self._rows.lookup(link, [key for key in keys if key in free])


@pytest.mark.parametrize(
    ("overtaken", "free", "tries"),
    [
        ([("k1", "docs_en"), ("k2", "docs_en")], [{"k1"}, {"k1", "k2"}], 2),
        ([("k1", "docs_en")], [{"k1"}], 1),
    ],
    ids=["one is being written", "all at once"],
)
def test_rows_of_the_same_key_elsewhere_are_not_what_is_held(
    tmp_path: Path, overtaken: list[tuple[str, str]], free: list[set[str]], tries: int
) -> None:
    pair = Pair(
        tmp_path,
        [Row("k1", 5, "docs_en"), Row("k1", 4, "docs_de"), Row("k2", 5, "docs_en")],
        {"docs_de": {}, "docs_en": {10: ("k1", 5), 11: ("k2", 5)}},
    )
    hold = Hold(pair.rows, free)

    class Records:
        @contextmanager
        def hold_rows(self, seconds: float) -> Iterator[Hold]:
            yield hold

    records: Any = Records()
    clock: Any = ManualClock()
    fence = RowFence(records, pair.capturer, 5.0, SilentReporter(), clock)
    fence.see([("docs", Owner(key, collection)) for key, collection in overtaken])
    with fence.holding(0.0):
        pass
    pair.images.close()

    assert hold.tries == tries
    assert fence.held == len(overtaken)
