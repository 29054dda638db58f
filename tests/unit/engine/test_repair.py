"""Repair beside writers that act at the worst moment: no point is lost whose row exists."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vbackup.engine.editor import CheckedEditor
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, ReconcileResult, live_rows
from vbackup.engine.removal import read_removed
from vbackup.engine.repair import (
    KINDS,
    RUNAWAY_FLOOR,
    Repair,
    RepairOptions,
    RepairResult,
    repair_kinds,
)
from vbackup.engine.reread import Reread
from vbackup.errors import Damaged, Failed, Refused, Usage
from vbackup.model.blocks import Point
from vbackup.model.finding import Finding
from vbackup.model.link import Link
from vbackup.model.patch import Reembed


def found_in(
    pair: Any, tmp_path: Path, link: Link | None = None, *, tenant: str | None = None
) -> tuple[ReconcileResult, Any]:
    found: list[Finding] = []
    result = Reconcile(
        [link or pair.link],
        [],
        live_rows(pair),
        pair,
        dict.fromkeys(pair.stores, ()),
        ReconcileOptions(confirm=False, tenant=tenant, work_dir=tmp_path / "work"),
        pair.reporter,
        pair.clock,
    ).run(found.append)
    return result, found


class Repairer:
    """Repairs what a reconcile just found, and keeps what came out."""

    def __init__(self, pair: Any, tmp_path: Path, *, link: Link | None = None) -> None:
        self.pair = pair
        self.tmp_path = tmp_path
        self.link = link
        self.reembed: list[Reembed] = []
        self.editor: Any = pair
        self.from_backup: Any = None
        self.file = tmp_path / "removed.jsonl"

    def run(self, kinds: str = "all", *, force: bool = False) -> RepairResult:
        result, found = found_in(self.pair, self.tmp_path, self.link)
        return self.again(result, found, kinds, force=force)

    def again(
        self,
        result: ReconcileResult,
        found: list[Finding],
        kinds: str,
        *,
        force: bool = False,
        tenant: str | None = None,
    ) -> RepairResult:
        reread = Reread(live_rows(self.pair), self.pair, self.tmp_path / "work")
        repair = Repair(
            reread, self.editor, self.pair.reporter, self.reembed.append, self.from_backup
        )
        options = RepairOptions(repair_kinds(kinds), self.file, force=force, tenant=tenant)
        repaired = repair.run(result.targets, result.reports, lambda: found, options)
        assert self.pair.open_views == 0
        return repaired

    @property
    def removed(self) -> list[tuple[str, Point]]:
        return list(read_removed(self.file)) if self.file.exists() else []


@pytest.fixture
def repairer(pair: Any, tmp_path: Path) -> Repairer:
    return Repairer(pair, tmp_path)


def test_what_must_go_goes_into_a_file_first(pair: Any, repairer: Repairer) -> None:
    pair.agree(10)
    pair.point(1, "1")
    pair.row("2", live=False)
    pair.point(2, "2")
    pair.row("3")
    pair.point(3, "3")
    pair.point(4, "3")
    before = {i: pair.stores["documents"][i] for i in (1, 2, 4)}
    pair.on("delete", 1, lambda: seen.append(len(repairer.removed)))
    seen: list[int] = []
    result = repairer.run()
    assert result.deleted == {"orphans": 1, "not_live": 1, "duplicates": 1}
    assert seen == [1]
    assert {point.id: point for _, point in repairer.removed} == before
    assert result.removed_file == repairer.file
    assert repairer.file.stat().st_mode & 0o777 == 0o600
    assert set(pair.stores["documents"]) == {*range(1000, 1010), 3}


def test_only_what_is_asked_for(pair: Any, repairer: Repairer) -> None:
    pair.point(1, "1")
    pair.row("2", live=False)
    pair.point(2, "2")
    pair.row("3")
    result = repairer.run("not_live")
    assert set(pair.stores["documents"]) == {1}
    assert result.deleted == {"not_live": 1}
    assert repairer.reembed == []


def test_a_second_run_has_nothing_to_do(pair: Any, repairer: Repairer) -> None:
    pair.agree(5)
    pair.point(1, "1")
    pair.point(2, "1000")
    repairer.run()
    calls = pair.calls["delete"]
    again = repairer.run()
    assert again == RepairResult(removed_file=repairer.file)
    assert pair.calls["delete"] == calls
    assert len(repairer.removed) == 2


def test_the_same_findings_a_second_time_change_nothing(pair: Any, repairer: Repairer) -> None:
    pair.point(1, "1")
    pair.row("2")
    result, found = found_in(pair, repairer.tmp_path)
    repairer.again(result, found, "all")
    pair.point(2, "2")
    again = repairer.again(result, found, "all")
    assert (again.deleted, again.skipped, again.reembed) == ({"orphans": 0}, 2, 0)
    assert set(pair.stores["documents"]) == {2}


def test_rows_that_need_new_points_are_listed_as_they_are_now(
    pair: Any, repairer: Repairer
) -> None:
    pair.row("1", "1", tenant="red")
    pair.row("2", "2")
    pair.point(2, "2", 1)
    pair.row("3", "1")
    pair.point(3, "3", 2)
    pair.row("4")
    result, found = found_in(pair, repairer.tmp_path)
    pair.row("1", "5", tenant="red")
    pair.rows.pop("4")
    repaired = repairer.again(result, found, "missing,stale,ahead")
    assert sorted(repairer.reembed, key=lambda line: line.key) == [
        Reembed("documents", "1", "5", "red", "drift"),
        Reembed("documents", "2", "2", None, "drift"),
        Reembed("documents", "3", "1", None, "drift"),
    ]
    assert (repaired.reembed, repaired.skipped) == (3, 1)
    assert set(pair.stores["documents"]) == {2, 3}


# ------------------------------------------------------------ races


def test_a_row_that_came_before_the_look_keeps_its_point(pair: Any, repairer: Repairer) -> None:
    pair.point(1, "1")
    result, found = found_in(pair, repairer.tmp_path)
    pair.row("1")
    repaired = repairer.again(result, found, "orphans")
    assert (pair.deleted, repaired.skipped) == ([], 1)
    assert repairer.removed == []


def test_a_point_that_is_rewritten_before_the_delete_stays(pair: Any, repairer: Repairer) -> None:
    pair.point(1, "1", 1)

    def revive() -> None:
        pair.row("1", "2")
        pair.point(1, "1", 2)

    pair.on("delete", 1, revive)
    result = repairer.run()
    assert pair.deleted == []
    assert (result.deleted, result.put_back) == ({"orphans": 0}, 0)
    assert pair.stores["documents"][1].payload["version"] == 2


def test_a_row_that_comes_back_in_the_same_version_gets_its_point_back(
    pair: Any, repairer: Repairer
) -> None:
    pair.point(1, "1", 1)
    before = pair.stores["documents"][1]

    def revive() -> None:
        pair.row("1", "1")
        pair.point(1, "1", 1)

    pair.on("delete", 1, revive)
    result = repairer.run()
    assert pair.deleted == [("documents", 1)]
    assert (result.deleted, result.put_back) == ({"orphans": 0}, 1)
    assert pair.stores["documents"] == {1: before}


def test_putting_back_never_overwrites(pair: Any, repairer: Repairer) -> None:
    pair.point(1, "1", 1)
    pair.on("delete", 1, lambda: pair.row("1", "1"))
    pair.on("write", 1, lambda: (pair.row("1", "2"), pair.point(1, "1", 2)))
    repairer.run()
    assert pair.deleted == [("documents", 1)]
    assert pair.stores["documents"][1].payload["version"] == 2


def test_a_row_that_comes_alive_again_keeps_its_point(pair: Any, repairer: Repairer) -> None:
    pair.row("1", live=False)
    pair.point(1, "1")
    pair.on("deleted", 1, lambda: pair.row("1", live=True))
    result = repairer.run()
    assert result.put_back == 1
    assert set(pair.stores["documents"]) == {1}


def test_a_duplicate_that_is_needed_after_all_comes_back(pair: Any, repairer: Repairer) -> None:
    pair.row("1")
    pair.point(1, "1")
    pair.point(2, "1")
    pair.on("deleted", 1, lambda: pair.stores["documents"].pop(1))
    result = repairer.run()
    assert result.put_back == 1
    assert set(pair.stores["documents"]) == {2}


def test_a_point_that_refers_to_another_row_by_now_stays(pair: Any, repairer: Repairer) -> None:
    pair.point(1, "1")
    result, found = found_in(pair, repairer.tmp_path)
    pair.row("2")
    pair.point(1, "2")
    repaired = repairer.again(result, found, "all")
    assert (pair.deleted, repaired.skipped) == ([], 1)


def test_a_file_that_cannot_be_written_stops_before_the_delete(
    pair: Any, repairer: Repairer
) -> None:
    pair.point(1, "1")
    repairer.file.mkdir()
    with pytest.raises(Failed, match="nothing was deleted"):
        repairer.run()
    assert pair.deleted == []


@pytest.mark.parametrize("seed", range(80))
@pytest.mark.parametrize("cardinality", ["one", "many"])
def test_writers_at_every_moment_lose_no_point(
    pair: Any, tmp_path: Path, seed: int, cardinality: str
) -> None:
    """An application acts, by chance, before any call. It writes rows first and their points
    a little later; keys and versions come back on purpose."""
    pair.cardinality = cardinality
    chance = random.Random(seed)
    app = Application(pair, chance)
    for key in range(6):
        if chance.random() < 0.4:
            app.write(str(key))
        # Drift of all kinds, under the ids that the application itself will use again.
        if chance.random() < 0.7:
            pair.point(key, str(key), chance.randrange(1, 3))
        if chance.random() < 0.2:
            pair.point(100 + key, str(key), chance.randrange(1, 3))
    result, found = found_in(pair, tmp_path)
    app.busy = True
    repairer = Repairer(pair, tmp_path)
    repairer.again(result, found, "all", force=True)
    app.busy = False
    app.drain()
    listed = {line.key for line in repairer.reembed}
    for key, row in pair.rows.items():
        own = [p for p in pair.stores["documents"].values() if p.payload["key"] == key]
        right = [p for p in own if str(p.payload["version"]) == row.version]
        assert right or not row.live or key in listed, (seed, key)


class Application:
    """Writes rows, and their points in order a few calls later."""

    def __init__(self, pair: Any, chance: random.Random) -> None:
        self.pair = pair
        self.chance = chance
        self.busy = False
        self.queue: list[tuple[str, str | None]] = []
        original = pair.called

        def called(name: str) -> None:
            original(name)
            if self.busy:
                self.act()

        pair.called = called

    def act(self) -> None:
        while self.chance.random() < 0.3:
            self.write(str(self.chance.randrange(6)))
        while self.chance.random() < 0.6:
            self.index()

    def write(self, key: str) -> None:
        if key in self.pair.rows and self.chance.random() < 0.4:
            del self.pair.rows[key]
            self.queue.append((key, None))
            return
        version = str(self.chance.randrange(1, 3))
        self.pair.row(key, version, live=self.chance.random() < 0.8)
        self.queue.append((key, version if self.pair.rows[key].live else None))

    def index(self) -> None:
        if not self.queue:
            return
        key, version = self.queue.pop(0)
        store = self.pair.stores["documents"]
        if version is None:
            store.pop(int(key), None)
        else:
            self.pair.point(int(key), key, int(version))

    def drain(self) -> None:
        while self.queue:
            self.index()


def test_what_moved_to_another_tenant_is_left_alone(pair: Any, tmp_path: Path) -> None:
    for number, tenant in ((1, "red"), (2, "red"), (3, "blue")):
        pair.point(number, str(number), owner=tenant)
    pair.row("4", tenant="red")
    pair.row("5", tenant="red")
    result, found = found_in(pair, tmp_path, tenant="red")
    pair.point(2, "2", owner="blue")
    pair.row("5", tenant="blue")
    repairer = Repairer(pair, tmp_path)
    repaired = repairer.again(result, found, "all", tenant="red")
    assert set(pair.stores["documents"]) == {2, 3}
    assert [line.key for line in repairer.reembed] == ["4"]
    assert repaired.skipped == 2


# ------------------------------------------------------------ guard


def test_a_repair_that_would_take_a_tenth_is_refused(pair: Any, repairer: Repairer) -> None:
    """Few points are no runaway, however large their share."""
    doomed = RUNAWAY_FLOOR
    for number in range(doomed):
        pair.point(number, str(number))
    pair.agree(doomed)
    repairer.run("orphans")
    assert len(pair.deleted) == doomed
    for number in range(doomed + 1):
        pair.point(number, str(number))
    with pytest.raises(Refused, match=f"would delete {doomed + 1} of {2 * doomed + 1} points"):
        repairer.run("orphans")
    assert len(pair.deleted) == doomed
    assert repairer.run("missing").deleted == {}
    assert repairer.run("orphans", force=True).deleted == {"orphans": doomed + 1}


def test_a_tenth_of_many_points_may_go(pair: Any, repairer: Repairer) -> None:
    doomed = RUNAWAY_FLOOR + 1
    pair.agree(doomed * 9)
    for number in range(doomed):
        pair.point(10**6 + number, str(10**6 + number))
    assert repairer.run("orphans").deleted == {"orphans": doomed}


def test_links_that_keep_points_of_rows_that_are_not_live(pair: Any, tmp_path: Path) -> None:
    pair.row("1", live=False)
    pair.point(1, "1")
    result = Repairer(pair, tmp_path, link=replace(pair.link, not_live="keep")).run()
    assert pair.deleted == []
    assert result.warnings == [
        "link 'documents' keeps points of rows that are not live: 1 left as they are"
    ]


def test_kinds_by_name() -> None:
    assert repair_kinds("all") == set(KINDS)
    assert repair_kinds("orphans, not-live") == {"orphans", "not_live"}
    for wrong in ("", "orphan", "orphans,everything"):
        with pytest.raises(Usage, match="cannot repair"):
            repair_kinds(wrong)


def test_a_torn_file_of_removed_points_is_told(tmp_path: Path) -> None:
    file = tmp_path / "removed.jsonl"
    file.write_bytes(b'{"collection": "c", "point": {"id": 1, "vector": [1.5], "payload": {}}}\n{')
    lines = read_removed(file)
    assert next(lines) == ("c", Point(1, [1.5], {}))
    with pytest.raises(Damaged, match="line 2"):
        next(lines)


# ------------------------------------------------------------ from a backup


def backup_of(*points: Point) -> Any:
    def stored(link: Link, keys: Sequence[str]) -> Mapping[str, list[tuple[str, Point]]]:
        found: dict[str, list[tuple[str, Point]]] = {}
        for point in points:
            if str(point.payload["key"]) in keys:
                found.setdefault(str(point.payload["key"]), []).append(("documents", point))
        return found

    return stored


def dot(number: int, key: str, version: int) -> Point:
    return Point(number, [9.0], {"key": key, "version": version, "from": "backup"})


def test_points_come_back_from_a_backup_where_the_version_is_the_same(
    pair: Any, repairer: Repairer
) -> None:
    pair.row("1", "1")
    pair.row("2", "2")
    pair.point(2, "2", 1)
    pair.row("3", "3")
    pair.row("4", "1")
    pair.point(44, "4", 2)
    repairer.from_backup = backup_of(
        dot(1, "1", 1), dot(2, "2", 2), dot(3, "3", 2), dot(4, "4", 1), dot(9, "9", 1)
    )
    result = repairer.run()
    assert (result.revived, result.reembed) == (3, 1)
    assert [line.key for line in repairer.reembed] == ["3"]
    store = pair.stores["documents"]
    assert {i: p.payload.get("from") for i, p in store.items()} == {
        1: "backup",
        2: "backup",
        4: "backup",
    }
    assert {point.id for _, point in repairer.removed} == {2, 44}
    assert found_in(pair, repairer.tmp_path)[0].reports[0].drift == 1


def test_a_row_that_moves_on_while_its_point_comes_back(pair: Any, repairer: Repairer) -> None:
    pair.row("1", "1")
    repairer.from_backup = backup_of(dot(1, "1", 1))
    pair.on("written", 1, lambda: pair.row("1", "2"))
    result = repairer.run()
    assert (result.revived, result.reembed) == (0, 1)
    assert repairer.reembed[0].version == "2"


def test_a_row_that_goes_while_its_point_comes_back(pair: Any, repairer: Repairer) -> None:
    pair.row("1", "1")
    repairer.from_backup = backup_of(dot(1, "1", 1))
    pair.on("written", 1, lambda: pair.rows.pop("1"))
    repairer.run()
    assert pair.stores["documents"] == {}
    assert repairer.reembed == []


def test_an_indexer_that_is_faster_than_the_backup_wins(pair: Any, repairer: Repairer) -> None:
    pair.row("1", "1")
    repairer.from_backup = backup_of(dot(1, "1", 1))
    pair.on("write", 1, lambda: (pair.row("1", "2"), pair.point(1, "1", 2)))
    repairer.run()
    assert pair.stores["documents"][1].payload["version"] == 2
    assert repairer.removed == []


def test_a_set_of_points_comes_back_whole_or_not_at_all(pair_of_many: Any, tmp_path: Path) -> None:
    pair = pair_of_many
    pair.row("1", "2", count=2)
    pair.point(10, "1", 2)
    pair.point(12, "1", 1)
    pair.row("2", "2", count=3)
    repairer = Repairer(pair, tmp_path)
    repairer.from_backup = backup_of(
        dot(10, "1", 2), dot(11, "1", 2), dot(20, "2", 2), dot(21, "2", 2)
    )
    result = repairer.run()
    assert (result.revived, result.reembed) == (1, 1)
    assert set(pair.stores["documents"]) == {10, 11}
    assert "from" not in pair.stores["documents"][10].payload


# ------------------------------------------------------------ without conditional writes


@pytest.fixture
def checked(pair: Any) -> CheckedEditor:
    return CheckedEditor(pair, pair)


def test_checked_deletes_leave_changed_points(pair: Any, checked: CheckedEditor) -> None:
    pair.point(1, "1")
    pair.point(2, "2")
    old = checked.fetch_ids("documents", [1, 2])
    pair.point(2, "2", 5)
    checked.delete_unchanged("documents", old)
    assert set(pair.stores["documents"]) == {2}


def test_checked_writes_overwrite_only_what_was_seen(pair: Any, checked: CheckedEditor) -> None:
    pair.point(1, "1")
    pair.point(2, "2")
    seen = {point.id: point for point in checked.fetch_ids("documents", [1, 2])}
    pair.point(2, "2", 5)
    pair.point(3, "3", 5)
    checked.write_unchanged("documents", [dot(n, str(n), 7) for n in (1, 2, 3, 4)], seen)
    versions = {i: p.payload["version"] for i, p in pair.stores["documents"].items()}
    assert versions == {1: 7, 2: 5, 3: 5, 4: 7}
