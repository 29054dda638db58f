"""A restore drill: restore one backup where nobody is hurt, prove the pair, take it all away.

`Drill.run` is the runbook. What is wrong with the backup is a failed check; what only these
servers or this machine lack is told apart as `not provable here`, since it says nothing about
the backup. Troubles of the moment (a repository or server that cannot be reached) are raised.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vbackup.config import DrillCheckConfig
from vbackup.engine.drillcheck import Ask, Nearest, NotHere, Restored, RunCommand, Wrong
from vbackup.engine.proof import RestoreResult, RestoreSettings
from vbackup.engine.restore import Restore
from vbackup.engine.restoreplan import RestoreOptions, RestorePlan, plan_restore
from vbackup.engine.vectors import OpenVectors
from vbackup.engine.verdicts import link_verdicts
from vbackup.errors import Damaged, Denied, Failed, NotFound, Refused, Unreachable, VbackupError
from vbackup.model.manifest import Manifest
from vbackup.ports import Clock, PointTarget, RecordTarget, Reporter, Repository
from vbackup.quantity import duration, size

State = Literal["passed", "failed", "not provable here"]
TARGETS = "name servers that have what is missing: [drill] postgres and qdrant (docs/drills.md)"
_SYSTEM = ("postgres", "template0", "template1")
_LACKING = (NotFound, Refused, Denied, Failed)


@dataclass(frozen=True, slots=True)
class Ground:
    """The servers of one drill. `disposable`: they go away as a whole afterwards, so nothing
    else has the names of the backup there. `differs` says how they are unlike the original
    servers; `lacking` what a server lacks when that is why a restore failed, else empty."""

    records: RecordTarget
    points: PointTarget | None
    ask: Ask
    nearest: Nearest | None
    run: RunCommand
    environment: Callable[[str], dict[str, str]]
    lacking: Callable[[VbackupError], str]
    create_roles: Callable[[str], Sequence[str]] | None
    work_dir: Path
    servers: dict[str, str]
    differs: tuple[str, ...] = ()
    vectors: OpenVectors | None = None
    disposable: bool = False


@dataclass(slots=True)
class DrillCheck:
    """One line of the result (contract: `verify` checks). `ok` is False for a failed check and
    for one whose lack keeps the backup unproven."""

    name: str
    ok: bool = True
    detail: str = ""
    seconds: float = 0.0
    state: State = "passed"
    hint: str = ""

    def fail(self, detail: str) -> None:
        self.ok, self.state, self.detail = False, "failed", detail

    def not_here(self, detail: str, hint: str = TARGETS, *, ok: bool = False) -> None:
        self.ok, self.state, self.detail, self.hint = ok, "not provable here", detail, hint


@dataclass(slots=True)
class DrillResult:
    """What a drill found. `restored` is None when nothing could be restored."""

    id: str
    checks: list[DrillCheck] = field(default_factory=list)
    servers: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    restored: RestoreResult | None = None

    @property
    def failed(self) -> bool:
        return any(check.state == "failed" for check in self.checks)

    @property
    def proven(self) -> bool:
        """Whether everything that counts was proven here."""
        return all(check.ok for check in self.checks)


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `open_ground` makes the servers ready and takes them away again."""

    repository: Repository
    open_ground: Callable[[Manifest], AbstractContextManager[Ground]]
    checks: Sequence[DrillCheckConfig]
    reporter: Reporter
    clock: Clock

    def run(self, backup_id: str) -> DrillResult:
        """Drill one backup. Raises Damaged (its manifest), Unreachable, Denied (the repository)."""
        manifest = self.repository.load(backup_id)
        result = DrillResult(manifest.id)
        with ExitStack() as stack:
            ground = self._open(stack, manifest, result)
            if ground is None:
                return result
            plan, options = _plan(manifest, ground)
            if self._fits(ground, plan, result):
                stack.callback(self._remove, ground, plan, result)
                if self._restore(ground, plan, options, result):
                    self._compare(result)
                    self._rest(manifest, result)
                    self._ask(ground, plan, result)
        return result

    # ------------------------------------------------------------ before

    def _open(self, stack: ExitStack, manifest: Manifest, result: DrillResult) -> Ground | None:
        with self._check("servers", result) as check:
            try:
                ground = stack.enter_context(self.open_ground(manifest))
            except _LACKING as error:
                check.not_here(error.message, error.hint or TARGETS)
                return None
            result.servers = ground.servers
            result.warnings += ground.differs
            check.detail = ", ".join(
                f"{name} {version}" for name, version in result.servers.items()
            )
            return ground

    def _fits(self, ground: Ground, plan: RestorePlan, result: DrillResult) -> bool:
        """Nothing that the backup needs is missing on the servers: extensions, versions, rights."""
        with self._check("servers fit", result) as check:
            try:
                problems = list(_problems(ground, plan))
            except _LACKING as error:
                check.not_here(error.message, error.hint)
                return False
            if problems:
                check.not_here("; ".join(problems))
            return not problems

    # ------------------------------------------------------------ restore

    def _restore(
        self, ground: Ground, plan: RestorePlan, options: RestoreOptions, result: DrillResult
    ) -> bool:
        with self._check("restore", result) as check:
            try:
                self._roles(ground, plan.manifest)
                restore = self._restorer(ground)
                # Planned again: it also asks whether the patch runs away.
                done = restore.run(restore.plan(plan.manifest.id, options), options)
            except VbackupError as error:
                self._blame(error, ground, check)
                return False
            result.restored = done
            result.warnings += done.warnings
            check.detail = f"in {duration(done.rto_seconds)}"
        self._notes(done, result)
        return True

    def _restorer(self, ground: Ground) -> Restore:
        return Restore(
            repository=self.repository,
            records=ground.records,
            points=ground.points,
            settings=RestoreSettings(ground.work_dir),
            reporter=self.reporter,
            clock=self.clock,
            vectors=ground.vectors,
        )

    def _roles(self, ground: Ground, manifest: Manifest) -> None:
        """Owners, grants and policies are proven, too, where roles may be created for a while."""
        for dump in manifest.postgres.dumps:
            if dump.kind == "globals":
                text = b"".join(self.repository.read(dump.artifact)).decode()
                if ground.create_roles:
                    ground.create_roles(text)

    def _rest(self, manifest: Manifest, result: DrillResult) -> None:
        """What a restore does not need is part of the backup all the same: read it back."""
        others = [listing.artifact for listing in manifest.rows]
        others += [manifest.redis] if manifest.redis else []
        with self._check("everything else", result) as check:
            try:
                read = sum(len(block) for each in others for block in self.repository.read(each))
                check.detail = f"{size(read)} read back"
            except Damaged as error:
                check.fail(error.message)

    def _blame(self, error: VbackupError, ground: Ground, check: DrillCheck) -> None:
        """Whose fault a failed restore is. Raises what says nothing about either."""
        if isinstance(error, (Damaged, Refused)):
            check.fail(error.message)
        elif lacking := ground.lacking(error):
            check.not_here(f"{lacking}: {error.message}")
        elif isinstance(error, (Unreachable, Denied)) or not isinstance(error, Failed | NotFound):
            raise error
        elif ground.differs:
            check.not_here(f"{error.message} ({'; '.join(ground.differs)})")
        else:
            check.fail(error.message)

    def _notes(self, done: RestoreResult, result: DrillResult) -> None:
        """What the restore had to leave out because these servers do not have it."""
        if done.warnings:
            check = DrillCheck("owners, privileges, locale")
            more = f" (and {len(done.warnings) - 1} more)" if len(done.warnings) > 1 else ""
            check.not_here(f"{done.warnings[0]}{more}", ok=True)
            result.checks.append(check)

    # ------------------------------------------------------------ proof

    def _compare(self, result: DrillResult) -> None:
        reconciled = result.restored.reconcile if result.restored else None
        if reconciled is None or not reconciled.reports:
            check = DrillCheck("links")
            hint = "say in [[link]] which rows own which points, then take a new backup"
            check.not_here("the backup has no links: nothing was compared", hint, ok=True)
            result.checks.append(check)
        for name, ok, detail in link_verdicts(reconciled.reports if reconciled else ()):
            result.checks.append(DrillCheck(name, ok, detail, 0.0, "passed" if ok else "failed"))
        result.warnings += reconciled.warnings if reconciled else []

    def _ask(self, ground: Ground, plan: RestorePlan, result: DrillResult) -> None:
        pair = self._pair(ground, plan)
        for asked in self.checks:
            with self._check(asked.name, result) as check:
                self._ask_one(pair, asked, check)

    def _ask_one(self, pair: Restored, asked: DrillCheckConfig, check: DrillCheck) -> None:
        try:
            check.detail = pair.check(asked)
        except NotHere as reason:
            check.not_here(str(reason), "a check's command must be on the machine that drills")
        except Unreachable:
            raise
        except Denied as error:
            check.not_here(error.message, error.hint)
        except (Wrong, VbackupError) as error:
            check.fail(str(error))

    def _pair(self, ground: Ground, plan: RestorePlan) -> Restored:
        names = dict(plan.names)
        for part in plan.parts:
            names |= dict.fromkeys(part.aliases, plan.names[part.name])
        database = plan.database or ""
        return Restored(
            database=database,
            collections=names,
            ask=ground.ask,
            nearest=ground.nearest,
            run=ground.run,
            environment={
                **ground.environment(database),
                "VBACKUP_DRILL_BACKUP": plan.manifest.id,
                "VBACKUP_DRILL_COLLECTIONS": json.dumps(names, ensure_ascii=False),
            },
        )

    # ------------------------------------------------------------ after

    def _remove(self, ground: Ground, plan: RestorePlan, result: DrillResult) -> None:
        """Their names are random, nobody else has them: what is there by now is ours."""
        if ground.disposable:
            return
        actions: list[tuple[str, Callable[[], None]]] = []
        if ground.points:
            actions += [(name, _dropping(ground.points, name)) for name in plan.names.values()]
        if plan.database:
            database = plan.database
            actions.append((database, lambda: ground.records.drop(database)))
        for name, action in actions:
            try:
                action()
            except VbackupError as error:
                result.warnings.append(f"{name} could not be removed: {error.message}")
                self.reporter.warn("left behind by the drill", name=name, reason=error.message)

    @contextmanager
    def _check(self, name: str, result: DrillResult) -> Iterator[DrillCheck]:
        check, started = DrillCheck(name), self.clock.monotonic()
        result.checks.append(check)
        with self.reporter.step(name, unit="checks"):
            yield check
        check.seconds = round(self.clock.monotonic() - started, 3)


def _plan(manifest: Manifest, ground: Ground) -> tuple[RestorePlan, RestoreOptions]:
    """The backup's own names where nothing else is, random ones beside other data."""
    name, mark = manifest.postgres.facts.database, secrets.token_hex(4)
    if not ground.disposable:
        options = RestoreOptions(f"vbackup_drill_{mark}", f"_vbackup_drill_{mark}")
    else:
        options = RestoreOptions(f"{name}_drill" if name in _SYSTEM else name, "")
    return plan_restore(manifest, options), options


def _problems(ground: Ground, plan: RestorePlan) -> Iterator[str]:
    if plan.database is not None:
        yield from ground.records.preflight(plan.manifest.postgres, plan.database)
    for part in plan.parts:
        if ground.points:
            yield from ground.points.preflight(part, plan.names[part.name], existing=False)


def _dropping(points: PointTarget, name: str) -> Callable[[], None]:
    return lambda: points.drop(name) if points.exists(name) else None
