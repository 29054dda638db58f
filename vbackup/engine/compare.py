"""One comparison of the rows of a link with its points, in constant memory.

The authority of a backup, the live reconcile and the offline one all use this, so they cannot
judge differently. Rows and points may come in any order, from two threads; whatever outgrows
`memory` is spilled into a directory of its own below `workdir`, which `close` removes.

    with Comparison(link, workdir, executor=executor) as comparison:
        for block in reader.rows(link):
            comparison.add_rows(block)
        for collection in collections:
            for block in points.points(link, collection):
                comparison.add_points(collection, block)
        result = comparison.finish()
        for finding in result.findings:   # streamed
            ...

Where rows name their collection, a row and its points meet in that collection only; a live row
that names none is missing. Otherwise all the collections that are added make up one set of
points: with cardinality one, a second point of a key in another collection is a duplicate.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import numpy as np

from vbackup.engine.agree import lean_hash
from vbackup.engine.fingerprints import Records
from vbackup.engine.judge import Rules, partition_hash
from vbackup.engine.layouts import FOUND, KINDS, LEAN, POINT, ROW
from vbackup.engine.merge import MASK, Merged, MergeTask, Sides, merge, run
from vbackup.engine.records import Codec, Encoded
from vbackup.engine.spill import ArraySpill, RecordSpill
from vbackup.errors import Usage
from vbackup.model.blocks import PointBlock, RowBlock
from vbackup.model.finding import Finding, FindingKind, LinkReport
from vbackup.model.link import Link

DEFAULT_MEMORY = 16 * 1024**2
_IN_FLIGHT = 3
_COUNTED: dict[FindingKind, str] = {
    "missing": "missing",
    "orphan": "orphans",
    "stale": "stale",
    "ahead": "ahead",
    "not_live": "not_live",
    "wrong_count": "wrong_count",
    "duplicate": "duplicates",
    "no_reference": "no_reference",
}


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """What a comparison found. `findings` streams from the work files, once or several times,
    until the comparison is closed; those of one key come side by side.

    `per_collection`: rows name the collection of their points.
    The digests are order-free hashes over (key, version): of all live rows, and of all points
    that name a key. With cardinality one they agree when every live row has its point and
    there is no other."""

    report: LinkReport
    digest: str
    points_digest: str
    per_collection: bool
    stream: Callable[[], Iterator[Finding]]

    @property
    def findings(self) -> Iterator[Finding]:
        return self.stream()


class Comparison:
    """Rows and points of one link, compared once all were added.

    `tenant` narrows to one tenant's rows and their points; raises Usage when the link names no
    tenant. `aliases` (alias to collection) lets rows name their collection by an alias.
    `memory` is a rough bound in bytes for each of buffers and partitions.
    """

    def __init__(
        self,
        link: Link,
        workdir: Path,
        executor: Executor | None = None,
        memory: int = DEFAULT_MEMORY,
        *,
        tenant: str | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        if tenant is not None and not _has_tenant(link):
            raise Usage(
                f"link {link.name!r} names no tenant",
                hint="set rows.tenant or point.tenant of this link, or leave --tenant out",
            )
        self._link = link
        self._executor = executor
        self._memory = memory
        self._narrowed = tenant is not None
        self._directory = workdir / f"compare-{uuid4().hex}"
        self._codec = Codec(link, self._directory, tenant, aliases or {})
        spills = partial(RecordSpill, memory=memory // 4)
        self._rows = spills(ROW, self._directory / "rows", spread=partition_hash)
        self._points = spills(POINT, self._directory / "points", spread=partition_hash)
        self._lean_rows = spills(LEAN, self._directory / "lean-rows", spread=lean_hash)
        self._lean_points = spills(
            self._codec.lean_point, self._directory / "lean-points", spread=lean_hash
        )
        self._found = ArraySpill(FOUND, self._directory / "findings", memory // 4)
        self._per_collection: set[bool] = set()
        self._unversioned = False

    def __enter__(self) -> Comparison:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_rows(self, block: RowBlock) -> None:
        """Add rows; from any thread."""
        if len(block):
            self._per_collection.add(block.collections is not None)
            if self._link.keyed and block.versions is None:
                self._unversioned = True
            encoded = self._codec.rows(block)
            _add(encoded, self._lean_rows, self._rows)

    def add_points(self, collection: str, block: PointBlock) -> None:
        """Add points of one collection; from any thread."""
        if len(block):
            encoded = self._codec.points(collection, block)
            _add(encoded, self._lean_points, self._points)

    def finish(self) -> ComparisonResult:
        """Compare. Only once, after the last block.

        Raises Usage when only some of the link's rows name their collection, Failed when the
        work directory cannot be used."""
        if len(self._per_collection) > 1:
            raise Usage(
                f"link {self._link.name!r}: some row sources name a collection, others do not",
                hint="select a column `collection` in every sql of this link, or in none",
            )
        report = LinkReport(self._link.name)
        digests = [0, 0, 0, 0]
        conflicts = 0
        for merged in self._merge(self._rules):
            report.rows += merged.rows
            report.points += merged.points
            conflicts += merged.conflicts
            digests = [
                (total + part) & MASK
                for total, part in zip(
                    digests, merged.rows_digest + merged.points_digest, strict=True
                )
            ]
            _count(report, merged.found)
            self._found.add(merged.found)
        if conflicts:
            report.warnings.append(_conflict_warning(conflicts))
        if self._unversioned:
            report.warnings.append("rows say no version: those of their points are not compared")
        rows_digest, points_digest = (f"{a:016x}{b:016x}" for a, b in (digests[:2], digests[2:]))
        return ComparisonResult(
            report, rows_digest, points_digest, self._rules.per_collection, self._findings
        )

    @property
    def _rules(self) -> Rules:
        return Rules(
            many=self._link.cardinality == "many",
            per_collection=True in self._per_collection,
            narrowed=self._narrowed,
            keyed=self._link.keyed,
            by_id=self._link.by_id,
        )

    @property
    def _spills(self) -> tuple[RecordSpill, RecordSpill, RecordSpill, RecordSpill]:
        return self._rows, self._points, self._lean_rows, self._lean_points

    def _merge(self, rules: Rules) -> Iterator[Merged]:
        if not any(spill.spilled for spill in self._spills):
            yield merge(Sides(*(spill.buffered() for spill in self._spills)), rules)
            return
        for spill in self._spills:
            spill.flush()
        tasks = self._tasks(rules)
        if self._executor is None:
            yield from map(run, tasks)
        else:
            yield from _bounded(self._executor, tasks)

    def _tasks(self, rules: Rules) -> Iterator[MergeTask]:
        """Small partitions together; one that would not fit into memory in several shares."""
        sizes = np.sum([spill.counts() * spill.dtype.itemsize for spill in self._spills], axis=0)
        first, size = 0, 0
        for number, own in enumerate(sizes.tolist()):
            size += own
            if size < self._memory // 4 and number + 1 < len(sizes):
                continue
            parts = -(-size // max(1, self._memory // 2))
            rows, points, lean_rows, lean_points = (
                spill.extents(first, number + 1) for spill in self._spills
            )
            extents = rows, points, lean_rows, lean_points
            yield from (MergeTask(rules, extents, part, parts) for part in range(parts))
            first, size = number + 1, 0

    def _findings(self) -> Iterator[Finding]:
        for records in self._found.blocks():
            for record in records:
                yield self._codec.finding(record)

    def close(self) -> None:
        """Remove the work files; findings cannot be read any more."""
        self._codec.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _add(encoded: Encoded, lean: RecordSpill, wide: RecordSpill) -> None:
    if encoded.lean is not None:
        lean.add(encoded.lean)
    if encoded.wide is not None:
        wide.add(encoded.wide)


def _bounded(executor: Executor, tasks: Iterator[MergeTask]) -> Iterator[Merged]:
    """Run tasks in order, few at a time, so that results do not pile up."""
    running: deque[Future[Merged]] = deque()
    try:
        for task in tasks:
            running.append(executor.submit(run, task))
            if len(running) >= _IN_FLIGHT:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _count(report: LinkReport, found: Records) -> None:
    for number, count in enumerate(np.bincount(found["kind"], minlength=len(KINDS)).tolist()):
        name = _COUNTED[KINDS[number]]
        setattr(report, name, getattr(report, name) + count)


def tally(report: LinkReport, findings: Iterable[Finding]) -> None:
    """Replace the counts of a report by those of these findings."""
    counts = Counter(finding.kind for finding in findings)
    for kind, name in _COUNTED.items():
        setattr(report, name, counts[kind])


def _has_tenant(link: Link) -> bool:
    return link.tenant is not None or any(source.tenant or source.sql for source in link.rows)


def _conflict_warning(conflicts: int) -> str:
    return (
        f"{conflicts} rows repeat a key with another version or state:"
        " the live one with the newest version counts"
    )
