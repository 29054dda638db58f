"""Rows, points and findings as fixed-width records, and back to what a person reads.

A record holds the key's fingerprint, the version, flags and, for text that a fingerprint
cannot give back, references into a text spill: evidence, never part of the comparison.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbackup.engine import fingerprints, versions
from vbackup.engine.fingerprints import INT, NONE, TEXT, UUID, Bools, Fingerprints, Records
from vbackup.engine.layouts import (
    HAS_TENANT,
    KINDS,
    LEAN,
    LEAN_OWNED,
    LIVE,
    NO_COLLECTION,
    POINT,
    ROW,
    TENANT_KNOWN,
    TENANT_WANTED,
    UNKNOWN_COUNT,
    VERSIONED,
    lean_records,
    lean_tag,
)
from vbackup.engine.spill import TextSpill
from vbackup.engine.versions import Versions
from vbackup.model.blocks import PointBlock, PointId, RowBlock
from vbackup.model.finding import Finding
from vbackup.model.link import Link


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

    def rows(self, block: RowBlock) -> Encoded:
        prints = fingerprints.fingerprint(block.keys)
        said = self._said(block.versions)
        if any(column is not None for column in (block.counts, block.tenants, block.collections)):
            return Encoded(None, self._rows(block, prints, said))
        lean = self._lean(prints, said)
        if lean is not None and block.live is not None:
            lean &= np.asarray(block.live, np.bool_)
        return _divided(
            lean,
            lambda: lean_records(LEAN, prints, said, prints.kind),
            lambda: self._rows(block, prints, said),
        )

    def points(self, collection: str, block: PointBlock) -> Encoded:
        number = self._number(collection)
        prints = fingerprints.fingerprint(block.refs)
        said = self._said(block.versions)
        own = self._link.by_id and not (prints.kind == TEXT).any()
        ids = prints if own else fingerprints.ids(block.ids)

        def lean_points() -> Records:
            tag = lean_tag(prints.kind, ids.kind, number)
            records = lean_records(self.lean_point, prints, said, tag)
            if self.lean_point is LEAN_OWNED:
                records["id_hi"], records["id_lo"] = ids.hi, ids.lo
            return records

        return _divided(
            self._lean(prints, said) if block.tenants is None else None,
            lean_points,
            lambda: self._points(number, block, prints, said, ids),
        )

    @property
    def lean_point(self) -> np.dtype[np.void]:
        """The type of lean points of this link."""
        return LEAN if self._link.by_id else LEAN_OWNED

    def _said(self, said: Sequence[str | None] | None) -> Versions | None:
        """The versions of a block, where they count."""
        return versions.encode(said) if said is not None and self._link.keyed else None

    def _lean(self, prints: Fingerprints, said: Versions | None) -> Bools | None:
        """Which records may be lean; None when none may."""
        if self._tenant is not None or (said is None and self._link.keyed):
            return None
        lean: Bools = (prints.kind == INT) | (prints.kind == UUID)
        if said is not None:
            lean &= said.kind == INT
        return lean

    def _rows(self, block: RowBlock, prints: Fingerprints, said: Versions | None) -> Records:
        records: Records = np.zeros(len(block), ROW)
        texts = self._row_texts
        self._shared(records, block.keys, prints, texts)
        self._versions(records, block.versions, said, texts)
        if block.tenants is not None:
            self._tenants(records, block.tenants, texts)
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

    def _points(
        self,
        number: int,
        block: PointBlock,
        prints: Fingerprints,
        said: Versions | None,
        ids: Fingerprints,
    ) -> Records:
        records: Records = np.zeros(len(block), POINT)
        texts = self._point_texts
        self._shared(records, block.refs, prints, texts)
        self._versions(records, block.versions, said, texts)
        if block.tenants is not None:
            self._tenants(records, block.tenants, texts)
        records["id_kind"], records["id_hi"], records["id_lo"] = ids.kind, ids.hi, ids.lo
        records["collection"] = number
        return records

    def _shared(
        self,
        records: Records,
        keys: Sequence[str | None],
        prints: Fingerprints,
        texts: TextSpill,
    ) -> None:
        records["kind"], records["hi"], records["lo"] = prints.kind, prints.hi, prints.lo
        _keep(records["key_text"], prints.kind == TEXT, keys, texts)

    def _versions(
        self,
        records: Records,
        spelled: Sequence[str | None] | None,
        said: Versions | None,
        texts: TextSpill,
    ) -> None:
        if said is not None and spelled is not None:
            records["version_kind"], records["version"] = said.kind, said.value
            records["flags"] |= VERSIONED
            _keep(records["version_text"], said.kind > INT, spelled, texts)

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


@dataclass(frozen=True, slots=True)
class Encoded:
    """A block as records: the lean ones, and the others."""

    lean: Records | None
    wide: Records | None


def _divided(
    lean: Bools | None, lean_records: Callable[[], Records], wide_records: Callable[[], Records]
) -> Encoded:
    if lean is None or not lean.any():
        return Encoded(None, wide_records())
    if lean.all():
        return Encoded(lean_records(), None)
    return Encoded(lean_records().compress(lean), wide_records().compress(~lean))


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
