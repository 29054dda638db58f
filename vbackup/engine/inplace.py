"""`restore --in-place`: prove the restored pair beside the live one, then switch.

Nothing live is touched before the restored pair has been reconciled and the live collections
have been copied aside. From then on a state file says how to go back.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vbackup.engine.apply import Applied
from vbackup.engine.restore import Restore, RestoreResult
from vbackup.engine.restoreplan import RestoreOptions, RestorePlan
from vbackup.engine.switch import Switch, SwitchState
from vbackup.errors import Failed, Interrupted, Refused, VbackupError


@dataclass(frozen=True, slots=True)
class InPlaceResult:
    """What is live now (`restored`), and how to go back (`state`, saved at `state_file`)."""

    restored: RestoreResult
    state: SwitchState
    state_file: Path


@dataclass(frozen=True, slots=True)
class InPlaceRestore:
    """Restores over the live names of one pair. `database` is the live database's name."""

    restore: Restore
    switch: Switch
    database: str
    state_directory: Path

    def run(self, plan: RestorePlan, options: RestoreOptions) -> InPlaceResult:
        """Raises Refused when the restored pair is not clean: the live one is untouched then."""
        started = self.switch.clock.monotonic()
        beside = self.restore.run(plan, options)
        if not beside.clean and not options.force:
            raise Refused(
                f"the pair restored from {plan.manifest.id} has drift; the live pair was not"
                " touched",
                hint=f"look at {_names(plan)}; --force switches all the same",
            )
        state, state_file = self._begin(plan, options)
        try:
            result = self._fill(plan, state.database)
        except BaseException as error:
            raise _half_way(error, state_file) from error
        self.restore.renew_cache(plan, result)
        self._drop_beside(plan)
        result.warnings[:0] = beside.warnings
        result.rto_seconds = self.switch.clock.monotonic() - started
        return InPlaceResult(result, state, state_file)

    def _begin(self, plan: RestorePlan, options: RestoreOptions) -> tuple[SwitchState, Path]:
        """Copy the live collections aside and switch the database. A failure that left the live
        pair as it was takes everything away again."""
        live = self.database if plan.database else None
        state = SwitchState(
            plan.manifest.id,
            self.switch.clock.now(),
            restored_database=plan.database,
            beside=tuple(plan.names.values()),
        )
        began = False
        try:
            state = self.switch.plan(plan.manifest.id, live, plan.database, plan.names)
            state_file = self._state_file(state)
            self.switch.keep(state)
            state.save(state_file)
            began = True
            self.switch.swap_database(state)
        except BaseException as error:
            if began and self._perhaps_swapped(state):
                raise _half_way(error, state_file) from error
            if not options.keep_failed:
                self._abandon(state)
            raise
        return state, state_file

    def _abandon(self, state: SwitchState) -> None:
        """Take away what the switch made; while a server is gone, say how to do it later."""
        state_file = self._state_file(state)
        with suppress(OSError):
            if self.switch.abandon(state):
                state_file.unlink(missing_ok=True)
                return
            # Nothing live was changed: all that is left is to be dropped.
            left = replace(state, kept_database=state.restored_database, went_back=True)
            replace(left, restored_database=None).save(state_file)
            self.switch.reporter.warn(
                "something is left; when the servers answer again, drop it",
                command=f"vbackup restore --drop-old {state_file} --yes",
            )

    def _state_file(self, state: SwitchState) -> Path:
        return self.state_directory / f"vbackup-switch-{state.at:%Y%m%dT%H%M%S}.json"

    def _perhaps_swapped(self, state: SwitchState) -> bool:
        """Whether the live database may be another one now; so when nobody can tell."""
        try:
            return self.switch.swapped(state)
        except VbackupError:
            return True

    def _fill(self, plan: RestorePlan, live: str | None) -> RestoreResult:
        """Write the restored shards under the live names, patch and reconcile them."""
        names = {name: name for name in plan.names}
        in_place = replace(plan, database=live, names=names)
        for part in in_place.parts:
            with self.switch.reporter.step(f"restore {part.name} in place"):
                self.switch.fill(part, part.name, self.restore.repository.read)
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


def _half_way(error: BaseException, state_file: Path) -> VbackupError:
    """What is certain is the way back, whatever went wrong."""
    hint = f"go back with: vbackup restore --go-back {state_file} --yes"
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        return Interrupted("the switch was stopped half way", hint=hint)
    message = error.message if isinstance(error, VbackupError) else str(error) or repr(error)
    return Failed(f"the switch stopped half way: {message}", hint=hint)


def _names(plan: RestorePlan) -> str:
    found = [plan.database] if plan.database else []
    return ", ".join([*found, *plan.names.values()])
