"""The comparison of one partition: rows and points whose keys hash alike, in numpy.

What simply agrees is sorted out and counted (`engine.agree`), the rest is judged
(`engine.judge`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vbackup.engine.agree import agree, lean_hash
from vbackup.engine.fingerprints import I64, INT, NONE, U8, U64, Bools, Records, spread
from vbackup.engine.judge import Groups, Rules, partition_hash
from vbackup.engine.layouts import (
    FOUND,
    LEAN,
    LEAN_OWNED,
    POINT,
    ROW,
    lean_kind,
    widened_points,
    widened_rows,
)
from vbackup.engine.spill import Extents, joined

MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Sides:
    """All records of a partition (`engine.layouts`)."""

    rows: Records
    points: Records
    lean_rows: Records
    lean_points: Records


@dataclass(frozen=True, slots=True)
class MergeTask:
    """One partition (or the `part` of `parts` equal shares of it), picklable. `extents` are in the
    order of Sides."""

    rules: Rules
    extents: tuple[Extents, Extents, Extents, Extents]
    part: int = 0
    parts: int = 1


@dataclass(slots=True)
class Merged:
    """What one partition holds. The digests are two order-free 64-bit sums."""

    rows: int = 0
    points: int = 0
    conflicts: int = 0
    found: Records = field(default_factory=lambda: np.empty(0, FOUND))
    rows_digest: tuple[int, int] = (0, 0)
    points_digest: tuple[int, int] = (0, 0)


def run(task: MergeTask) -> Merged:
    """Load one task's records and merge them; runs in any executor that sees the files."""

    def load(
        extents: Extents, dtype: np.dtype[np.void], hashed: Callable[[Records], U64]
    ) -> Records:
        def mine(records: Records) -> Bools:
            # The top bits chose the partition; others choose the share.
            below = (hashed(records) >> np.uint64(40)) & np.uint64(0xFFFF)
            chosen: Bools = below % np.uint64(task.parts) == task.part
            return chosen

        return extents.load(dtype, mine if task.parts > 1 else None)

    lean_point = LEAN if task.rules.by_id else LEAN_OWNED
    rows, points, lean_rows, lean_points = task.extents
    sides = Sides(
        load(rows, ROW, partition_hash),
        load(points, POINT, partition_hash),
        load(lean_rows, LEAN, lean_hash),
        load(lean_points, lean_point, lean_hash),
    )
    return merge(sides, task.rules)


def merge(sides: Sides, rules: Rules) -> Merged:
    """Compare all rows and points of one partition."""
    others = np.concatenate((partition_hash(sides.rows), partition_hash(sides.points)))
    agreed = agree(sides.lean_rows, sides.lean_points, others)
    rows = joined([sides.rows, widened_rows(agreed.rows_left, keyed=rules.keyed)], ROW)
    points = joined([sides.points, widened_points(agreed.points_left, keyed=rules.keyed)], POINT)
    merged = _judged(rows, points, rules)
    _add_agreed(merged, agreed.rows, rules)
    return merged


def _judged(rows: Records, points: Records, rules: Rules) -> Merged:
    """The full comparison, of what does not simply agree."""
    groups = Groups(rows, points, rules)
    row_scope, point_scope = groups.scope()
    groups.judge(row_scope, point_scope)
    live = row_scope & groups.row_live
    return Merged(
        rows=int(row_scope.sum()),
        points=int(point_scope.sum()),
        conflicts=groups.conflicts,
        found=groups.together(),
        rows_digest=_digest(groups.rows, live),
        points_digest=_digest(points, point_scope & ~groups.unreferenced),
    )


def _add_agreed(merged: Merged, rows: Records, rules: Rules) -> None:
    """Count lean rows that have their point each: both sides' digests grow alike."""
    merged.rows += len(rows)
    merged.points += len(rows)
    said = np.full(len(rows), INT if rules.keyed else NONE, np.uint8)
    sums = _sums(lean_kind(rows), rows["hi"], rows["lo"], said, rows["version"])
    merged.rows_digest = _plus(merged.rows_digest, sums)
    merged.points_digest = _plus(merged.points_digest, sums)


def _plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return (one[0] + other[0]) & MASK, (one[1] + other[1]) & MASK


def _digest(records: Records, chosen: Bools) -> tuple[int, int]:
    """Sums over (key, version) of the chosen records."""
    if not chosen.all():
        records = records.compress(chosen)
    names = ("kind", "hi", "lo", "version_kind", "version")
    return _sums(*(records[name] for name in names))


def _sums(kind: U8, hi: U64, lo: U64, version_kind: U8, version: I64) -> tuple[int, int]:
    """The same for the same set in any order or partition."""
    sums = []
    for salt in (1, 2):
        key = spread(kind, hi, lo, salt)
        both = spread(version_kind, key, version.view(np.uint64), salt + 2)
        sums.append(int(both.sum(dtype=np.uint64)))
    return sums[0], sums[1]
