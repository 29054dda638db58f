"""`restore --tenant`: one tenant's rows and points out of a backup, under new names.

The whole database is restored under its new name, then narrowed to the tenant's rows and what
belongs to them: so the backup itself tells whose a row is. Collections are recovered under other
names for the meantime, and the points of the kept rows go into collections of their own. A full
reconcile of what came out ends it. Nothing live is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from vbackup.engine.extractionplan import (
    ExtractionPlan,
    linked,
    tenant_tables,
    warnings_of,
)
from vbackup.engine.links import Target, by_alias, resolve
from vbackup.engine.owners import owners
from vbackup.engine.reconcile import ReconcileResult, live_rows, reconcile_restored
from vbackup.engine.renamed import RenamedPoints
from vbackup.engine.restore import TRIES, Restore
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.engine.vectors import VectorPair
from vbackup.errors import AlreadyExists, Usage, VbackupError
from vbackup.model.blocks import Point, RowBlock
from vbackup.model.link import Link
from vbackup.model.manifest import Manifest
from vbackup.model.names import database_copy, restored_suffix
from vbackup.model.patch import Reembed
from vbackup.model.tenancy import KeptTable, TenantTable
from vbackup.ports import PointReader, PointTarget

WHOLE = "_whole"
"""Between a collection's name and the suffix: all of it, for the meantime."""
BATCH = 1_000
"""Keys whose points are copied at once."""


@dataclass(slots=True)
class ExtractionResult:
    """What came out of the backup."""

    plan: ExtractionPlan
    kept: list[KeptTable] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)
    reembed: list[Reembed] = field(default_factory=list)
    reconcile: ReconcileResult | None = None
    warnings: list[str] = field(default_factory=list)
    rto_seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether rows and points agree (or were not compared)."""
        return self.reconcile is None or self.reconcile.clean


@dataclass(frozen=True, slots=True)
class Extraction:
    """Extracts one tenant. `restore` restores whole pairs."""

    restore: Restore

    def plan(
        self,
        backup_id: str,
        options: RestoreOptions,
        tenant: str,
        named: Sequence[TenantTable],
        *,
        renumber: bool = False,
    ) -> ExtractionPlan:
        """The plan, checked against the target servers. Nothing is changed. With `renumber` an
        extraction that is there already does not stand in the way: other names are taken.

        Raises Refused when nothing tells whose rows are whose, and with everything that stands
        in the way."""
        for number in range(1, TRIES if renumber else 1):
            try:
                return self._plan(backup_id, options, tenant, named, number)
            except AlreadyExists:
                continue
        return self._plan(backup_id, options, tenant, named, TRIES if renumber else 1)

    def _plan(
        self,
        backup_id: str,
        options: RestoreOptions,
        tenant: str,
        named: Sequence[TenantTable],
        number: int,
    ) -> ExtractionPlan:
        if options.only == "qdrant":
            raise Usage("--only qdrant: which points are a tenant's is told by the rows")
        manifest = self.restore.repository.load(backup_id)
        links = self._links(manifest)
        tables = tenant_tables(links, named)
        copy = restored_suffix(manifest.id, number)
        beside = copy if options.collection_suffix is None else options.collection_suffix
        targets = self._targets(manifest, links)
        collections = linked(targets, options)
        database = options.database or database_copy(manifest.postgres.facts.database, copy)
        wanted = replace(options, database=database)
        whole = self.restore.plan(
            backup_id,
            replace(wanted, collection_suffix=WHOLE + beside, collections=collections)
            if collections
            else replace(wanted, only="postgres"),
        )
        names = {name: name + beside for name in whole.names}
        self._free(names)
        warnings = tuple(warnings_of(links, tables))
        return ExtractionPlan(whole, tenant, tables, targets, names, warnings)

    def run(self, plan: ExtractionPlan, options: RestoreOptions) -> ExtractionResult:
        """Extract by the plan. What it created is dropped again when it fails.

        Raises NotFound when the tenant has no rows in the backup."""
        started = self.restore.clock.monotonic()
        result = ExtractionResult(plan, warnings=list(plan.warnings))
        # The pair is compared once it is what it is to be.
        whole = replace(self.restore, links=(), ignore=("*",))
        done = whole.run(plan.whole, options)
        result.warnings += done.warnings
        result.reembed = list(done.applied.reembed)
        try:
            self._narrow(plan, result)
            if plan.names and self.restore.points:
                self._points(plan, result, self.restore.points)
            result.reconcile = self._reconcile(plan, result)
        except BaseException:
            if not options.keep_failed:
                self._clean_up(plan)
            raise
        result.rto_seconds = self.restore.clock.monotonic() - started
        return result

    # ------------------------------------------------------------ before

    def _links(self, manifest: Manifest) -> Sequence[Link]:
        return self.restore.links if self.restore.links is not None else manifest.links

    def _targets(self, manifest: Manifest, links: Sequence[Link]) -> tuple[Target, ...]:
        parts = manifest.qdrant.collections if manifest.qdrant else ()
        ignore = self.restore.ignore if self.restore.ignore is not None else manifest.ignore
        return resolve(links, ignore, {part.name: part.aliases for part in parts}).targets

    def _free(self, names: Mapping[str, str]) -> None:
        for name in names.values():
            if self.restore.points and self.restore.points.exists(name):
                raise AlreadyExists(
                    f"collection {name!r} exists already",
                    hint="drop it, or choose another name with --collection-suffix",
                )

    # ------------------------------------------------------------ rows

    def _narrow(self, plan: ExtractionPlan, result: ExtractionResult) -> None:
        if self.restore.records is None:
            return
        step = self.restore.reporter.step(f"narrow {plan.database}", unit="rows")
        with step as progress:
            kept, warnings = self.restore.records.narrow(plan.database, plan.tables, plan.tenant)
            progress.advance(sum(table.rows for table in kept))
        result.kept = kept
        result.warnings += warnings

    # ------------------------------------------------------------ points

    def _points(self, plan: ExtractionPlan, result: ExtractionResult, points: PointTarget) -> None:
        """Copy the points of the kept rows, then drop the collections that hold everybody's."""
        for part in plan.whole.parts:
            points.create(part, plan.names[part.name])
        listed = {(line.link, line.named) for line in result.reembed}
        aliases = _aliases(plan)
        kept: set[tuple[str, str]] = set()
        with self.restore.reporter.step("copy points", unit="points") as step:
            for target, block in self._rows(plan):
                here = {(target.link.name, owner.named) for owner in owners(block, aliases)}
                kept |= listed & here
                step.advance(_copy(plan, target, block, points))
        result.reembed = [line for line in result.reembed if (line.link, line.named) in kept]
        for name in plan.whole.names.values():
            points.drop(name)
        for original, name in plan.names.items():
            timeout = self.restore.settings.settle_timeout
            result.points[original] = points.settle(name, timeout=timeout)

    def _rows(self, plan: ExtractionPlan) -> Iterator[tuple[Target, RowBlock]]:
        """The rows that are left, by link, a few at a time."""
        if self.restore.records is None:
            return
        with live_rows(self.restore.records.source(plan.database))() as view:
            for target in plan.targets:
                for block in view.rows(target.link):
                    for start in range(0, len(block), BATCH):
                        yield target, _part(block, start, start + BATCH)

    def keys(self, plan: ExtractionPlan) -> Iterator[tuple[str, list[str]]]:
        """The keys of the extracted rows, with the names of their links."""
        for target, block in self._rows(plan):
            yield target.link.name, list(block.keys)

    def fetch(
        self, plan: ExtractionPlan, link: Link, keys: Sequence[str]
    ) -> Mapping[str, Sequence[tuple[str, Point]]]:
        """`engine.revival.FromBackup` over the extracted collections."""
        found: dict[str, list[tuple[str, Point]]] = {}
        if self.restore.points:
            reader = self.restore.points.reader()
            for original, name in plan.names.items():
                for key, points in reader.fetch(link, name, keys).items():
                    found.setdefault(key, []).extend((original, point) for point in points)
        return found

    def drop(self, plan: ExtractionPlan) -> None:
        """Take the extracted pair away again."""
        self._clean_up(plan)

    # ------------------------------------------------------------ proof

    def _reconcile(self, plan: ExtractionPlan, result: ExtractionResult) -> ReconcileResult | None:
        restore = self.restore
        if restore.records is None:
            return None
        source = restore.records.source(plan.database)
        points: PointReader
        if plan.manifest.qdrant is None:
            links = [target.link for target in plan.targets if target.link.vectors]
            if not links or restore.vectors is None:
                return None
            points = VectorPair(source, restore.vectors, links)
        else:
            # A link of which some collections were left out cannot be compared.
            there = plan.names.keys()
            links = [t.link for t in plan.targets if t.collections and there >= {*t.collections}]
            if not links or restore.points is None:
                return None
            points = RenamedPoints(restore.points.reader(), plan.names)
        expected: dict[str, set[str]] = {}
        for line in result.reembed:
            expected.setdefault(line.link, set()).add(line.named)
        return reconcile_restored(
            links=links,
            ignore=plan.manifest.ignore,
            records=source,
            points=points,
            aliases={part.name: part.aliases for part in plan.whole.parts},
            expected=expected,
            work_dir=restore.settings.work_dir,
            reporter=restore.reporter,
            clock=restore.clock,
        )

    # ------------------------------------------------------------ failure

    def _clean_up(self, plan: ExtractionPlan) -> None:
        records, points = self.restore.records, self.restore.points
        undo: list[Callable[[], None]] = []
        if records:
            undo.append(partial(records.drop, plan.database))
        if points:
            made = [*plan.whole.names.values(), *plan.names.values()]
            undo += [partial(points.drop, name) for name in made]
        for action in undo:
            try:
                action()
            except VbackupError as error:
                self.restore.reporter.warn("could not clean up", reason=error.message)


def _copy(plan: ExtractionPlan, target: Target, block: RowBlock, points: PointTarget) -> int:
    """The points of these rows, into their new collections; how many."""
    reader = points.reader()
    aliases = _aliases(plan)
    copied = 0
    for collection in target.collections:
        keys = _keys_in(block, collection, aliases) if collection in plan.names else []
        if not keys:
            continue
        everybodys = plan.whole.names[collection]
        whole = reader.fetch_ids(everybodys, reader.owned(target.link, everybodys, keys).ids)
        if whole:
            points.upsert(plan.names[collection], whole)
        copied += len(whole)
    return copied


def _aliases(plan: ExtractionPlan) -> dict[str, str]:
    return by_alias({part.name: part.aliases for part in plan.whole.parts})


def _keys_in(block: RowBlock, collection: str, aliases: Mapping[str, str]) -> list[str]:
    """The keys whose points are in this collection, where rows say so."""
    if block.collections is None:
        return list(block.keys)
    return [
        key
        for key, name in zip(block.keys, block.collections, strict=True)
        if name is not None and aliases.get(name, name) == collection
    ]


def _part(block: RowBlock, start: int, end: int) -> RowBlock:
    collections = None if block.collections is None else block.collections[start:end]
    return RowBlock(block.keys[start:end], collections=collections)
