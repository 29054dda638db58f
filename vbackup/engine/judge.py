"""The judgement of rows and points whose keys hash alike, in numpy.

Everything a judgement needs is in the fixed-width records, so that they are judged
without a Python object a row. The rules:

* A row repeated by several sources counts once: live if one of them is, and of the versions
  the newest one.
* A point without a row is an orphan; a point of a row that is not live is not_live; the point
  of a live row must have its row's version, else it is stale or ahead.
* Cardinality one: of several points with one key, the one with the row's version stays (then
  the lowest collection and id); every other is a duplicate.
* A count says how many points a row has in its version; 0 means that nothing is missing. With
  cardinality one only 0 says anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vbackup.engine.fingerprints import I64, NONE, U8, U64, Bools, Records, scramble, spread
from vbackup.engine.layouts import (
    FOUND,
    LIVE,
    NUMBER,
    TENANT_KNOWN,
    TENANT_WANTED,
    VERSIONED,
)
from vbackup.engine.spill import joined
from vbackup.engine.versions import ORDERED
from vbackup.model.finding import FindingKind


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a link the merge has to know. `narrowed`: only one tenant counts; `keyed`: both
    sides say versions; `by_id`: a point's id is its key."""

    many: bool
    per_collection: bool
    narrowed: bool
    keyed: bool
    by_id: bool


def partition_hash(records: Records) -> U64:
    """Records that may belong together hash alike."""
    return spread(records["kind"], records["hi"], records["lo"])


class Groups:
    """Rows (one a key) and points with the number of their key: `row_of[group]` is the row's
    index or -1."""

    def __init__(self, rows: Records, points: Records, rules: Rules) -> None:
        self.rules = rules
        row_group, self.group, count = _group(rows, points, rules.per_collection)
        self.rows, self.row_group, self.conflicts = _one_row_a_key(rows, row_group)
        self.points = points
        self.row_of = np.full(count, -1, np.int64)
        self.row_of[self.row_group] = np.arange(len(self.rows))
        self.row = self.row_of[self.group]
        self.unreferenced: Bools = points["kind"] == NONE
        self.row_live: Bools = (self.rows["flags"] & LIVE) != 0
        self.count = count
        self.found: list[Records] = []

    def scope(self) -> tuple[Bools, Bools]:
        """Which rows and points count. A row's own tenant decides for its points; where rows
        name none, the points' tenant does."""
        rows, points = self.rows, self.points
        if not self.rules.narrowed:
            return np.ones(len(rows), np.bool_), np.ones(len(points), np.bool_)
        wanted = (points["flags"] & TENANT_WANTED) != 0
        by_points = np.zeros(self.count, np.bool_)
        by_points[self.group[wanted]] = True
        known = (rows["flags"] & TENANT_KNOWN) != 0
        row_scope = np.where(known, (rows["flags"] & TENANT_WANTED) != 0, by_points[self.row_group])
        matched = self.row >= 0
        follows = np.zeros(len(points), np.bool_)
        follows[matched] = known[self.row[matched]]
        point_scope = wanted.copy()
        point_scope[follows] = row_scope[self.row[follows]]
        return row_scope, point_scope

    def judge(self, row_scope: Bools, point_scope: Bools) -> None:
        """Append every finding to `found`."""
        matched = point_scope & (self.row >= 0)
        self._add("no_reference", points=np.flatnonzero(point_scope & self.unreferenced))
        self._add(
            "orphan", points=np.flatnonzero(point_scope & (self.row < 0) & ~self.unreferenced)
        )
        of_live = matched.copy()
        of_live[matched] = self.row_live[self.row[matched]]
        self._add("not_live", points=np.flatnonzero(matched & ~of_live), with_row=True)
        self._judge_live(np.flatnonzero(of_live), row_scope)

    def together(self) -> Records:
        """All findings, those of one key side by side."""
        if not self.found:
            return np.empty(0, FOUND)
        found = joined(self.found, FOUND)
        return found.take(np.argsort(found["group"], kind="stable"))

    def _judge_live(self, points: I64, row_scope: Bools) -> None:
        right = self._right(points)
        present = np.bincount(self.row[points], minlength=len(self.rows))
        in_version = np.bincount(self.row[points[right]], minlength=len(self.rows))
        if not self.rules.many:
            kept = self._kept(points, right)
            self._add("duplicate", points=points[~kept], with_row=True)
            points, right = points[kept], right[kept]
        newer = self._newer(points[~right])
        self._add("ahead", points=points[~right][newer], with_row=True)
        self._add("stale", points=points[~right][~newer], with_row=True)
        said = self.rows["count"]
        wanted = row_scope & self.row_live
        missing = wanted & (present == 0) & (said != 0)
        self._add("missing", rows=np.flatnonzero(missing))
        if self.rules.many:
            wrong = wanted & (said >= 0) & (present > 0) & (in_version != said)
        else:
            wrong = wanted & (said == 0) & (present > 0)
        self._add("wrong_count", rows=np.flatnonzero(wrong), found=in_version)

    def _right(self, points: I64) -> Bools:
        """Which of these points have their row's version (all, unless both sides say one)."""
        rows, own, of = self.rows, self.points, self.row[points]
        equal = rows["version_kind"][of] == own["version_kind"][points]
        equal &= rows["version"][of] == own["version"][points]
        both_say = (rows["flags"][of] & own["flags"][points] & VERSIONED) != 0
        right: Bools = equal | ~both_say
        return right

    def _newer(self, points: I64) -> Bools:
        """Which of these differing points are newer than their row, as far as that is known."""
        rows, own = self.rows.take(self.row[points]), self.points.take(points)
        newer: Bools = (
            (rows["version_kind"] == own["version_kind"])
            & np.isin(own["version_kind"], ORDERED)
            & (own["version"] > rows["version"])
        )
        return newer

    def _kept(self, points: I64, right: Bools) -> Bools:
        """For each key the one point that stays: the right version first, then the lowest."""
        own = self.points[points]
        order = np.lexsort(
            (own["id_lo"], own["id_hi"], own["id_kind"], own["collection"], ~right,
             self.row[points])
        )  # fmt: skip
        row = self.row[points][order]
        kept = np.empty(len(points), np.bool_)
        kept[order] = _first(row)
        return kept

    def _add(
        self,
        kind: FindingKind,
        *,
        points: I64 | None = None,
        rows: I64 | None = None,
        with_row: bool = False,
        found: I64 | None = None,
    ) -> None:
        index = points if points is not None else rows
        if index is None or not len(index):
            return
        records = np.zeros(len(index), FOUND)
        records["kind"] = NUMBER[kind]
        if points is not None:
            records["has_point"], records["point"] = True, self.points.take(points)
            records["group"] = self.group[points]
        if with_row or rows is not None:
            own = self.row[points] if points is not None else index
            records["has_row"], records["row"] = True, self.rows.take(own)
            records["group"] = self.row_group[own]
        if found is not None:
            records["number"] = found[index]
        self.found.append(records)


def _group(rows: Records, points: Records, per_collection: bool) -> tuple[I64, I64, int]:
    """Number all distinct keys: the number of each row's and each point's key, and how many."""
    hashes = np.concatenate((partition_hash(rows), partition_hash(points)))
    names = ["kind", "hi", "lo"] + (["collection"] if per_collection else [])
    columns = [np.concatenate((rows[name], points[name])) for name in names]
    if per_collection:
        hashes = scramble(hashes + columns[-1].astype(np.uint64))
    order = np.argsort(hashes)
    fresh, collided = _boundaries(hashes, columns, order)
    if collided:
        order = np.lexsort((*columns, hashes))
        fresh, _ = _boundaries(hashes, columns, order)
    number = np.empty(len(hashes), np.int64)
    number[order] = np.cumsum(fresh) - 1
    count = int(fresh.sum())
    return number[: len(rows)], number[len(rows) :], count


def _boundaries(hashes: U64, columns: list[Records], order: I64) -> tuple[Bools, bool]:
    """Where a new key begins in this order; and whether two keys share a hash."""
    fresh = _first(hashes[order])
    differs = np.zeros(len(order), np.bool_)
    for column in columns:
        ordered = column[order]
        differs[1:] |= ordered[1:] != ordered[:-1]
    return fresh | differs, bool((differs & ~fresh).any())


def _first(ordered: Records | I64 | U64 | U8) -> Bools:
    """Marks the first of each run of equal values."""
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


def _one_row_a_key(rows: Records, group: I64) -> tuple[Records, I64, int]:
    """Rows without repeats (live first, then the newest version), their groups, and how many
    repeats did not agree with the row that was taken."""
    live = (rows["flags"] & LIVE) != 0
    order = np.argsort(group, kind="stable")
    if _first(group[order]).all():
        return rows, group, 0
    order = np.lexsort(
        (rows["tenant"], -rows["count"], ~rows["version"], ~rows["version_kind"], ~live, group)
    )
    first = _first(group[order])
    taken = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    same_version = (rows["version"][order] == rows["version"][taken]) & (
        rows["version_kind"][order] == rows["version_kind"][taken]
    )
    conflicts = int((~(same_version & (live[order] == live[taken]))).sum())
    return rows.take(order[first]), group[order[first]], conflicts
