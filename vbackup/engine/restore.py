"""Restore one pair beside the live one.

`Restore.run` is the runbook: everything that could fail is asked first, then both sides load
at once, and `engine.proof` says whether rows and points agree. A restore that fails takes away
what it created. `engine.switch` puts a proven pair in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vbackup.engine.apply import Applied, guard
from vbackup.engine.proof import Proof, RestoreResult, patch_lines
from vbackup.engine.restoreplan import RestoreOptions, RestorePlan, plan_restore
from vbackup.engine.stopping import StopSwitch
from vbackup.engine.switchstate import left_by_restores
from vbackup.errors import AlreadyExists, Refused, VbackupError
from vbackup.model.manifest import Artifact, CollectionPart
from vbackup.ports import Cache

TRIES = 9
_TAKEN = "exists already"


@dataclass(slots=True)
class Restore(Proof):
    """One restore: loads a pair, and proves it."""

    stop: StopSwitch = field(default_factory=StopSwitch)
    cache: Cache | None = None
    state_directory: Path | None = None
    left_behind: bool = False

    def plan(self, backup_id: str, options: RestoreOptions) -> RestorePlan:
        """The plan, checked against the target servers. Nothing is changed.

        Raises Refused with everything that stands in the way; AlreadyExists where that is only
        names that are taken."""
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
            taken = all(_TAKEN in problem for problem in problems)
            raise (AlreadyExists if taken else Refused)(
                f"the restore of {manifest.id} cannot start: {problems[0]}{more}",
                hint="; ".join([*problems[1:], self._advice(plan, problems)]),
            )
        if plan.names and not options.force:
            guard(manifest, patch_lines(self.repository, manifest))
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
        with ThreadPoolExecutor(1, "analyze") as aside:
            try:
                self._both_sides(plan, options, result, undo)
                # A proof scans whole tables and asks for rows by their keys, for which it needs
                # no statistics: they are gathered meanwhile, and end with a database that goes.
                statistics = aside.submit(self._analyze, plan)
                self.finish(plan, result)
                statistics.result()
            except BaseException:
                if not options.keep_failed:
                    self._undo(undo)
                self.left_behind = bool(undo)
                raise
        if plan.takes_live_names:
            self.renew_cache(plan, result)
        result.rto_seconds = self.clock.monotonic() - started
        return result

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

    def _both_sides(
        self,
        plan: RestorePlan,
        options: RestoreOptions,
        result: RestoreResult,
        undo: list[Callable[[], None]],
    ) -> None:
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

    def _analyze(self, plan: RestorePlan) -> None:
        if plan.database is not None and self.records is not None:
            self.records.analyze(plan.database, self.reporter)

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
