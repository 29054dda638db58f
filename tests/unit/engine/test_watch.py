"""Rounds of a watch: drift appears, what is repaired goes, and lag is never shown."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vbackup.engine import watch as watching
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, live_rows
from vbackup.engine.watch import Round, Watch, WatchOptions
from vbackup.errors import NotFound, Unreachable, Usage
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link

LAG = 60.0
PAUSE = 10.0


class Feed:
    """Rows that were written since a base; like `xmin` it says nothing of deleted ones."""

    def __init__(self, pair: Any) -> None:
        self.pair = pair
        self.kept: list[dict[str, Any]] = []
        self.most: int | None = None

    def change_base(self, links: Sequence[Link] = ()) -> str:
        self.kept.append(dict(self.pair.rows))
        return str(len(self.kept) - 1)

    def changed(
        self, links: Sequence[Link], base: str, *, most: int | None = None
    ) -> tuple[dict[str, RowBlock], str]:
        self.pair.called("changed")
        self.most = most
        following = self.change_base()
        before = self.kept[int(base)]
        keys = [key for key, row in self.pair.rows.items() if before.get(key) is not row]
        return {link.name: RowBlock(keys[:most]) for link in links}, following


class Watched:
    """A watch of a pair in memory, a round at a time."""

    def __init__(self, pair: Any, tmp_path: Path, complete_every: float = 1e9) -> None:
        self.pair = pair
        self.tmp_path = tmp_path
        self.opened = 0
        self.feed = Feed(pair)
        self.watch = Watch(self.open, self.feed, WatchOptions(PAUSE, complete_every), pair.clock)
        self.rounds: Iterator[Round] = self.watch.rounds()

    def open(self) -> Reconcile:
        self.opened += 1
        return Reconcile(
            links=[self.pair.link],
            ignore=[],
            open_rows=live_rows(self.pair),
            points=self.pair,
            names=dict.fromkeys(self.pair.stores, ()),
            options=ReconcileOptions(max_index_lag=LAG, work_dir=self.tmp_path),
            reporter=self.pair.reporter,
            clock=self.pair.clock,
        )

    def next(self) -> Round:
        found = next(self.rounds)
        assert self.pair.open_views == 0
        assert list(self.tmp_path.iterdir()) == []
        return found

    def until_mature(self) -> list[Round]:
        """Rounds until everything that is doubtful now has been looked at a lag later."""
        return [self.next() for _ in range(int(LAG / PAUSE) + 1)]


@pytest.fixture
def watched(pair: Any, tmp_path: Path) -> Watched:
    pair.agree(20)
    return Watched(pair, tmp_path)


def named(findings: Sequence[Any]) -> list[tuple[str, str | None]]:
    return sorted((finding.kind, finding.key) for finding in findings)


def test_the_first_round_is_a_confirmed_reconcile(watched: Watched) -> None:
    watched.pair.row("1")
    first = watched.next()
    assert first.compared == ("documents",)
    assert named(first.appeared) == [("missing", "1")]
    assert (first.reports[0].rows, first.reports[0].points) == (21, 20)
    assert not first.clean
    assert sum(watched.pair.clock.slept) == pytest.approx(LAG)


def test_a_quick_round_reads_only_what_changed_or_is_in_doubt(watched: Watched) -> None:
    assert watched.next().clean
    watched.pair.row("1000", "2")
    calls = watched.pair.calls.copy()
    second = watched.next()
    assert (second.compared, second.looked_at, second.in_doubt) == ((), 1, 1)
    assert second.clean
    assert watched.pair.calls["points"] == calls["points"]
    assert watched.pair.calls["rows"] == calls["rows"]
    third = watched.next()
    assert (third.looked_at, third.in_doubt) == (1, 1)


def test_drift_appears_once_it_is_older_than_the_lag_and_goes_when_repaired(
    watched: Watched,
) -> None:
    watched.next()
    watched.pair.row("1000", "2")
    *young, mature = watched.until_mature()
    assert all(seen.clean for seen in young)
    assert named(mature.appeared) == [("stale", "1000")]
    assert mature.reports[0].stale == 1
    assert list(watched.watch.findings()) == list(mature.appeared)
    assert watched.next().appeared == ()
    watched.pair.point(1000, "1000", 2)
    healed = watched.next()
    assert named(healed.gone) == [("stale", "1000")]
    assert healed.clean
    assert watched.next().looked_at == 0


def test_lag_is_never_shown(watched: Watched) -> None:
    watched.next()
    watched.pair.row("1")
    watched.pair.clock.after(LAG - PAUSE, lambda: watched.pair.point(1, "1"))
    rounds = watched.until_mature()
    assert all(seen.clean for seen in rounds)
    assert rounds[0].in_doubt == 1
    assert rounds[-1].in_doubt == 0


def test_a_row_that_changes_all_the_time_is_no_drift_while_its_point_follows(
    watched: Watched,
) -> None:
    watched.next()
    for version in range(2, 30):
        watched.pair.row("1000", str(version))
        watched.pair.point(1000, "1000", version - 1)
        assert watched.next().clean


def test_what_no_feed_tells_comes_with_the_complete_rounds(pair: Any, tmp_path: Path) -> None:
    pair.agree(20)
    watched = Watched(pair, tmp_path, complete_every=3 * PAUSE)
    watched.next()
    del pair.rows["1003"]
    del pair.stores["documents"][1004]
    quick = [watched.next(), watched.next()]
    assert [seen.compared for seen in quick] == [(), ()]
    assert [seen.in_doubt for seen in quick] == [0, 0]
    complete = watched.next()
    assert complete.compared == ("documents",)
    assert (complete.in_doubt, complete.clean) == (2, True)
    found = [finding for seen in watched.until_mature() for finding in seen.appeared]
    assert named(found) == [("missing", "1004"), ("orphan", "1003")]


def test_a_complete_round_waits_for_nobody_and_keeps_what_was_known(
    pair: Any, tmp_path: Path
) -> None:
    pair.agree(5)
    pair.row("1")
    watched = Watched(pair, tmp_path, complete_every=PAUSE)
    assert named(watched.next().appeared) == [("missing", "1")]
    pair.clock.slept.clear()
    for _ in range(3):
        seen = watched.next()
        assert seen.compared == ("documents",)
        assert (seen.appeared, seen.gone, seen.reports[0].missing) == ((), (), 1)
    assert pair.clock.slept == [PAUSE] * 3


def test_of_many_changed_rows_the_link_is_compared_as_a_whole(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BATCH", 4)
    watched.next()
    for number in range(1000, 1005):
        watched.pair.row(str(number), "2")
    seen = watched.next()
    assert (seen.compared, seen.looked_at, seen.in_doubt) == (("documents",), 0, 5)
    # One more than are looked at one by one is all that is ever kept.
    assert watched.feed.most == 5


def test_a_link_with_too_many_findings_is_left_to_complete_rounds(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FOLLOWED", 3)
    for number in range(9):
        pair.row(str(number))
    watched = Watched(pair, tmp_path, complete_every=2 * PAUSE)
    first = watched.next()
    assert first.reports[0].missing == 9
    quick = watched.next()
    assert (quick.compared, quick.looked_at, quick.reports[0].missing) == ((), 0, 9)
    assert "more than 3 findings" in quick.reports[0].warnings[0]
    for number in range(8):
        pair.point(number, str(number))
    complete = watched.next()
    assert complete.reports[0].missing == 1
    assert complete.reports[0].warnings == []
    # One that becomes so later is confirmed before it is counted.
    for number in range(8):
        pair.stores["documents"].pop(number)
    assert watched.next().reports[0].missing == 1
    assert watched.next().reports[0].missing == 9


def test_a_failure_that_may_pass_is_a_round_and_the_next_one_looks_at_everything(
    watched: Watched,
) -> None:
    watched.pair.row("1")
    watched.next()

    def fail() -> None:
        raise Unreachable("PostgreSQL does not answer")

    watched.pair.on("changed", 1, fail)
    failed = watched.next()
    assert failed.error is not None
    assert not failed.clean
    assert (failed.appeared, failed.gone, failed.reports[0].missing) == ((), (), 1)
    back = watched.next()
    assert (back.error, back.compared) == (None, ("documents",))
    assert (back.appeared, back.gone, back.reports[0].missing) == ((), (), 1)


@pytest.mark.parametrize("error", [Usage("no tenant"), Unreachable("away")])
def test_the_first_round_raises(watched: Watched, error: Exception) -> None:
    def fail() -> None:
        raise error

    watched.pair.on("points", 1, fail)
    with pytest.raises(type(error)):
        watched.next()


def test_a_failure_that_does_not_pass_is_raised(watched: Watched) -> None:
    watched.next()

    def fail() -> None:
        raise Usage("a table lost its column")

    watched.pair.on("changed", 1, fail)
    with pytest.raises(Usage):
        watched.next()


def test_collections_that_came_and_went_are_looked_for_again(watched: Watched) -> None:
    watched.next()
    assert watched.opened == 1
    watched.pair.row("1000", "2")

    def gone() -> None:
        raise NotFound("no collection")

    watched.pair.on("owned", 1, gone)
    assert watched.next().compared == ("documents",)
    assert watched.opened == 2


def test_it_ends_after_the_rounds_that_were_asked_for(pair: Any, tmp_path: Path) -> None:
    pair.agree(2)
    watched = Watched(pair, tmp_path)
    watched.watch.options = WatchOptions(PAUSE, 1e9, rounds=3)
    assert [seen.number for seen in watched.rounds] == [1, 2, 3]
    assert pair.clock.slept == [PAUSE, PAUSE]


@pytest.mark.parametrize("seed", range(12))
def test_beside_writers_exactly_the_drift_is_shown(pair: Any, tmp_path: Path, seed: int) -> None:
    """Rows change, come and go; points follow within the lag, but for those that got lost."""
    chance = random.Random(seed)
    pair.agree(60)
    watched = Watched(pair, tmp_path, complete_every=4 * PAUSE)
    lost: set[str] = set()
    since: dict[str, float] = {}

    def follow(key: str) -> None:
        if key in lost:
            return
        row = pair.rows.get(key)
        if row is None:
            pair.stores["documents"].pop(int(key), None)
        else:
            pair.point(int(key), key, int(row.version))

    def write() -> None:
        key = str(chance.randrange(1000, 1070))
        if key in lost:
            return
        row = pair.rows.get(key)
        if row is not None and chance.random() < 0.3:
            del pair.rows[key]
        else:
            pair.row(key, str(int(row.version) + 1 if row else 1))
        if chance.random() < 0.04:
            lost.add(key)
            since[key] = pair.clock.seconds
        pair.clock.after(chance.random() * (LAG - 2 * PAUSE), lambda: follow(key))

    watched.next()
    for _ in range(40):
        for _ in range(4):
            write()
        seen = watched.next()
        shown = {finding.key for finding in watched.watch.findings()}
        assert shown <= lost
        assert seen.reports[0].drift == len(shown)
    for _ in range(2 * int(LAG / PAUSE) + 4):
        watched.next()
    wrong = {key for key in lost if not _right(pair, key)}
    assert {finding.key for finding in watched.watch.findings()} == wrong


def _right(pair: Any, key: str) -> bool:
    row, point = pair.rows.get(key), pair.stores["documents"].get(int(key))
    if row is None or point is None:
        return row is None and point is None
    return bool(str(point.payload["version"]) == row.version)
