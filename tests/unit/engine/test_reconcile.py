"""Reconcile of a live pair: what is lag heals, what is drift stays, and nothing else is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vbackup.engine.reconcile import (
    Reconcile,
    ReconcileOptions,
    ReconcileResult,
    live_rows,
    reconcile_restored,
)
from vbackup.errors import NotFound, Unreachable, Usage
from vbackup.model.finding import Finding

LAG = 60.0


def reconcile(
    pair: Any, tmp_path: Path, *, expected: dict[str, set[str]] | None = None, **options: Any
) -> tuple[ReconcileResult, list[Finding]]:
    found: list[Finding] = []
    run = Reconcile(
        links=[pair.link],
        ignore=[],
        open_rows=live_rows(pair),
        points=pair,
        names=dict.fromkeys(pair.stores, ()),
        options=ReconcileOptions(max_index_lag=LAG, work_dir=tmp_path, **options),
        reporter=pair.reporter,
        clock=pair.clock,
        expected=expected or {},
    )
    result = run.run(found.append)
    assert list(tmp_path.iterdir()) == []
    assert pair.open_views == 0
    return result, found


def kinds(found: list[Finding]) -> list[tuple[str, str | None]]:
    return sorted((finding.kind, finding.key) for finding in found)


def test_a_pair_that_agrees_is_clean_and_waits_for_nothing(pair: Any, tmp_path: Path) -> None:
    pair.agree(20)
    result, found = reconcile(pair, tmp_path)
    assert result.clean
    assert found == []
    assert (result.reports[0].rows, result.reports[0].points) == (20, 20)
    assert pair.clock.slept == []


def test_every_kind_of_drift_is_confirmed_once(pair: Any, tmp_path: Path) -> None:
    pair.agree(5)
    pair.row("1")
    pair.point(2, "2")
    pair.row("3", "2")
    pair.point(3, "3", 1)
    pair.row("4", "1")
    pair.point(4, "4", 2)
    pair.row("5", live=False)
    pair.point(5, "5")
    pair.row("6")
    pair.point(60, "6")
    pair.point(61, "6")
    pair.row("7", count=0)
    pair.point(7, "7")
    pair.point(8)
    result, found = reconcile(pair, tmp_path)
    assert kinds([f for f in found if f.key]) == [
        ("ahead", "4"),
        ("duplicate", "6"),
        ("missing", "1"),
        ("not_live", "5"),
        ("orphan", "2"),
        ("stale", "3"),
        ("wrong_count", "7"),
    ]
    assert [(f.kind, f.point) for f in found if not f.key] == [("no_reference", 8)]
    assert result.reports[0].drift == 8
    assert result.reports[0].healed == 0
    assert sum(pair.clock.slept) == pytest.approx(LAG)


def test_what_the_index_catches_up_with_is_healed_and_ends_the_wait(
    pair: Any, tmp_path: Path
) -> None:
    pair.row("1", "2")
    pair.point(1, "1", 1)
    pair.row("2")
    pair.point(3, "3")
    pair.clock.after(1.0, lambda: pair.point(1, "1", 2))
    pair.clock.after(2.0, lambda: pair.point(2, "2"))
    pair.clock.after(3.0, lambda: pair.stores["documents"].pop(3))
    result, found = reconcile(pair, tmp_path)
    assert result.clean
    assert found == []
    assert result.reports[0].healed == 3
    assert sum(pair.clock.slept) < LAG / 4


def test_a_row_that_changes_all_the_time_is_not_drift(pair: Any, tmp_path: Path) -> None:
    pair.row("1", "2")
    pair.point(1, "1", 1)

    def move(version: int) -> None:
        pair.row("1", str(version))
        pair.point(1, "1", version - 1)
        pair.clock.after(0.1, lambda: move(version + 1))

    pair.clock.after(0.1, lambda: move(3))
    result, found = reconcile(pair, tmp_path)
    assert result.clean
    assert found == []
    assert result.reports[0].healed == 1


def test_a_row_of_many_points_that_changes_all_the_time_is_not_drift(
    pair: Any, tmp_path: Path
) -> None:
    """At every look its points are one version behind: none of two fits, and never the same."""
    pair.cardinality = "many"

    def move(version: int) -> None:
        pair.row("1", str(version), count=2)
        pair.point(1, "1", version - 1)
        pair.point(2, "1", version - 1)
        pair.clock.after(0.1, lambda: move(version + 1))

    move(2)
    result, found = reconcile(pair, tmp_path)
    assert found == []
    assert result.reports[0].healed > 0


def test_a_point_that_never_moves_is_drift_however_often_its_row_changes(
    pair: Any, tmp_path: Path
) -> None:
    pair.row("1", "2")
    pair.point(1, "1", 1)
    pair.clock.after(1.0, lambda: pair.row("1", "3"))
    pair.clock.after(LAG - 1, lambda: pair.row("1", "4"))
    _, found = reconcile(pair, tmp_path)
    assert [(f.kind, f.row_version, f.point_version) for f in found] == [("stale", "4", "1")]


def test_a_row_deleted_during_the_wait_is_lag_until_its_own_time_is_up(
    pair: Any, tmp_path: Path
) -> None:
    pair.row("1", "2")
    pair.point(1, "1", 1)
    pair.clock.after(LAG - 1, lambda: pair.rows.pop("1"))
    result, found = reconcile(pair, tmp_path)
    assert found == []
    assert result.reports[0].healed == 1


def test_no_index_lag_means_one_second_look_and_no_wait(pair: Any, tmp_path: Path) -> None:
    pair.row("1")
    run = Reconcile(
        links=[pair.link],
        ignore=[],
        open_rows=live_rows(pair),
        points=pair,
        names={"documents": ()},
        options=ReconcileOptions(max_index_lag=0.0, work_dir=tmp_path),
        reporter=pair.reporter,
        clock=pair.clock,
    )
    result = run.run()
    assert result.reports[0].missing == 1
    assert pair.clock.slept == []
    assert pair.calls["owned"] == 1


def test_a_quiet_pair_is_not_read_again(pair: Any, tmp_path: Path) -> None:
    pair.row("1")
    result, found = reconcile(pair, tmp_path, confirm=False)
    assert kinds(found) == [("missing", "1")]
    assert not result.clean
    assert pair.calls["lookup rows"] == 0


def test_rows_on_the_reembed_list_are_expected(pair: Any, tmp_path: Path) -> None:
    pair.row("1")
    pair.row("2")
    result, found = reconcile(pair, tmp_path, expected={"documents": {"1", "9"}}, confirm=False)
    report = result.reports[0]
    assert (report.missing, report.expected_reembed, report.drift) == (2, 1, 1)
    assert {f.key: f.detail for f in found} == {"1": "on the re-embed list", "2": ""}


def test_a_limit_bounds_what_is_shown_but_not_the_counts(pair: Any, tmp_path: Path) -> None:
    for number in range(10):
        pair.row(str(number))
    result, found = reconcile(pair, tmp_path, confirm=False, limit=3)
    assert len(found) == 3
    assert result.truncated
    assert result.reports[0].missing == 10


def test_a_tenant_narrows_both_sides(pair: Any, tmp_path: Path) -> None:
    pair.row("1", tenant="red")
    pair.row("2", tenant="blue")
    pair.point(3, "3", owner="red")
    pair.point(4, "4", owner="blue")
    # A point whose row is another tenant's is the row's business, whatever the payload says.
    pair.row("5", tenant="blue")
    pair.point(5, "5", owner="red")
    result, found = reconcile(pair, tmp_path, tenant="red")
    assert kinds(found) == [("missing", "1"), ("orphan", "3")]
    assert {f.tenant for f in found} == {"red"}
    assert result.reports[0].rows == 1


def test_tenants_need_a_link_that_names_them(pair: Any, tmp_path: Path) -> None:
    link = replace(pair.link, tenant=None, rows=(replace(pair.link.rows[0], tenant=None),))
    run = Reconcile(
        [link], [], live_rows(pair), pair, {}, ReconcileOptions(tenant="red"), pair.reporter,
        pair.clock,
    )  # fmt: skip
    with pytest.raises(Usage, match="names no tenant"):
        run.run()


def test_links_by_name(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no link named nothing"):
        reconcile(pair, tmp_path, only=("nothing",))
    result, _ = reconcile(pair, tmp_path, only=("documents",))
    assert [report.name for report in result.reports] == ["documents"]


def test_unlinked_collections_are_told(pair: Any, tmp_path: Path) -> None:
    link = replace(pair.link, collection="documents")
    pair.stores["cache"] = {}
    result = reconcile_restored(
        links=[link],
        ignore=[],
        records=pair,
        points=pair,
        work_dir=tmp_path,
        reporter=pair.reporter,
        clock=pair.clock,
    )
    assert result.warnings == [
        "collection 'cache' has no link and is not ignored: its points are not compared"
    ]


@pytest.mark.parametrize("side", ["rows", "points"])
def test_a_side_that_fails_stops_the_other_and_leaves_nothing(
    pair: Any, tmp_path: Path, side: str
) -> None:
    pair.agree(1000)

    def fail() -> None:
        raise Unreachable(f"no {side}")

    pair.on(side, 1, fail)
    with pytest.raises(Unreachable, match=f"no {side}"):
        reconcile(pair, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert pair.open_views == 0


def test_two_collections_of_a_link_are_one_set_of_points(pair_of_two: Any, tmp_path: Path) -> None:
    pair_of_two.row("1")
    pair_of_two.point(1, "1", collection="more")
    pair_of_two.row("2")
    pair_of_two.point(2, "2", collection="documents")
    pair_of_two.point(2, "2", collection="more")
    _, found = reconcile(pair_of_two, tmp_path)
    assert [(f.kind, f.key, f.collection) for f in found] == [("duplicate", "2", "more")]


def test_many_points_a_row(pair_of_many: Any, tmp_path: Path) -> None:
    pair = pair_of_many
    pair.row("1", "2", count=3)
    pair.point(10, "1", 2)
    pair.point(11, "1", 2)
    pair.point(12, "1", 1)
    pair.row("2", "1", count=0)
    pair.clock.after(1.0, lambda: pair.point(13, "1", 2))
    result, found = reconcile(pair, tmp_path)
    assert [(f.kind, f.key, f.point) for f in found] == [("stale", "1", 12)]
    assert result.reports[0].healed == 1
