"""The authority: what the shard snapshots hold, compared with every row at the watermark.

Whatever the capture did or missed, this decides: a point stays only when it carries the
version its row has at the watermark. Everything else is replaced by a captured image (or by
one late look at the live store, when the live point still is that version), or deleted, and
a live row that ends without its point goes on the re-embed list. So nothing here rests on
the order of writes, on index lag or on the change feed (docs/guarantees.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

from vbackup.engine.capture import (
    Image,
    ImageStore,
    RowVersion,
    common_version,
    fetch_images,
    newer,
    normal,
    version_of,
)
from vbackup.engine.compare import Comparison
from vbackup.engine.confirm import batches
from vbackup.engine.keysets import ChangedKeys, KeySets
from vbackup.engine.links import Target
from vbackup.engine.owners import Owner, at_collection, rows_of
from vbackup.engine.patchfile import PatchFile
from vbackup.engine.reconcile import feed
from vbackup.engine.rowlisting import ListedRows
from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.finding import Finding, LinkReport
from vbackup.model.patch import Delete, DeleteReason, Reembed, ReembedReason, Upsert
from vbackup.ports import PointReader, PointSource, RowReader, Step

Place = tuple[str, PointId]
"""A collection and a point in it."""

_T = TypeVar("_T")

BATCH = 1_000
"""Findings decided at once: the size of a lookup of rows and of a late fetch."""

_BROKEN = frozenset({"missing", "stale", "ahead", "wrong_count"})
_DELETE: dict[str, DeleteReason] = {
    "orphan": "orphan",
    "not_live": "not_live",
    "stale": "stale",
    "ahead": "ahead",
}


@dataclass(slots=True)
class _Row:
    """A live row whose points are not as they should be."""

    owner: Owner
    version: str | None
    count: int | None
    tenant: str | None
    findings: list[Finding]

    @property
    def key(self) -> str:
        return self.owner.key


@dataclass(slots=True)
class Authority:
    """Compares one link after the other and writes the patch."""

    rows: RowReader
    offline: PointReader
    live: PointSource
    images: ImageStore
    patch: PatchFile
    workdir: Path
    changed: ChangedKeys
    aliases: Mapping[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    listings: dict[str, ListedRows] = field(default_factory=dict)
    written: KeySets = field(default_factory=KeySets)
    per_collection: set[str] = field(default_factory=set)

    def run(self, target: Target, step: Step) -> LinkReport:
        """Compare one link under the watermark and add what it needs to the patch."""
        link = target.link
        comparison = Comparison(
            link, self.workdir / f"compare-{len(self.digests)}", aliases=self.aliases
        )
        try:
            listed = ListedRows(self.rows, self.workdir / f"rows-{len(self.digests)}.jsonl")
            feed(comparison, listed, self.offline, target, step)
            self.listings[link.name] = listed
            result = comparison.finish()
            if result.per_collection:
                self.per_collection.add(link.name)
            for batch in batches(result.findings, BATCH):
                self._decide(target, batch)
            if not link.exact:
                for keys in _batches(self.changed.keys(link), BATCH):
                    self._verify_unkeyed(target, keys)
            self.digests[link.name] = result.digest
            return result.report
        finally:
            comparison.close()

    def retry(self, targets: Sequence[Target]) -> None:
        """Look once more for the points of rows that are to be re-embedded: the dump took time,
        and an indexer that was late may have written them by now, still in that version."""
        by_name = {target.link.name: target for target in targets}
        for name, group in groupby(self.patch.take_reembeds(), key=lambda line: line.link):
            for batch in _batches(group, BATCH):
                listed: dict[Owner, list[Finding]] = {
                    Owner(line.key, line.collection): [] for line in batch
                }
                self._late(by_name[name], list(self._rows_of(by_name[name], listed)))

    # ------------------------------------------------------------ deciding

    def _decide(self, target: Target, findings: Sequence[Finding]) -> None:
        link = target.link
        broken: dict[Owner, list[Finding]] = {}
        for finding in findings:
            if finding.kind in {"orphan", "not_live"}:
                if finding.kind == "orphan" or link.not_live == "delete":
                    self._delete(finding)
            elif finding.kind == "duplicate":
                if link.keyed and normal(finding.point_version) != normal(finding.row_version):
                    self._delete(finding, "stale")
            elif finding.kind in _BROKEN and finding.key and not self._suspect(target, finding.key):
                owner = self._owner(target, finding.key, finding.collection)
                broken.setdefault(owner, []).append(finding)
        if broken:
            self._mend(target, broken)

    def _suspect(self, target: Target, key: str) -> bool:
        """Whether an unkeyed row changed around the cuts: then its points prove nothing."""
        return not target.link.exact and self.changed.has(target.link, key)

    def _verify_unkeyed(self, target: Target, keys: Sequence[str]) -> None:
        """Rows that changed around the cuts and say no version: only a captured image will do."""
        rows = list(self._rows(target, keys, live_only=True))
        owned = self._owned(target, [row.owner for row in rows])
        for row in rows:
            row.findings.extend(
                Finding("stale", target.link.name, collection, row.key, point)
                for collection, point in owned[row.owner]
            )
            images = self._captured(target, row)
            if images is None:
                self._give_up(target, row, [])
            else:
                self._replace(target, row, images, owned[row.owner])

    def _owner(self, target: Target, key: str, collection: str) -> Owner:
        """The row that a point of this key in this collection refers to."""
        return Owner(key, collection if target.link.name in self.per_collection else None)

    def _owned(self, target: Target, owners: Sequence[Owner]) -> dict[Owner, set[Place]]:
        """All points that the shard snapshots hold of these rows."""
        found: dict[Owner, set[Place]] = {owner: set() for owner in owners}
        for collection in target.collections:
            if not (here := at_collection(owners, collection)):
                continue
            block = self.offline.owned(target.link, collection, [owner.key for owner in here])
            for point, key in zip(block.ids, block.refs, strict=True):
                if key is not None and (owner := self._owner(target, key, collection)) in found:
                    found[owner].add((collection, point))
        return found

    def _mend(self, target: Target, broken: dict[Owner, list[Finding]]) -> None:
        rows = list(self._rows_of(target, broken))
        looked = [(row, self._captured(target, row)) for row in rows]
        self._replace_all(target, [(row, images) for row, images in looked if images is not None])
        late = [row for row, images in looked if images is None]
        if late:
            self._late(target, late)

    def _rows_of(self, target: Target, broken: dict[Owner, list[Finding]]) -> Iterator[_Row]:
        """These rows, each with its findings."""
        for row in self._rows(target, [owner.key for owner in broken]):
            if row.owner in broken:
                row.findings = broken[row.owner]
                yield row

    def _rows(
        self, target: Target, keys: Iterable[str], *, live_only: bool = False
    ) -> Iterator[_Row]:
        """The rows of these keys: in several collections there may be several of a key."""
        block = self.rows.lookup(target.link, list(dict.fromkeys(keys)))
        for at, owner in rows_of(target.link, block, self.aliases):
            if live_only and block.live is not None and not block.live[at]:
                continue
            yield _Row(
                owner,
                block.versions[at] if block.versions is not None else None,
                block.counts[at] if block.counts is not None else None,
                block.tenants[at] if block.tenants is not None else None,
                [],
            )

    def _captured(self, target: Target, row: _Row) -> list[Image] | None:
        """All points of the row, as they were kept; none for one that says it has none."""
        if row.count == 0:
            return []
        if row.version is None:
            return None
        count = row.count if target.link.cardinality == "many" else None
        wanted = RowVersion(normal(row.version) or "", count)
        return self.images.get(target.link.name, row.owner, wanted)

    def _late(self, target: Target, rows: Sequence[_Row]) -> None:
        """One look at the live store; a point that still is the row's version is as good as a
        captured one."""
        found = fetch_images(self.live, target, [row.owner for row in rows])
        fitting = [row for row in rows if self._fits(target, row, found[row.owner])]
        self._replace_all(target, [(row, found[row.owner]) for row in fitting])
        done = {row.owner for row in fitting}
        for row in rows:
            if row.owner not in done:
                self._give_up(target, row, found[row.owner])

    def _fits(self, target: Target, row: _Row, images: Sequence[Image]) -> bool:
        if target.link.keyed:
            if row.version is None or common_version(target.link, images) != normal(row.version):
                return False
        elif not target.link.immutable or not images:
            return False
        if target.link.cardinality == "one":
            return True
        # A set without a known size may still be growing: only a count proves it complete.
        return row.count is not None and len(images) == row.count

    # ------------------------------------------------------------ writing

    def _replace_all(self, target: Target, rows: Sequence[tuple[_Row, Sequence[Image]]]) -> None:
        many = target.link.cardinality == "many"
        owned = self._owned(target, [row.owner for row, images in rows if many or not images])
        taken = set() if target.link.by_id else self._taken(target, rows)
        for row, images in rows:
            places = [(image.collection, image.point.id) for image in images]
            if taken.intersection(places) or self._claimed(target, places):
                self._give_up(target, row, images, "overtaken")
            else:
                self._replace(target, row, images, owned.get(row.owner, set()))

    def _claimed(self, target: Target, places: Sequence[Place]) -> bool:
        """Whether the patch already writes another row's point in one of these places; else it
        will write this row's there."""
        if target.link.by_id:
            return False
        if any(self.written.has(collection, str(point)) for collection, point in places):
            return True
        for collection, point in places:
            self.written.add(collection, [str(point)])
        return False

    def _taken(self, target: Target, rows: Sequence[tuple[_Row, Sequence[Image]]]) -> set[Place]:
        """Those places of images where another row has a right point: an application that uses
        ids again may have given it to this row only after the watermark."""
        takers = {(i.collection, i.point.id): row.owner for row, images in rows for i in images}
        others: dict[Owner, list[tuple[Place, str | None]]] = {}
        for collection in target.collections:
            ids = [point for name, point in takers if name == collection]
            block = self.offline.lookup(target.link, collection, ids) if ids else PointBlock([], [])
            said = block.versions or [None] * len(block)
            for point, key, version in zip(block.ids, block.refs, said, strict=True):
                place = (collection, point)
                if key is None or (owner := self._owner(target, key, collection)) == takers[place]:
                    continue
                others.setdefault(owner, []).append((place, normal(version)))
        if not others:
            return set()
        return {
            place
            for row in self._rows(target, [owner.key for owner in others], live_only=True)
            for place, version in others.get(row.owner, ())
            if not target.link.keyed or version == normal(row.version)
        }

    def _replace(
        self, target: Target, row: _Row, images: Sequence[Image], owned: set[Place]
    ) -> None:
        """Write these points; what else the shards hold of the row (`owned`, and what the
        comparison named) goes: ids may have been used again for another part. Of a row that says
        it has none that counts as removed, not as replaced."""
        reason: DeleteReason = "replaced" if images else "stale"
        named = {(f.collection, f.point) for f in row.findings if f.point is not None}
        kept = {(image.collection, image.point.id) for image in images}
        for collection, point in sorted((named | owned) - kept, key=str):
            self.patch.add(Delete(collection, target.link.name, row.key, point, reason))
        for image in images:
            self.patch.add(
                Upsert(
                    collection=image.collection,
                    link=target.link.name,
                    key=row.key,
                    version=row.version,
                    id=image.point.id,
                    vector=image.point.vector,
                    payload=image.point.payload,
                    shard_key=image.point.shard_key,
                )
            )

    def _give_up(
        self,
        target: Target,
        row: _Row,
        images: Sequence[Image],
        reason: ReembedReason | None = None,
    ) -> None:
        for finding in row.findings:
            if finding.kind in _DELETE:
                self._delete(finding)
        self.patch.add(
            Reembed(
                link=target.link.name,
                key=row.key,
                version=row.version,
                tenant=row.tenant,
                reason=reason or self._reason(target, row, images),
                collection=row.owner.collection,
            )
        )

    def _reason(self, target: Target, row: _Row, images: Sequence[Image]) -> ReembedReason:
        wanted = normal(row.version) if target.link.keyed else None
        versions = {version_of(target.link, image.point) for image in images}
        if wanted is not None and wanted in versions:
            return "incomplete"
        if wanted is not None and any(said and newer(said, wanted) for said in versions):
            return "overtaken"
        if not self.changed.has(target.link, row.key):
            return "drift"
        return "unindexed" if target.link.exact else "unverifiable"

    def _delete(self, finding: Finding, reason: DeleteReason | None = None) -> None:
        if finding.point is None:
            return
        self.patch.add(
            Delete(
                collection=finding.collection,
                link=finding.link,
                key=finding.key,
                id=finding.point,
                reason=reason or _DELETE[finding.kind],
            )
        )


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
