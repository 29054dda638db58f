"""Points of shard snapshots as a restore would leave them: with the patch applied.

A patch may hold as many points as there are rows (a bulk update during the backup, a collection
that was lost), so it is kept on disk; in memory is one number a patched point.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from vbackup.engine import fingerprints
from vbackup.engine.fingerprints import INT, U64, UUID, Bools, spread
from vbackup.engine.keysets import scratch_database
from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.columns import picked
from vbackup.model.link import Link
from vbackup.model.patch import Delete, PatchLine, Upsert
from vbackup.ports import PointReader

Project = Callable[[Link, Sequence[PointId], Sequence[dict[str, Any]]], PointBlock]
"""Columns of a link out of whole points: those that its filters admit."""

Written = tuple[PointId, dict[str, Any]]
BATCH = 5_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Edits:
    """What a patch makes of points: their new payload, or nothing when they are deleted."""

    def __init__(self, patch: Iterable[PatchLine]) -> None:
        self._db = scratch_database()
        self.close = weakref.finalize(self, self._db.close)
        self._db.execute(
            "CREATE TABLE point (collection TEXT, id TEXT, payload BLOB,"
            " PRIMARY KEY (collection, id)) WITHOUT ROWID"
        )
        self._db.execute(
            "CREATE TABLE owned (link TEXT, collection TEXT, key TEXT, id TEXT,"
            " PRIMARY KEY (link, collection, key, id)) WITHOUT ROWID"
        )
        self._indexed: set[tuple[str, str]] = set()
        hashes: dict[str, list[U64]] = {}
        for lines in _batches(line for line in patch if isinstance(line, Delete | Upsert)):
            for name, ids in _by_collection(lines).items():
                hashes.setdefault(name, []).append(_hashes(ids))
            self._keep(lines)
        self._hashes = {name: np.sort(np.concatenate(found)) for name, found in hashes.items()}

    def _keep(self, lines: Sequence[Delete | Upsert]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO point VALUES (?, ?, ?)",
            (
                (line.collection, _name(line.id), _encode(line.payload))
                if isinstance(line, Upsert)
                else (line.collection, _name(line.id), None)
                for line in lines
            ),
        )
        self._db.execute("COMMIT")

    def touched(self, collection: str, ids: Sequence[PointId]) -> Bools:
        """Which of these points the patch deletes or writes anew.

        The hashes rule out nearly all of them; only for the others is an id made and looked up."""
        known = self._hashes.get(collection)
        if known is None or not ids:
            return np.zeros(len(ids), np.bool_)
        hashes = _hashes(ids)
        places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
        found: Bools = known[places] == hashes
        for at in np.flatnonzero(found).tolist():
            found[at] = self._has(collection, ids[at])
        return found

    def _has(self, collection: str, point: PointId) -> bool:
        query = "SELECT 1 FROM point WHERE collection = ? AND id = ?"
        return self._db.execute(query, (collection, _name(point))).fetchone() is not None

    def written(self, collection: str) -> Iterator[list[Written]]:
        """The points that the patch writes, in batches."""
        found = self._db.execute(
            "SELECT id, payload FROM point WHERE collection = ? AND payload IS NOT NULL",
            (collection,),
        )
        while rows := found.fetchmany(BATCH):
            yield [(_point(name), _decode(payload)) for name, payload in rows]

    def with_ids(self, collection: str, ids: Iterable[PointId]) -> list[Written]:
        """Those of these points that the patch writes."""
        query = "SELECT payload FROM point WHERE collection = ? AND id = ? AND payload IS NOT NULL"
        rows = ((one, self._db.execute(query, (collection, _name(one))).fetchone()) for one in ids)
        return [(one, _decode(row[0])) for one, row in rows if row]

    def of_rows(
        self, link: Link, collection: str, keys: Iterable[str], project: Project
    ) -> list[Written]:
        """The points of these rows that the patch writes."""
        if (link.name, collection) not in self._indexed:
            self._index(link, collection, project)
        query = "SELECT id FROM owned WHERE link = ? AND collection = ? AND key = ?"
        found = (self._db.execute(query, (link.name, collection, key)) for key in keys)
        return self.with_ids(collection, [_point(name) for rows in found for (name,) in rows])

    def _index(self, link: Link, collection: str, project: Project) -> None:
        for batch in self.written(collection):
            block = project(link, [one for one, _ in batch], [payload for _, payload in batch])
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR IGNORE INTO owned VALUES (?, ?, ?, ?)",
                (
                    (link.name, collection, key, _name(one))
                    for one, key in zip(block.ids, block.refs, strict=True)
                    if key is not None
                ),
            )
            self._db.execute("COMMIT")
        self._indexed.add((link.name, collection))


class PatchedPoints:
    """A PointReader over another one and a patch."""

    def __init__(self, points: PointReader, patch: Iterable[PatchLine], project: Project) -> None:
        self._points = points
        self._project = project
        self._edits = _Edits(patch)

    def collections(self) -> Sequence[str]:
        """See ports.PointReader."""
        return self._points.collections()

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """See ports.PointReader."""
        for block in self._points.points(link, collection):
            yield self._without(collection, block)
        for batch in self._edits.written(collection):
            yield self._projected(link, batch)

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """See ports.PointReader."""
        old = self._without(collection, self._points.lookup(link, collection, ids))
        return _joined(old, self._projected(link, self._edits.with_ids(collection, ids)))

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """See ports.PointReader."""
        new = self._edits.of_rows(link, collection, keys, self._project)
        old = self._without(collection, self._points.owned(link, collection, keys))
        return _joined(old, self._projected(link, new))

    def _projected(self, link: Link, written: Sequence[Written]) -> PointBlock:
        return self._project(link, [one for one, _ in written], [p for _, p in written])

    def _without(self, collection: str, block: PointBlock) -> PointBlock:
        """Without the points that the patch deletes or writes anew."""
        touched = self._edits.touched(collection, block.ids)
        return _masked(block, ~touched) if touched.any() else block


def _name(point: PointId) -> str:
    """A point's id as text that tells numbers from UUIDs."""
    return f"#{point}" if isinstance(point, int) else point


def _point(name: str) -> PointId:
    return int(name[1:]) if name.startswith("#") else name


def _batches(lines: Iterator[Delete | Upsert]) -> Iterator[list[Delete | Upsert]]:
    while batch := list(islice(lines, BATCH)):
        yield batch


def _by_collection(lines: Iterable[Delete | Upsert]) -> dict[str, list[PointId]]:
    found: dict[str, list[PointId]] = {}
    for line in lines:
        found.setdefault(line.collection, []).append(line.id)
    return found


def _hashes(ids: Sequence[PointId]) -> U64:
    """Hashes of ids, the same whatever they stand beside."""
    prints = fingerprints.ids(ids)
    kind = np.where(prints.kind == INT, INT, UUID).astype(np.uint8)
    return spread(kind, prints.hi, prints.lo)


def _masked(block: PointBlock, mask: Bools) -> PointBlock:
    return PointBlock(
        ids=picked(block.ids, mask),
        refs=picked(block.refs, mask),
        versions=None if block.versions is None else picked(block.versions, mask),
        tenants=None if block.tenants is None else picked(block.tenants, mask),
    )


def _joined(one: PointBlock, other: PointBlock) -> PointBlock:
    return PointBlock(
        ids=[*one.ids, *other.ids],
        refs=[*one.refs, *other.refs],
        versions=_both(one.versions, other.versions),
        tenants=_both(one.tenants, other.tenants),
    )


def _both(
    one: Sequence[str | None] | None, other: Sequence[str | None] | None
) -> list[str | None] | None:
    return None if one is None or other is None else [*one, *other]
