"""Make loaded shards the state at the watermark, and prove that they are.

The patch is applied, the servers settle, a full comparison says whether rows and points agree,
and only then do aliases point at what was restored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vbackup.engine.apply import Applied, Reembeds, apply_patch
from vbackup.engine.reconcile import ReconcileResult, reconcile_restored
from vbackup.engine.renamed import RenamedPoints
from vbackup.engine.restoreplan import RestorePlan
from vbackup.engine.vectors import OpenVectors, VectorPair
from vbackup.model.blocks import Point
from vbackup.model.link import Link
from vbackup.model.manifest import Manifest
from vbackup.model.patch import PatchLine, Reembed, decode
from vbackup.ports import Clock, PointTarget, RecordTarget, Reporter, Repository


@dataclass(frozen=True, slots=True)
class RestoreSettings:
    """Where a restore works and how long it waits (seconds)."""

    work_dir: Path | None = None
    settle_timeout: float = 3600.0


@dataclass(slots=True)
class RestoreResult:
    """What was restored. `reconcile` is None when only one side was."""

    plan: RestorePlan
    applied: Applied
    reconcile: ReconcileResult | None
    rto_seconds: float
    points: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    invalidated: int = 0
    cached: int = 0

    @property
    def clean(self) -> bool:
        """Whether rows and points agree (or were not compared)."""
        return self.reconcile is None or self.reconcile.clean


@dataclass(slots=True)
class Proof:
    """What proves a pair that is loaded. A side that is not restored may be None; `vectors` reads
    those that pgvector keeps in the restored database; links and collections to ignore are the
    manifest's unless others are given."""

    repository: Repository
    records: RecordTarget | None
    points: PointTarget | None
    settings: RestoreSettings
    reporter: Reporter
    clock: Clock
    links: Sequence[Link] | None = None
    ignore: Sequence[str] | None = None
    vectors: OpenVectors | None = None

    def finish(self, plan: RestorePlan, result: RestoreResult) -> None:
        """Make loaded shards the state at the watermark, and prove it: patch, settle, compare, and
        give aliases back. What was found is in the result."""
        self._patch_points(plan, result)
        self._settle(plan, result)
        result.reconcile = self._reconcile(plan, result)
        self._aliases(plan, result)

    # ------------------------------------------------------------ patch

    def _patch_points(self, plan: RestorePlan, result: RestoreResult) -> None:
        patch = plan.manifest.patch
        if plan.manifest.qdrant is None:
            lines = patch_lines(self.repository, plan.manifest)
            result.applied.reembed = Reembeds(line for line in lines if isinstance(line, Reembed))
        if self.points is None or patch.artifact is None or not plan.names:
            return
        total = patch.deletes + patch.upserts
        with (
            self.reporter.step("apply patch", total=total, unit="points") as step,
            self._removed(plan) as removed,
        ):
            result.applied = apply_patch(
                patch_lines(self.repository, plan.manifest),
                plan.names,
                self.points,
                self._fetch,
                removed.file,
                step,
            )

    def _removed(self, plan: RestorePlan) -> tempfile._TemporaryFileWrapper[bytes]:
        """The file that keeps the points a patch deletes; it stays after the restore."""
        directory = self.settings.work_dir
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(
            prefix=f"vbackup-removed-{plan.manifest.id}-",
            suffix=".jsonl",
            dir=directory,
            delete=plan.manifest.patch.deletes == 0,
        )

    def _fetch(self, collection: str, ids: list[int | str]) -> list[Point]:
        return self.points.reader().fetch_ids(collection, ids) if self.points else []

    def _settle(self, plan: RestorePlan, result: RestoreResult) -> None:
        for original, name in plan.names.items():
            if self.points:
                with self.reporter.step(f"wait for {name}", unit="points"):
                    timeout = self.settings.settle_timeout
                    result.points[original] = self.points.settle(name, timeout=timeout)

    # ------------------------------------------------------------ comparison

    def _reconcile(self, plan: RestorePlan, result: RestoreResult) -> ReconcileResult | None:
        manifest = plan.manifest
        if plan.database is not None and self.records and manifest.qdrant is None:
            return self._reconcile_vectors(plan.database, self.records, plan, result)
        if plan.database is None or not plan.names or not self.records or not self.points:
            return None
        return reconcile_restored(
            links=self.links if self.links is not None else manifest.links,
            ignore=self.ignore if self.ignore is not None else manifest.ignore,
            records=self.records.source(plan.database),
            points=RenamedPoints(self.points.reader(), plan.names),
            aliases={part.name: part.aliases for part in plan.parts},
            expected=result.applied.expected(),
            work_dir=self.settings.work_dir,
            reporter=self.reporter,
            clock=self.clock,
        )

    def _reconcile_vectors(
        self, database: str, records: RecordTarget, plan: RestorePlan, result: RestoreResult
    ) -> ReconcileResult | None:
        """Rows and vectors of the restored database; None when no link knows of vectors."""
        links = self.links if self.links is not None else plan.manifest.links
        links = [link for link in links if link.vectors]
        if not links or self.vectors is None:
            return None
        source = records.source(database)
        pair = VectorPair(source, self.vectors, links)
        return reconcile_restored(
            links=links,
            ignore=(),
            records=source,
            points=pair,
            expected=result.applied.expected(),
            work_dir=self.settings.work_dir,
            reporter=self.reporter,
            clock=self.clock,
            noticed=pair.warnings,
        )

    def _aliases(self, plan: RestorePlan, result: RestoreResult) -> None:
        """Give back aliases when the collections got their own names back; an alias that points
        elsewhere now belongs to the live pair and stays."""
        if self.points is None:
            return
        wanted = [
            (alias, part.name)
            for part in plan.parts
            if plan.names[part.name] == part.name
            for alias in part.aliases
        ]
        if not wanted:
            return
        there = self.points.reader().facts(sorted({name for _, name in wanted})).collections
        right = {(alias, found.name) for found in there for alias in found.aliases}
        wanted = [one for one in wanted if one not in right]
        free = [(alias, name) for alias, name in wanted if not self.points.exists(alias)]
        result.warnings += [
            f"alias {alias!r} points elsewhere and was left as it is"
            for alias, _ in wanted
            if alias not in dict(free)
        ]
        if free:
            self.points.alias(free)
            result.aliases = dict(free)


def patch_lines(repository: Repository, manifest: Manifest) -> Iterator[PatchLine]:
    """The patch of a backup, line by line; none when it has no patch."""
    if manifest.patch.artifact is None:
        return iter(())
    return decode(repository.read(manifest.patch.artifact))
