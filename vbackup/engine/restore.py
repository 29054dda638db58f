"""Restore one pair beside the live one, and prove it.

`Restore.run` is the runbook: everything that could fail is asked first, then both sides load
at once, the patch is applied, and a full reconcile says whether rows and points agree. A
restore that fails takes away what it created. `engine.switch` puts a proven pair in place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vbackup.engine.apply import Applied, Reembeds, apply_patch, guard
from vbackup.engine.reconcile import ReconcileResult, reconcile_restored
from vbackup.engine.renamed import RenamedPoints
from vbackup.engine.restoreplan import RestoreOptions, RestorePlan, plan_restore
from vbackup.engine.stopping import StopSwitch
from vbackup.engine.switchstate import left_by_restores
from vbackup.engine.vectors import OpenVectors, VectorPair
from vbackup.errors import AlreadyExists, Refused, VbackupError
from vbackup.model.blocks import Point
from vbackup.model.link import Link
from vbackup.model.manifest import Artifact, CollectionPart, Manifest
from vbackup.model.patch import PatchLine, Reembed, decode
from vbackup.ports import Cache, Clock, PointTarget, RecordTarget, Reporter, Repository

TRIES = 9
_TAKEN = "exists already"


@dataclass(frozen=True, slots=True)
class RestoreSettings:
    """Where a restore works and how long it waits (seconds)."""

    work_dir: Path | None = None
    settle_timeout: float = 3600.0
    removed_file: Path | None = None


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
class Restore:
    """One restore. A side that is not restored may be None; `vectors` reads those that pgvector
    keeps in the restored database."""

    repository: Repository
    records: RecordTarget | None
    points: PointTarget | None
    settings: RestoreSettings
    reporter: Reporter
    clock: Clock
    links: Sequence[Link] | None = None
    ignore: Sequence[str] | None = None
    stop: StopSwitch = field(default_factory=StopSwitch)
    cache: Cache | None = None
    vectors: OpenVectors | None = None
    state_directory: Path | None = None
    left_behind: bool = False

    def plan(self, backup_id: str, options: RestoreOptions) -> RestorePlan:
        """The plan, checked against the target servers. Nothing is changed.

        Raises Refused with everything that stands in the way."""
        manifest = self.repository.load(backup_id)
        plan = plan_restore(manifest, options)
        problems = self._preflight(plan)
        for number in range(2, TRIES + 1):
            # A pair that somebody looks at beside the live one must not stand in the way.
            if not (options.in_place and any(_TAKEN in problem for problem in problems)):
                break
            plan = plan_restore(manifest, options, number)
            problems = self._preflight(plan)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise Refused(
                f"the restore of {manifest.id} cannot start: {problems[0]}{more}",
                hint="; ".join([*problems[1:], self._advice(plan, problems)]),
            )
        if plan.names and not options.force:
            guard(manifest, self._patch(manifest))
        return plan

    def _advice(self, plan: RestorePlan, problems: list[str]) -> str:
        if not any(_TAKEN in problem for problem in problems):
            return "nothing was changed; see vbackup restore --plan"
        others = "choose others with --database and --collection-suffix"
        made = [plan.database or "", *plan.names.values()]
        left = list(left_by_restores(self.state_directory, made)) if self.state_directory else []
        if not left:
            return f"drop what an earlier restore left under these names, or {others}"
        commands = " and ".join(f"--drop-old {path}" for path in left)
        return f"vbackup restore {commands} drops what an earlier restore made, or {others}"

    def run(self, plan: RestorePlan, options: RestoreOptions) -> RestoreResult:
        """Restore by the plan. What it created is dropped again when it fails; `left_behind`
        says whether something could not be."""
        started = self.clock.monotonic()
        result = RestoreResult(plan, Applied(), None, 0.0)
        undo: list[Callable[[], None]] = []
        try:
            with ThreadPoolExecutor(2, "restore") as pool:
                sides = [
                    pool.submit(self._load, plan, result, undo),
                    pool.submit(self._recover, plan, undo),
                ]
                try:
                    finished, _ = wait(sides, return_when=FIRST_EXCEPTION)
                    for side in finished:
                        side.result()
                except BaseException:
                    self.stop.pull()
                    # Nobody waits for hours of index builds: without its database and its
                    # collections the other side ends at once.
                    if not options.keep_failed:
                        self._undo(undo, last=False)
                    raise
            with self._statistics(plan):
                self.finish(plan, result)
        except BaseException:
            if not options.keep_failed:
                self._undo(undo)
            self.left_behind = bool(undo)
            raise
        if plan.takes_live_names:
            self.renew_cache(plan, result)
        result.rto_seconds = self.clock.monotonic() - started
        return result

    @contextmanager
    def _statistics(self, plan: RestorePlan) -> Iterator[None]:
        """Gather the database's statistics meanwhile: a proof scans whole tables and asks for
        rows by their keys, for which it needs none."""
        if plan.database is None or self.records is None:
            yield
            return
        pool = ThreadPoolExecutor(1, "analyze")
        gathered = pool.submit(self.records.analyze, plan.database, self.reporter)
        try:
            yield
            gathered.result()
        finally:
            # Nobody waits for it after a failure: it ends with the database.
            pool.shutdown(wait=False)

    def finish(self, plan: RestorePlan, result: RestoreResult) -> None:
        """Make loaded shards the state at the watermark, and prove it."""
        self._patch_points(plan, result)
        self._settle(plan, result)
        result.reconcile = self._reconcile(plan, result)
        self._aliases(plan, result)

    def renew_cache(self, plan: RestorePlan, result: RestoreResult) -> None:
        """What the cache knows of the abandoned timeline goes; kept keys come back.

        Only for a pair that is live now: one restored beside the live pair abandons nothing."""
        if self.cache is None:
            return
        try:
            with self.reporter.step("invalidate the cache", unit="keys") as step:
                result.invalidated = self.cache.invalidate()
                step.advance(result.invalidated)
            if plan.manifest.redis:
                with self.reporter.step("bring cached keys back", unit="keys") as step:
                    result.cached = self.cache.load(self._read(plan.manifest.redis))
                    step.advance(result.cached)
        except VbackupError as error:
            # The pair is proven and live: it is not taken away over a cache.
            result.warnings.append(
                f"the cache may hold keys of the abandoned timeline, flush it: {error.message}"
            )

    # ------------------------------------------------------------ before

    def _preflight(self, plan: RestorePlan) -> list[str]:
        problems: list[str] = []
        if plan.database is not None and self.records:
            problems += self.records.preflight(plan.manifest.postgres, plan.database)
        for part in plan.parts:
            if self.points:
                problems += self.points.preflight(part, plan.names[part.name], existing=False)
        return list(dict.fromkeys(problems))

    # ------------------------------------------------------------ loading

    def _load(
        self, plan: RestorePlan, result: RestoreResult, undo: list[Callable[[], None]]
    ) -> None:
        if plan.database is None or self.records is None:
            return
        records, database, part = self.records, plan.database, plan.manifest.postgres
        with _created(undo, lambda: records.drop(database)):
            records.prepare(part, database)
        result.warnings += records.load(
            part, database, lambda dump: self._read(dump.artifact), self.reporter
        )

    def _recover(self, plan: RestorePlan, undo: list[Callable[[], None]]) -> None:
        for part in plan.parts:
            self.stop.check()
            self._recover_one(part, plan.names[part.name], undo)

    def _recover_one(self, part: CollectionPart, name: str, undo: list[Callable[[], None]]) -> None:
        if self.points is None:
            return
        points = self.points
        with _created(undo, lambda: points.drop(name)):
            points.create(part, name)
        points.recover(part, name, self._read, self.reporter)

    def _read(self, artifact: Artifact) -> Iterator[bytes]:
        return self.stop.guard(self.repository.read(artifact))

    # ------------------------------------------------------------ patch and proof

    def _patch(self, manifest: Manifest) -> Iterator[PatchLine]:
        if manifest.patch.artifact is None:
            return iter(())
        return decode(self.repository.read(manifest.patch.artifact))

    def _patch_points(self, plan: RestorePlan, result: RestoreResult) -> None:
        patch = plan.manifest.patch
        if plan.manifest.qdrant is None:
            lines = self._patch(plan.manifest)
            result.applied.reembed = Reembeds(line for line in lines if isinstance(line, Reembed))
        if self.points is None or patch.artifact is None or not plan.names:
            return
        total = patch.deletes + patch.upserts
        with (
            self.reporter.step("apply patch", total=total, unit="points") as step,
            self._removed(plan) as removed,
        ):
            result.applied = apply_patch(
                self._patch(plan.manifest),
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

    # ------------------------------------------------------------ failure

    def _undo(self, undo: list[Callable[[], None]], *, last: bool = True) -> None:
        """Take away what was created; what cannot go yet stays in the list, until the `last`."""
        for action in reversed(undo[:]):
            try:
                action()
            except VbackupError as error:
                if last:
                    self.reporter.warn("could not clean up", reason=error.message)
                continue
            undo.remove(action)


@contextmanager
def _created(undo: list[Callable[[], None]], drop: Callable[[], None]) -> Iterator[None]:
    """Whatever is created in here is dropped by `undo`, also when a server that died never said
    whether it had, or what was made did not become what it should. Nothing of that name was there
    before; what somebody else made meanwhile is refused as AlreadyExists, and is not ours to
    drop."""
    try:
        yield
    except AlreadyExists:
        raise
    except BaseException:
        undo.append(drop)
        raise
    undo.append(drop)
