"""Points out of a stored backup: shard snapshots with the patch on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from vbackup.engine.stored import StoredPoints
from vbackup.errors import Damaged, Failed
from vbackup.model.blocks import Point
from vbackup.model.link import Link, RowSource
from vbackup.model.patch import Delete, PatchLine, Reembed, Upsert

LINK = Link("documents", "*", (RowSource(table="t", key=("id",)),))


class Snapshots:
    """Two collections with the points 1 and 2 each, which are their own keys."""

    def collections(self) -> Sequence[str]:
        return ["a", "b"]

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        return {key: [Point(int(key), [0.0], {})] for key in keys if key in ("1", "2")}


def upsert(collection: str, key: str, number: int) -> Upsert:
    return Upsert(collection, "documents", key, "9", number, [9.0, 0.25], {"new": key}, "east")


def test_the_patch_goes_over_the_snapshots(tmp_path: Path) -> None:
    patch: list[PatchLine] = [
        Delete("a", "documents", "1", 1, "stale"),
        upsert("b", "2", 2),
        upsert("b", "2", 7),
        upsert("b", "3", 3),
        Reembed("documents", "1", "9", None, "drift"),
    ]
    stored = StoredPoints(Snapshots(), patch, tmp_path / "upserts")
    assert stored(LINK, ["1", "2", "3", "4"]) == {
        "1": [("b", Point(1, [0.0], {}))],
        "2": [
            ("a", Point(2, [0.0], {})),
            ("b", Point(2, [9.0, 0.25], {"new": "2"}, "east")),
            ("b", Point(7, [9.0, 0.25], {"new": "2"}, "east")),
        ],
        "3": [("b", Point(3, [9.0, 0.25], {"new": "3"}, "east"))],
    }
    stored.close()


def test_a_point_that_is_gone_altogether(tmp_path: Path) -> None:
    patch = [Delete(name, "documents", "1", 1, "orphan") for name in ("a", "b")]
    stored = StoredPoints(Snapshots(), patch, tmp_path / "upserts")
    assert stored(LINK, ["1"]) == {}
    stored.close()


def test_work_files_that_fail_are_told(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="work directory"):
        StoredPoints(Snapshots(), [], tmp_path / "nowhere" / "upserts")
    stored = StoredPoints(Snapshots(), [upsert("a", "1", 1)], tmp_path / "upserts")
    (tmp_path / "upserts").write_bytes(b"")
    with pytest.raises(Damaged, match="cannot be read back"):
        stored(LINK, ["1"])
    stored.close()
