"""Sorts out the rows and points that agree, before anything else is looked at.

Of most pairs nearly all do: one live row, one point, the same key and version. They only have to
be counted, and are found by one sort of 64-bit hashes; keys and versions are then compared
exactly, so that a hash decides nothing. What is left over, with every other record of the same
keys, goes on to the full comparison (`engine.merge`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vbackup.engine.fingerprints import I64, U64, Bools, Records, spread
from vbackup.engine.layouts import lean_kind

_INDEX_BITS = 24
_MASK = (1 << _INDEX_BITS) - 1
LARGEST = 1 << _INDEX_BITS
"""Records of one side that can be sorted at once."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """The rows that agree with a point each, and what is left of both sides."""

    rows: Records
    rows_left: Records
    points_left: Records


def lean_hash(lean: Records) -> U64:
    """As `merge.partition_hash`: records that may belong together hash alike."""
    return spread(lean_kind(lean), lean["hi"], lean["lo"])


def agree(rows: Records, points: Records, others: U64) -> Agreed:
    """Pair lean rows with lean points. `others` are the hashes of all records that are not lean:
    keys that may be among them are left."""
    row_hashes, row_order = _sorted(lean_hash(rows))
    point_hashes, point_order = _sorted(lean_hash(points))
    at, hit = _met(row_hashes, point_hashes)
    hit &= _single(row_hashes)
    hit &= _single(point_hashes)[at] if len(point_hashes) else False
    if len(others):
        hit &= ~np.isin(row_hashes, others & ~np.uint64(_MASK))
    mine, its = row_order[hit], point_order[at[hit]]
    same = _same(rows, points, mine, its)
    mine, its = mine[same], its[same]
    return Agreed(rows.take(mine), _without(rows, mine), _without(points, its))


def _sorted(hashes: U64) -> tuple[U64, I64]:
    """The hashes without their last bits, in order, and whose they are: the place goes along in
    the last bits, as sorting numbers is several times faster than sorting places."""
    packed = hashes & ~np.uint64(_MASK)
    packed |= np.arange(len(hashes), dtype=np.uint64)
    packed.sort()
    order = (packed & np.uint64(_MASK)).astype(np.int64)
    packed &= ~np.uint64(_MASK)
    return packed, order


def _met(rows: U64, points: U64) -> tuple[I64, Bools]:
    """For each row's hash a place among the points' where it may be, and whether it is there."""
    if len(rows) == len(points) and np.array_equal(rows, points):
        return np.arange(len(rows)), np.ones(len(rows), np.bool_)
    if not len(points):
        return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    at = np.searchsorted(points, rows)
    at[at == len(points)] = 0
    return at, points[at] == rows


def _single(ordered: U64) -> Bools:
    """Marks values that occur once."""
    single = np.ones(len(ordered), np.bool_)
    repeated = ordered[1:] == ordered[:-1]
    single[1:] &= ~repeated
    single[:-1] &= ~repeated
    return single


def _same(rows: Records, points: Records, mine: I64, its: I64) -> Bools:
    """Whether key and version of these rows and points are equal."""
    same = np.ones(len(mine), np.bool_)
    for name in ("lo", "hi", "version"):
        same &= rows[name][mine] == points[name][its]
    same &= lean_kind(rows)[mine] == lean_kind(points)[its]
    return same


def _without(records: Records, gone: I64) -> Records:
    if len(gone) == len(records):
        return records[:0]
    left = np.ones(len(records), np.bool_)
    left[gone] = False
    return records.compress(left)
