"""What `check` says of an application's habits, on a simulated one."""

from __future__ import annotations

from typing import Any

import pytest

from vbackup.engine.lag import LagReport, LagWatch, advice
from vbackup.engine.links import Target
from vbackup.model.link import Link, PayloadPath, RowSource

KEYED = Link(
    "docs",
    "docs",
    (RowSource(table="t", key=("id",), version="v", live="live"),),
    version=PayloadPath(("v",)),
)
UNKEYED = Link("docs", "docs", (RowSource(table="t", key=("id",)),))


def watch(kit: Any, link: Link = KEYED, seconds: float = 4.0, **habits: Any) -> LagReport:
    world = kit.world(link, 5, **habits)
    targets = [Target(link, ("docs",))]
    records, points, clock = kit.records(world), kit.points(world), kit.clock(world)
    return LagWatch(records, points, targets, clock).run(seconds)[0]


def test_a_longer_lag_is_measured_as_longer(kit: Any) -> None:
    quick, slow = watch(kit, index_lag=2), watch(kit, index_lag=30)
    assert len(quick.lags) > 20
    assert quick.longest < 0.6
    assert slow.quantile(0.5) > quick.quantile(0.5)
    assert slow.longest > 0.6


def test_a_row_first_application_is_never_seen_ahead(kit: Any) -> None:
    assert watch(kit, index_lag=10).ahead == 0


def test_an_idle_application_says_nothing(kit: Any) -> None:
    world = kit.world(KEYED, 5)
    world.writing = False
    targets = [Target(KEYED, ("docs",))]
    report = LagWatch(kit.records(world), kit.points(world), targets, kit.clock(world)).run(1.0)[0]
    assert (report.changed, report.lags, report.waiting) == (0, [], [])
    assert advice(report, 300, 2) == ""


def test_unkeyed_links_are_counted_and_advised(kit: Any) -> None:
    report = watch(kit, UNKEYED)
    assert report.changed > 10
    assert report.lags == []
    assert "best effort" in advice(report, 300, 2)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (LagReport("l", True, [0.1, 400.0]), "raise watermark.max_index_lag"),
        (LagReport("l", True, [0.1], [301.0]), "raise watermark.max_index_lag"),
        (LagReport("l", True, [0.1], ahead=3), "3 points ran ahead"),
        (LagReport("l", True, [5.0] * 20), "a watermark.lead_in of that length"),
        (LagReport("l", True, [0.1] * 20), ""),
    ],
)
def test_advice_names_the_setting(report: LagReport, said: str) -> None:
    assert (said in advice(report, 300, 2)) if said else advice(report, 300, 2) == ""


def test_a_point_written_before_its_row_is_committed_is_ahead(kit: Any) -> None:
    """One row, by hand: its point carries version 9 while every snapshot still sees 8."""
    world = kit.world(KEYED, 5, keys=1)
    world.writing = False
    watcher = LagWatch(
        kit.records(world), kit.points(world), [Target(KEYED, ("docs",))], kit.clock(world)
    )
    watcher._await("docs", {"0": "8"})
    point = world.points[0]
    world.points[0] = type(point)(0, [9.0], {"key": "0", "v": 9, "part": 0})

    watcher._look(Target(KEYED, ("docs",)))
    watcher._judge("docs", {})

    assert watcher._reports["docs"].ahead == 1
