"""`restore --in-place`: prove the restored pair beside the live one, then switch.

Nothing live is touched before the restored pair has been reconciled and the live collections
have been copied aside. From then on a state file says how to go back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vbackup.engine.apply import Applied
from vbackup.engine.restore import Restore, RestoreResult
from vbackup.engine.restoreplan import RestoreOptions, RestorePlan
from vbackup.engine.switch import Switch, SwitchState
from vbackup.errors import Failed, Refused, VbackupError


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
        live = self.database if plan.database else None
        state = self.switch.plan(plan.manifest.id, live, plan.database, list(plan.names))
        state_file = self.state_directory / f"vbackup-switch-{state.at:%Y%m%dT%H%M%S}.json"
        self.switch.keep(state)
        state.save(state_file)
        try:
            self.switch.swap_database(state)
            result = self._fill(plan, live)
        except VbackupError as error:
            raise Failed(
                f"the switch stopped half way: {error.message}",
                hint=f"go back with: vbackup restore --go-back {state_file} --yes",
            ) from error
        self.restore.renew_cache(plan, result)
        self._drop_beside(plan)
        result.warnings[:0] = beside.warnings
        result.rto_seconds = self.switch.clock.monotonic() - started
        return InPlaceResult(result, state, state_file)

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
                self.switch.points.drop(name)


def _names(plan: RestorePlan) -> str:
    found = [plan.database] if plan.database else []
    return ", ".join([*found, *plan.names.values()])
