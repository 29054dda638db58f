"""A real pair: every injected fault is found and nothing else is, beside writers too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from vbackup.model.blocks import Point
from vbackup.model.patch import Upsert
from vbackup.qdrant.edit import LiveEditor

pytestmark = pytest.mark.integration

ROWS = 3_000
LAG = 3.0
EXTRA = 9_000_000


def inject(pair: Any) -> set[tuple[str, str, int | str | None]]:
    """Faults of every kind on rows of their own: (kind, key, point)."""
    expected: set[tuple[str, str, int | str | None]] = set()
    many = pair.kind == "many"

    def all_points(kind: str, number: int) -> None:
        expected.update((kind, pair.key(number), i) for i in pair.ids(number))

    with pair.connect() as connection:
        for number in (11, 12):
            pair.remove(pair.ids(number))
            expected.add(("missing", pair.key(number), None))
        for number in (21, 22):
            connection.execute("DELETE FROM documents WHERE id = %s", (pair.key(number),))
            all_points("orphan", number)
        connection.execute("UPDATE documents SET version = 2 WHERE id = %s", (pair.key(31),))
        all_points("stale", 31)
        pair.put([41], 7)
        all_points("ahead", 41)
        connection.execute("UPDATE documents SET live = false WHERE id = %s", (pair.key(51),))
        all_points("not_live", 51)
        if many:
            expected |= {("wrong_count", pair.key(n), None) for n in (31, 41, 61)}
            pair.remove(pair.ids(61)[:1])
        if pair.kind in ("payload", "many"):
            pair.write([{"id": EXTRA, "vector": [0, 0], "payload": {"doc": {"version": 1}}}])
            expected.add(("no_reference", "", EXTRA))
        if pair.kind == "payload":
            (twin,) = pair.dots(71, 1)
            pair.write([twin | {"id": EXTRA + 1}])
            expected.add(("duplicate", pair.key(71), twin["id"]))
    return expected


def named(found: list[Any]) -> set[tuple[str, str, int | str | None]]:
    return {(f.kind, f.key or "", f.point) for f in found}


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
@pytest.mark.parametrize("kind", ["id-int", "id-uuid", "payload", "many"])
def test_faults_are_found_and_repaired(pairs: Callable[..., Any], kind: str, version: str) -> None:
    pair = pairs(kind, version)
    pair.fill(ROWS)
    clean, found = pair.reconcile(confirm=False)
    assert clean.clean
    assert (clean.reports[0].rows, found) == (ROWS, [])
    expected = inject(pair)
    result, found = pair.reconcile(max_index_lag=0.5)
    assert named(found) == expected
    assert len(found) == len(expected)
    before = pair.dump_points()
    repaired, reembed = pair.repair(result, found)
    goes = {point for fault, _, point in expected if fault in ("orphan", "not_live", "duplicate")}
    after = pair.dump_points()
    assert after == {i: point for i, point in before.items() if i not in goes}
    assert sum(repaired.deleted.values()) == len(goes)
    assert {line.key for line in reembed} == {
        key for fault, key, _ in expected if fault in ("missing", "stale", "ahead", "wrong_count")
    }
    again, found = pair.reconcile(confirm=False)
    kinds = {"missing", "stale", "ahead", "wrong_count", "no_reference"}
    assert {f.kind for f in found} <= kinds
    nothing, _ = pair.repair(again, found, "orphans,not_live,duplicates")
    assert sum(nothing.deleted.values()) == 0
    assert pair.dump_points() == after


@pytest.mark.parametrize("kind", ["id-int", "many"])
def test_beside_writers_only_drift_is_reported(
    pairs: Callable[..., Any], writers: Callable[..., Any], kind: str
) -> None:
    pair = pairs(kind)
    pair.fill(ROWS)
    expected = inject(pair)
    for _ in range(5):
        with writers(pair, range(100, ROWS), rate=300.0, lag=1.0) as app:
            app.at_work(300)
            result, found = pair.reconcile(max_index_lag=LAG)
        if app.worst <= LAG:
            break
    else:
        pytest.skip(f"points came up to {app.worst:.1f} s late: the machine is too busy")
    assert named(found) == expected
    assert result.reports[0].healed > 0
    result, found = pair.reconcile(confirm=False)
    assert named(found) == expected


@pytest.mark.parametrize("kind", ["id-int", "payload", "many"])
@pytest.mark.parametrize("seed", [1, 2])
def test_repair_beside_writers_loses_no_point(
    pairs: Callable[..., Any], writers: Callable[..., Any], kind: str, seed: int
) -> None:
    """Orphans under ids that the application is about to use again, in versions that it is
    about to write again."""
    pair = pairs(kind)
    numbers = range(1, 400)
    pair.put(numbers, 1)
    result, found = pair.reconcile(confirm=False)
    assert result.reports[0].orphans == sum(len(pair.ids(n)) for n in numbers)
    with writers(pair, numbers, rate=400.0, lag=0.02, seed=seed):
        repaired, reembed = pair.repair(result, found, force=True)
    assert repaired.deleted["orphans"] > 0
    assert repaired.skipped > 0
    listed = {line.key for line in reembed}
    _, left = pair.reconcile(confirm=False)
    assert {f.key for f in left} <= listed


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
@pytest.mark.parametrize("kind", ["id-int", "payload"])
def test_rows_that_come_right_before_the_delete_keep_their_points(
    pairs: Callable[..., Any], kind: str, version: str
) -> None:
    """Each in the version of the orphan that is there, or in another one, its point's write
    acknowledged or still on its way."""
    pair = pairs(kind, version)
    numbers = range(1, 101)
    pair.put(numbers, 1)
    result, found = pair.reconcile(confirm=False)
    came: dict[str, int] = {}

    def come(points: Sequence[Point]) -> None:
        chosen = [point for point in points if int(point.vector[0]) % 5 < 3]  # type: ignore[index]
        for point in chosen:
            number = int(point.vector[0])  # type: ignore[index]
            came[pair.key(number)] = new = 1 + number % 5 % 2
            pair.insert([number], new)
            pair.write(pair.dots(number, new), wait="false" if number % 2 else "true")

    repaired, reembed = pair.repair(result, found, force=True, before_delete=come)
    assert len(came) == 60
    assert repaired.put_back == sum(version == 1 for version in came.values())
    assert repaired.deleted["orphans"] == 40
    assert reembed == []
    after, found = pair.reconcile(confirm=False)
    assert found == []
    assert after.reports[0].rows == after.reports[0].points == 60


@pytest.mark.parametrize("kind", ["id-int", "payload"])
def test_a_row_that_goes_while_its_point_is_put_back_leaves_no_orphan(
    pairs: Callable[..., Any], kind: str
) -> None:
    pair = pairs(kind)
    pair.put(range(1, 11), 1)
    result, found = pair.reconcile(confirm=False)

    def come(points: Sequence[Point]) -> None:
        if not pair.rows():
            pair.insert(range(1, 11), 1)

    def go(points: Sequence[Point]) -> None:
        assert len(points) == 10
        with pair.connect() as connection:
            connection.execute("DELETE FROM documents WHERE id < 6")
        pair.remove([pair.ids(number)[0] for number in range(1, 6)])

    repaired, _ = pair.repair(result, found, force=True, before_delete=come, before_write=go)
    assert (repaired.deleted["orphans"], repaired.skipped, repaired.put_back) == (5, 0, 5)
    after, found = pair.reconcile(confirm=False)
    assert found == []
    assert after.reports[0].rows == after.reports[0].points == 5


@pytest.mark.parametrize("kind", ["id-uuid", "payload", "many"])
def test_vectors_come_back_from_a_backup(pairs: Callable[..., Any], kind: str) -> None:
    pair = pairs(kind)
    pair.fill(200)
    pair.insert([300], 2)
    patch = [
        Upsert(pair.name, "documents", pair.key(300), "2", d["id"], d["vector"], d["payload"])
        for d in pair.dots(300, 2)
    ]
    before = pair.dump_points()
    with pair.stored(patch) as stored:
        inject(pair)
        result, found = pair.reconcile(confirm=False)
        repaired, reembed = pair.repair(result, found, from_backup=stored)
    # 11 and 12 missed their points, 41 ran ahead, 300 is in the patch; the backup has nothing
    # that fits the new version of 31.
    revived = [11, 12, 41, 300] + ([61] if kind == "many" else [])
    assert repaired.revived == len(revived)
    assert [line.key for line in reembed] == [pair.key(31)]
    after = pair.dump_points()
    for number in (11, 12, 41, 61):
        for point in pair.ids(number):
            assert after[point] == before[point]
    for point in pair.dots(300, 2):
        assert after[point["id"]]["payload"] == point["payload"]
    _, left = pair.reconcile(confirm=False)
    assert {(f.kind, f.key) for f in left if f.key} <= {
        ("stale", pair.key(31)),
        ("wrong_count", pair.key(31)),
    }


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
@pytest.mark.parametrize(
    "change",
    [
        {"version": 4},
        {"real": 1.5},
        {"nothing": 1},
        {"flag": False},
        {"list": ["x", "y"]},
        {"list": ["x", "y", 3, 4]},
        {"deep": {"a.b": {"c": "other"}}},
        {"objects": [{"a": 1}]},
        {"key": None},
    ],
)
def test_a_changed_point_is_neither_deleted_nor_overwritten(
    pairs: Callable[..., Any], version: str, change: dict[str, object]
) -> None:
    pair = pairs("id-int", version)
    payload: dict[str, object] = {
        "key": "1",
        "version": 3,
        "real": 1.25,
        "nothing": None,
        "flag": True,
        "list": ["x", "y", 3],
        "deep": {"a.b": {"c": "text"}},
        "objects": [{"a": 1}, {"a": 2}],
        "empty": [],
        "huge": 2**63 + 5,
        "long": "x" * 5_000,
    }
    editor = LiveEditor(pair.cluster)
    pair.write([{"id": 1, "vector": [1.0, 0.0], "payload": payload}])
    seen = {point.id: point for point in editor.fetch_ids(pair.name, [1])}
    new = Point(1, [9.0, 9.0], {"new": True})

    pair.write([{"id": 1, "vector": [1.0, 0.0], "payload": payload | change}])
    changed = pair.dump_points()
    editor.delete_unchanged(pair.name, list(seen.values()))
    editor.write_unchanged(pair.name, [new], seen)
    editor.write_unchanged(pair.name, [new], {})
    assert pair.dump_points() == changed

    pair.write([{"id": 1, "vector": [1.0, 0.0], "payload": payload}])
    editor.write_unchanged(pair.name, [new, Point(2, [1.0, 1.0], {})], seen)
    assert {i: p["payload"] for i, p in pair.dump_points().items()} == {1: {"new": True}, 2: {}}
    editor.delete_unchanged(pair.name, [new, *seen.values()])
    assert set(pair.dump_points()) == {2}
