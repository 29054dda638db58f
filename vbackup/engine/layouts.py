"""How rows, points and findings lie in memory and in work files: fixed-width records.

A wide record (ROW, POINT) holds all that a judgement needs. Most rows and points need far less:
live ones whose key is a number or a UUID and whose version is a number are lean records, which
`engine.agree` sorts out before anything else is looked at.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from vbackup.engine.fingerprints import INT, U8, U64, Fingerprints, Records
from vbackup.engine.versions import Versions
from vbackup.model.finding import FindingKind

LIVE, VERSIONED, TENANT_KNOWN, TENANT_WANTED, HAS_TENANT = 1, 2, 4, 8, 16
UNKNOWN_COUNT = -1
NO_COLLECTION = 0

_SHARED = [
    ("hi", "u8"), ("lo", "u8"), ("version", "i8"), ("key_text", "u8"), ("version_text", "u8"),
    ("tenant", "u8"), ("collection", "u4"), ("kind", "u1"), ("version_kind", "u1"), ("flags", "u1"),
]  # fmt: skip
ROW = np.dtype([*_SHARED, ("count", "i4")], align=True)
POINT = np.dtype([*_SHARED, ("id_kind", "u1"), ("id_hi", "u8"), ("id_lo", "u8")], align=True)
LEAN = np.dtype([("lo", "u8"), ("hi", "u8"), ("version", "i8"), ("tag", "u8")])
"""A live row, or a point whose id is its key. Its tag: the key's kind, the id's kind << 8, the
collection's number << 32."""
LEAN_OWNED = np.dtype([*LEAN.descr, ("id_hi", "u8"), ("id_lo", "u8")])
"""A point that names its key in the payload."""
_BYTE, _ID_KIND, _COLLECTION = np.uint64(255), np.uint64(8), np.uint64(32)
FOUND = np.dtype(
    [("group", "i8"), ("number", "i8"), ("row", ROW), ("point", POINT), ("kind", "u1"),
     ("has_row", "?"), ("has_point", "?")],
    align=True,
)  # fmt: skip
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
NUMBER: dict[FindingKind, int] = {kind: number for number, kind in enumerate(KINDS)}


def lean_records(
    dtype: np.dtype[np.void], prints: Fingerprints, said: Versions | None, tag: U8 | U64
) -> Records:
    records: Records = np.empty(len(tag), dtype)
    records["lo"], records["hi"], records["tag"] = prints.lo, prints.hi, tag
    records["version"] = 0 if said is None else said.value
    return records


def lean_tag(kind: U8, id_kind: U8, collection: int) -> U64:
    """The tags of lean points."""
    return (
        kind | (id_kind.astype(np.uint64) << _ID_KIND) | np.uint64(collection << int(_COLLECTION))
    )


def lean_kind(lean: Records) -> U8:
    """The kinds of their keys."""
    return (lean["tag"] & _BYTE).astype(np.uint8)


def widened_rows(lean: Records, *, keyed: bool) -> Records:
    """Lean rows as type ROW."""
    records = _widened(lean, ROW, keyed)
    records["flags"] |= LIVE
    records["count"] = UNKNOWN_COUNT
    return records


def widened_points(lean: Records, *, keyed: bool) -> Records:
    """Lean points as type POINT."""
    records = _widened(lean, POINT, keyed)
    own = lean.dtype == LEAN
    records["id_hi"], records["id_lo"] = (
        lean["hi" if own else "id_hi"],
        lean["lo" if own else "id_lo"],
    )
    records["id_kind"] = (lean["tag"] >> _ID_KIND) & _BYTE
    records["collection"] = lean["tag"] >> _COLLECTION
    return records


def _widened(lean: Records, dtype: np.dtype[np.void], keyed: bool) -> Records:
    records: Records = np.zeros(len(lean), dtype)
    records["kind"], records["hi"], records["lo"] = lean_kind(lean), lean["hi"], lean["lo"]
    if keyed:
        records["version_kind"], records["version"] = INT, lean["version"]
        records["flags"] = VERSIONED
    return records
