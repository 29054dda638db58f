"""`restore --in-place`: prove the restored pair beside the live one, then switch.

Nothing live is touched before the restored pair has been reconciled and the live collections
have been copied aside. From then on a state file says how to go back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vbackup.engine.apply import Applied
from vbackup.engine.proof import RestoreResult
from vbackup.engine.restore import Restore
from vbackup.engine.restoreplan import RestoreOptions, RestorePlan
from vbackup.engine.switch import Switch
from vbackup.engine.switchstate import StateFile, SwitchState
from vbackup.errors import Failed, Interrupted, Locked, Refused, VbackupError


@dataclass(frozen=True, slots=True)
class InPlaceResult:
    """What is live now (`restored`), and the file that knows how to go back."""

    restored: RestoreResult
    file: StateFile

    @property
    def state(self) -> SwitchState:
        """What was switched."""
        return self.file.state


@dataclass(frozen=True, slots=True)
class BesideRestore:
    """Restores beside the live pair. What it makes is in a state file before it is made, so that
    `--drop-old` can take it away after a kill, or when nobody wants to look at it any more.

    `command` is what a person types before `--drop-old` and `--go-back`."""

    restore: Restore
    switch: Switch
    state_directory: Path
    command: str = "vbackup restore"

    def begin(self, plan: RestorePlan, live: str | None = None) -> StateFile:
        """Write down what is about to be made. Raises Refused when that is impossible."""
        postgres, qdrant = self.switch.servers
        state = SwitchState(
            plan.manifest.id,
            self.switch.clock.now(),
            "restoring",
            database=live,
            restored_database=plan.database,
            beside=tuple(plan.names.values()),
            postgres=postgres if plan.database else "",
            qdrant=qdrant if plan.names else "",
        )
        return StateFile.begin(self.state_directory, state, self.command)

    def run(self, plan: RestorePlan, options: RestoreOptions, file: StateFile) -> RestoreResult:
        """Restore. A failure takes everything away again, or says how to do that later."""
        try:
            result = self.restore.run(plan, options)
        except BaseException:
            with suppress(OSError):
                self._settle(file, left=self.restore.left_behind)
            raise
        file.note(phase="restored")
        return result

    def _settle(self, file: StateFile, *, left: bool) -> None:
        if not left:
            file.remove()
            return
        self.switch.reporter.warn(
            "something is left; when the servers answer again, drop it", command=file.drop_old
        )


@dataclass(frozen=True, slots=True)
class InPlaceRestore:
    """Restores over the live names of one pair. `database` is the live database's name."""

    restore: Restore
    switch: Switch
    database: str
    state_directory: Path
    command: str = "vbackup restore"

    def run(self, plan: RestorePlan, options: RestoreOptions) -> InPlaceResult:
        """Raises Refused when the restored pair is not clean: the live one is untouched then;
        Locked when another restore in place of this repository goes on."""
        with self._alone():
            return self._run(plan, options)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two switches at once would keep copies of each other's half-filled collections. A key
        that may only read holds no lease, and that is no reason not to restore."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self.restore.repository.lease("switch"))
            except Locked:
                raise
            except VbackupError as error:
                self.switch.reporter.warn(
                    "nothing keeps others from a restore in place meanwhile", reason=error.message
                )
            yield

    def _run(self, plan: RestorePlan, options: RestoreOptions) -> InPlaceResult:
        started = self.switch.clock.monotonic()
        live = self.database if plan.database else None
        first = BesideRestore(self.restore, self.switch, self.state_directory, self.command)
        file = first.begin(plan, live)
        beside = first.run(plan, options, file)
        if not beside.clean and not options.force:
            raise Refused(
                f"the pair restored from {plan.manifest.id} has drift; the live pair was not"
                " touched",
                hint=f"look at {_names(plan)}; --force switches all the same;"
                f" to drop it: {file.drop_old}",
            )
        self._begin(plan, options, file)
        try:
            result = self._fill(plan, live, file)
            file.note(phase="switched")
        except BaseException as error:
            raise _half_way(error, file) from error
        self.restore.renew_cache(plan, result)
        self._drop_beside(plan)
        result.warnings[:0] = beside.warnings
        result.rto_seconds = self.switch.clock.monotonic() - started
        return InPlaceResult(result, file)

    def _begin(self, plan: RestorePlan, options: RestoreOptions, file: StateFile) -> None:
        """Copy the live collections aside and switch the database. A failure that left the live
        pair as it was takes everything away again."""
        try:
            file.note(**self.switch.plan(file.state, plan.names))
            self.switch.keep(file.state)
            file.note(phase="switching")
            self.switch.swap_database(file.state)
        except BaseException as error:
            if file.state.phase == "switching" and self._perhaps_swapped(file.state):
                raise _half_way(error, file) from error
            if not options.keep_failed:
                self._abandon(file)
            raise

    def _abandon(self, file: StateFile) -> None:
        """Take away what the switch made; while a server is gone, say how to do it later."""
        with suppress(OSError):
            if self.switch.abandon(file.state):
                file.remove()
                return
            # Nothing live was changed: all that is left is to be dropped.
            file.note(phase="keeping")
            self.switch.reporter.warn(
                "something is left; when the servers answer again, drop it", command=file.drop_old
            )

    def _perhaps_swapped(self, state: SwitchState) -> bool:
        """Whether the live database may be another one now; so when nobody can tell."""
        try:
            return self.switch.swapped(state)
        except VbackupError:
            return True

    def _fill(self, plan: RestorePlan, live: str | None, file: StateFile) -> RestoreResult:
        """Write the restored shards under the live names, patch and reconcile them."""
        names = {name: name for name in plan.names}
        in_place = replace(plan, database=live, names=names)
        for part in in_place.parts:
            with self.switch.reporter.step(f"restore {part.name} in place"):
                self.switch.fill(part, part.name, self.restore.repository.read)
        self.switch.alias_again(file.state)
        result = RestoreResult(in_place, Applied(), None, 0.0)
        self.restore.finish(in_place, result)
        return result

    def _drop_beside(self, plan: RestorePlan) -> None:
        for name in plan.names.values():
            if self.switch.points:
                try:
                    self.switch.points.drop(name)
                except VbackupError as error:
                    # The pair is live and proven, and --drop-old drops these as well.
                    self.switch.reporter.warn("could not clean up", reason=error.message)


def _half_way(error: BaseException, file: StateFile) -> VbackupError:
    """What is certain is the way back, whatever went wrong."""
    hint = f"go back with: {file.go_back}"
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        return Interrupted("the switch was stopped half way", hint=hint)
    message = error.message if isinstance(error, VbackupError) else str(error) or repr(error)
    return Failed(f"the switch stopped half way: {message}", hint=hint)


def _names(plan: RestorePlan) -> str:
    found = [plan.database] if plan.database else []
    return ", ".join([*found, *plan.names.values()])
