"""Pairs whose vectors pgvector keeps in the database itself: one snapshot shows both sides.

There are no cuts and no patch: whatever the dump holds is as it was at the watermark. What the
live pair lacked at that instant is lacking in the backup, too; it goes on the re-embed list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

from vbackup.engine.compare import Comparison
from vbackup.engine.links import Target
from vbackup.engine.patchfile import PatchFile
from vbackup.engine.reconcile import feed
from vbackup.engine.rowlisting import ListedRows
from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.finding import Finding, FindingKind, LinkReport
from vbackup.model.link import Link
from vbackup.model.patch import Reembed, ReembedReason
from vbackup.ports import PointReader, RecordSource, RowReader, Step

_REASONS: dict[FindingKind, ReembedReason] = {
    "missing": "unindexed",
    "stale": "unindexed",
    "wrong_count": "incomplete",
    "ahead": "drift",
}


class VectorReader(PointReader, Protocol):
    """Vectors in the database, as one snapshot shows them."""

    def warnings(self, link: Link) -> list[str]:
        """What the last reading of all the link's vectors noticed."""
        ...


OpenVectors = Callable[[RowReader, Sequence[Link]], VectorReader]
"""Reads the vectors of links in the snapshot that a view of rows holds."""


@dataclass(slots=True)
class VectorPair:
    """Rows and vectors of one live database: what a reconcile reads on both sides.

    Vectors are read in the snapshot of the rows while that is open, else in one of their own."""

    records: RecordSource
    open_vectors: OpenVectors
    links: Sequence[Link]
    _reader: VectorReader | None = None
    _noticed: dict[str, list[str]] = field(default_factory=dict)

    @contextmanager
    def open_rows(self) -> Iterator[RowReader]:
        """A fresh snapshot of the rows, closed after use."""
        view = self.records.view()
        try:
            self._reader = self.open_vectors(view, self.links)
            yield view
        finally:
            self._reader = None
            view.close()

    def collections(self) -> Sequence[str]:
        """See ports.PointReader."""
        return list(dict.fromkeys(link.collection for link in self.links if link.vectors))

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        """See ports.PointReader."""
        with self._vectors() as reader:
            yield from reader.points(link, collection)
            self._noticed[link.name] = reader.warnings(link)

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """See ports.PointReader."""
        with self._vectors() as reader:
            return reader.lookup(link, collection, ids)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        """See ports.PointReader."""
        with self._vectors() as reader:
            return reader.owned(link, collection, keys)

    def warnings(self, link: Link) -> list[str]:
        """See VectorReader."""
        return self._noticed.get(link.name, [])

    @contextmanager
    def _vectors(self) -> Iterator[VectorReader]:
        if self._reader:
            yield self._reader
            return
        view = self.records.view()
        try:
            yield self.open_vectors(view, self.links)
        finally:
            view.close()


@dataclass(slots=True)
class VectorAuthority:
    """Compares rows with vectors under the watermark, one link after the other, and lists the
    rows that have to be embedded again."""

    rows: RowReader
    vectors: VectorReader
    patch: PatchFile
    workdir: Path
    digests: dict[str, str] = field(default_factory=dict)
    listings: dict[str, ListedRows] = field(default_factory=dict)

    def run(self, target: Target, step: Step) -> LinkReport:
        """Compare one link; its rows without a fitting vector go on the re-embed list."""
        link = target.link
        with Comparison(link, self.workdir / f"compare-{len(self.digests)}") as comparison:
            listed = ListedRows(self.rows, self.workdir / f"rows-{len(self.digests)}.jsonl")
            feed(comparison, listed, self.vectors, target, step)
            self.listings[link.name] = listed
            result = comparison.finish()
            # Findings of one key come side by side.
            for key, found in groupby(result.findings, key=lambda finding: finding.key):
                self._list(link, key, list(found))
            self.digests[link.name] = result.digest
            result.report.warnings += self.vectors.warnings(link)
            return result.report

    def _list(self, link: Link, key: str | None, found: Sequence[Finding]) -> None:
        broken = next((finding for finding in found if finding.kind in _REASONS), None)
        if key is None or broken is None:
            return
        reason = _REASONS[broken.kind]
        self.patch.add(Reembed(link.name, key, broken.row_version, broken.tenant, reason))
