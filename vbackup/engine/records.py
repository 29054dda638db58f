"""Rows, points and findings as fixed-width records, and back to what a person reads.

A record holds the key's fingerprint, the version, flags and, for text that a fingerprint
cannot give back, references into a text spill: evidence, never part of the comparison.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vbackup.engine import fingerprints, versions
from vbackup.engine.fingerprints import INT, NONE, TEXT, Fingerprints, Records
from vbackup.engine.spill import TextSpill
from vbackup.model.blocks import PointBlock, PointId, RowBlock
from vbackup.model.finding import Finding, FindingKind
from vbackup.model.link import Link

LIVE, VERSIONED, TENANT_KNOWN, TENANT_WANTED, HAS_TENANT = 1, 2, 4, 8, 16
UNKNOWN_COUNT = -1
NO_COLLECTION = 0

_SHARED = [
    ("hi", "u8"), ("lo", "u8"), ("version", "i8"), ("key_text", "u8"), ("version_text", "u8"),
    ("tenant", "u8"), ("collection", "u4"), ("kind", "u1"), ("version_kind", "u1"), ("flags", "u1"),
]  # fmt: skip
ROW = np.dtype([*_SHARED, ("count", "i4")], align=True)
POINT = np.dtype([*_SHARED, ("id_kind", "u1"), ("id_hi", "u8"), ("id_lo", "u8")], align=True)
FOUND = np.dtype(
    [("group", "i8"), ("number", "i8"), ("row", ROW), ("point", POINT), ("kind", "u1"),
     ("has_row", "?"), ("has_point", "?")],
    align=True,
)  # fmt: skip
KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
NUMBER: dict[FindingKind, int] = {kind: number for number, kind in enumerate(KINDS)}


class Codec:
    """Encodes the blocks of one link (from several threads) and decodes findings."""

    def __init__(
        self, link: Link, directory: Path, tenant: str | None, aliases: Mapping[str, str]
    ) -> None:
        self._link = link
        self._tenant = tenant
        self._aliases = aliases
        self._row_texts = TextSpill(directory / "row-texts")
        self._point_texts = TextSpill(directory / "point-texts")
        self._lock = threading.Lock()
        self._names: list[str] = [""]
        self._numbers: dict[str, int] = {}

    def rows(self, block: RowBlock) -> Records:
        records: Records = np.zeros(len(block), ROW)
        self._shared(records, block.keys, block.versions, block.tenants, self._row_texts)
        if block.live is None:
            records["flags"] |= LIVE
        else:
            records["flags"] |= np.where(np.asarray(block.live, np.bool_), LIVE, 0).astype(np.uint8)
        if block.counts is None:
            records["count"] = UNKNOWN_COUNT
        else:
            records["count"] = [UNKNOWN_COUNT if c is None else c for c in block.counts]
        if block.collections is not None:
            records["collection"] = [self._number(name) for name in block.collections]
        return records

    def points(self, collection: str, block: PointBlock) -> Records:
        records: Records = np.zeros(len(block), POINT)
        keys = self._shared(records, block.refs, block.versions, block.tenants, self._point_texts)
        ids = keys if self._link.by_id else point_ids(block.ids)
        records["id_kind"], records["id_hi"], records["id_lo"] = ids.kind, ids.hi, ids.lo
        records["collection"] = self._number(collection)
        return records

    def _shared(
        self,
        records: Records,
        keys: Sequence[str | None],
        said: Sequence[str | None] | None,
        tenants: Sequence[str | None] | None,
        texts: TextSpill,
    ) -> Fingerprints:
        prints = fingerprints.fingerprint(keys)
        records["kind"], records["hi"], records["lo"] = prints.kind, prints.hi, prints.lo
        _keep(records["key_text"], prints.kind == TEXT, keys, texts)
        if said is not None and self._link.keyed:
            encoded = versions.encode(said)
            records["version_kind"], records["version"] = encoded.kind, encoded.value
            records["flags"] |= VERSIONED
            _keep(records["version_text"], encoded.kind > INT, said, texts)
        if tenants is not None:
            self._tenants(records, tenants, texts)
        return prints

    def _tenants(self, records: Records, tenants: Sequence[str | None], texts: TextSpill) -> None:
        distinct = list({tenant for tenant in tenants if tenant is not None})
        kept = dict(zip(distinct, texts.add(distinct).tolist(), strict=True))
        records["tenant"] = [0 if t is None else kept[t] for t in tenants]
        wanted = self._tenant
        flags = {t: TENANT_KNOWN | HAS_TENANT | (TENANT_WANTED * (t == wanted)) for t in distinct}
        records["flags"] |= np.array(
            [TENANT_KNOWN if t is None else flags[t] for t in tenants], np.uint8
        )

    def _number(self, name: str | None) -> int:
        """The number of a collection; a row that names none gets one that no point has."""
        if name is None:
            return NO_COLLECTION
        name = self._aliases.get(name, name)
        with self._lock:
            if name not in self._numbers:
                self._numbers[name] = len(self._names)
                self._names.append(name)
            return self._numbers[name]

    def finding(self, record: Any) -> Finding:
        """One record of type FOUND as a finding with its evidence."""
        row = record["row"] if record["has_row"] else None
        point = record["point"] if record["has_point"] else None
        owner, texts = (
            (row, self._row_texts) if row is not None else (record["point"], self._point_texts)
        )
        return Finding(
            kind=KINDS[record["kind"]],
            link=self._link.name,
            collection=self._collection(row, point),
            key=self._key(owner, texts),
            point=None if point is None else self._point_id(point),
            row_version=self._version(row, self._row_texts),
            point_version=self._version(point, self._point_texts),
            tenant=self._tenant_of(row, point),
            detail=_detail(record),
        )

    def _collection(self, row: Any, point: Any) -> str:
        number = int((row if point is None else point)["collection"])
        return self._names[number]

    def _key(self, record: Any, texts: TextSpill) -> str | None:
        if record["kind"] == TEXT:
            return texts.read(int(record["key_text"]))
        return fingerprints.key_text(record["kind"], int(record["hi"]), int(record["lo"]))

    def _point_id(self, point: Any) -> PointId:
        high, low = int(point["id_hi"]), int(point["id_lo"])
        if point["id_kind"] == INT:
            return low
        return fingerprints.key_text(fingerprints.UUID, high, low) or ""

    def _version(self, record: Any, texts: TextSpill) -> str | None:
        if record is None or record["version_kind"] == NONE:
            return None
        if record["version_kind"] == INT:
            return str(int(record["version"]))
        return texts.read(int(record["version_text"]))

    def _tenant_of(self, row: Any, point: Any) -> str | None:
        for record, texts in ((row, self._row_texts), (point, self._point_texts)):
            if record is not None and record["flags"] & HAS_TENANT:
                return texts.read(int(record["tenant"]))
        return None

    def close(self) -> None:
        self._row_texts.close()
        self._point_texts.close()


def point_ids(ids: Sequence[PointId]) -> Fingerprints:
    """Point ids as they are: unsigned integers and UUIDs, exact both."""
    if all(type(i) is int for i in ids):
        numbers = np.fromiter(ids, np.uint64, len(ids))
        return Fingerprints(
            np.full(len(ids), INT, np.uint8), np.zeros(len(ids), np.uint64), numbers
        )
    if all(type(i) is str for i in ids):
        return fingerprints.fingerprint([str(i) for i in ids])
    kind = np.fromiter((INT if type(i) is int else fingerprints.UUID for i in ids), np.uint8)
    high, low = np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.uint64)
    low[kind == INT] = [i for i in ids if type(i) is int]
    others = fingerprints.fingerprint([i for i in ids if isinstance(i, str)])
    high[kind != INT], low[kind != INT] = others.hi, others.lo
    return Fingerprints(kind, high, low)


def _keep(
    column: NDArray[Any], which: NDArray[np.bool_], said: Sequence[str | None], texts: TextSpill
) -> None:
    """Put the chosen texts into the spill and their references into the column."""
    where = np.flatnonzero(which)
    if len(where):
        column[where] = texts.add([str(said[i]) for i in where.tolist()])


def _detail(record: Any) -> str:
    kind = KINDS[record["kind"]]
    row, point = record["row"], record["point"]
    if kind == "wrong_count":
        return f"{int(record['number'])} points of {int(row['count'])}"
    if kind == "missing" and int(row["count"]) > 1:
        return f"no point of {int(row['count'])}"
    if kind not in ("stale", "ahead"):
        return ""
    if row["version_kind"] == NONE:
        return "the row has no version"
    if point["version_kind"] == NONE:
        return "the point has no version"
    ordered = row["version_kind"] == point["version_kind"] and (
        row["version_kind"] in versions.ORDERED
    )
    return "" if ordered else "differs"
