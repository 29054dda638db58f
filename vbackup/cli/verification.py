"""The checks of `verify`, level by level, as one list."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from vbackup.cli.documents import reconcile_document
from vbackup.engine.verdicts import link_verdicts
from vbackup.errors import Damaged, Usage, VbackupError
from vbackup.model.manifest import CheckRecord
from vbackup.quantity import duration
from vbackup.reconciling import stored_pair

if TYPE_CHECKING:
    from vbackup.engine.drill import Drill, DrillResult
    from vbackup.ports import Clock, Reporter
    from vbackup.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class VerifiedCheck:
    """One line of the result (contract: `verify` checks). `state` is passed, failed or
    not provable here; `ok` is False for the last only when it keeps the backup unproven."""

    name: str
    ok: bool
    detail: str
    seconds: float = 0.0
    state: str = "passed"
    hint: str = ""


class Verification:
    """Runs once; then `checks`, `damage` and `ok` say what was found."""

    def __init__(
        self,
        repository: Repository,
        reporter: Reporter,
        clock: Clock,
        drill: Drill | None = None,
    ) -> None:
        """`drill` is what the level of that name runs."""
        self.id = ""
        self.level = ""
        self.checks: list[VerifiedCheck] = []
        self.damage: list[str] = []
        self.drilled: DrillResult | None = None
        self._drill = drill
        self._repository = repository
        self._reporter = reporter
        self._clock = clock
        self._started = clock.monotonic()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> list[VerifiedCheck]:
        """The checks that found something wrong with the backup, not with this place."""
        return [check for check in self.checks if check.state == "failed"]

    def run(self, backup_id: str, level: str, sample: str | None) -> None:
        """All checks of a level. What is wrong with the backup is noted, never raised.

        Raises NotFound, Denied, Unreachable; Usage for a sample of another level."""
        from vbackup.repository.check import verify
        from vbackup.repository.sample import Sample

        if sample and level != "chunks":
            raise Usage("--sample goes with --level chunks")
        self.id, self.level = backup_id, level
        first = len(self.checks)
        alone = level == "offline" and self._alone(backup_id)
        stored = verify(
            self._repository,
            backup_id,
            # Offline reads every byte that it compares, and checks it on the way.
            level="chunks" if level == "chunks" or alone else "manifest",
            part=Sample.parse(sample) if sample else None,
            report=self._reporter,
        )
        for check in stored.checks:
            self._add(check.name, check.ok, check.detail, check.seconds)
        self.damage = [str(damage) for damage in stored.damage]
        if alone and stored.ok:
            self._add("offline", True, "rows and vectors are in one dump: all of it was read")
        elif level == "offline" and stored.ok:
            self._offline(backup_id)
        if self._drill and stored.ok:
            self._drilled(self._drill, backup_id)
        self._record(self.checks[first:])

    def age(self, limit: float) -> None:
        """The newest good backup, and at the level of drills the newest passed drill, must not
        be older than `limit` seconds."""
        good = [
            summary.at
            for summary in self._repository.backups()
            if not summary.unreadable
            and (summary.verified is None or summary.verified.ok)
            and not (summary.id == self.id and self.failed)
        ]
        self._age("age", max(good, default=None), "no good backup", limit)
        if self.level == "drill":
            from vbackup.repository.checks import newest_passed

            passed = newest_passed(self._repository, "drill")
            at = self._clock.now() if self.drilled and self.ok else passed.at if passed else None
            self._age("drill age", at, "no drill has passed yet", limit)

    def _age(self, name: str, at: datetime | None, none: str, limit: float) -> None:
        if at is None:
            self._add(name, False, none)
            return
        seconds = max(0.0, (self._clock.now() - at).total_seconds())
        detail = f"{duration(seconds)} old, at most {duration(limit)} allowed"
        self._add(name, seconds <= limit, detail)

    def repair_index(self) -> None:
        """Rebuild the index from the packs, before anything is checked by it."""
        from vbackup.repository.reindex import repair_index

        with self._reporter.step("rebuild the index", unit="packs"):
            done = repair_index(self._repository)
        self._add(
            "repair index",
            not done.unreadable,
            f"{done.packs} packs, {done.chunks} chunks, {len(done.unreadable)} unreadable",
        )

    def document(self) -> dict[str, object]:
        """As scripts read it (contract: `verify`)."""
        document: dict[str, object] = {
            "id": self.id,
            "level": self.level,
            "checks": self.checks,
            "damage": self.damage,
            "seconds": self._seconds(),
        }
        return {**document, **(drill_document(self.drilled) if self.drilled else {})}

    # ------------------------------------------------------------ levels

    def _alone(self, backup_id: str) -> bool:
        """Whether rows and vectors are in one dump: then no two halves could disagree."""
        try:
            return self._repository.load(backup_id).qdrant is None
        except Damaged:
            return False

    def _offline(self, backup_id: str) -> None:
        """Rows and points of the backup agree, as a restore would leave them."""
        from vbackup.engine.reconcile import ReconcileOptions

        started = self._clock.monotonic()
        pair = stored_pair(self._repository, self._reporter, self._clock)
        try:
            result = pair.reconcile(backup_id, ReconcileOptions(confirm=False))
        except Damaged as error:
            self._add("offline", False, error.message, self._clock.monotonic() - started)
            return
        for name, ok, detail in link_verdicts(result.reports):
            self._add(name, ok, detail)
        took = self._clock.monotonic() - started
        read = sum(report.rows + report.points for report in result.reports)
        self._add("offline", True, f"{read:,} rows and points compared", took)

    def _drilled(self, drill: Drill, backup_id: str) -> None:
        """The backup restores, and the restored pair stands every check."""
        try:
            self.drilled = drill.run(backup_id)
        except Damaged as error:
            self._add("restore", False, error.message)
            return
        self.checks += [
            VerifiedCheck(c.name, c.ok, c.detail, c.seconds, c.state, c.hint)
            for c in self.drilled.checks
        ]

    def _record(self, checks: list[VerifiedCheck]) -> None:
        """Store the result beside the backup, where writing is allowed. Whether the backup is
        old, or the index had to be rebuilt, is no part of it: retention goes by what is stored.
        A drill that proved nothing here is not stored: it says nothing about the backup."""
        failed = [check for check in checks if check.state == "failed"]
        if not failed and not all(check.ok for check in checks):
            return
        record = CheckRecord(
            level=self.level,
            at=self._clock.now(),
            ok=not failed,
            detail=failed[0].detail if failed else "",
            seconds=self._seconds(),
        )
        try:
            self._repository.record(self.id, record)
        except VbackupError as error:
            self._reporter.warn("the result could not be stored", reason=error.message)

    def _add(self, name: str, ok: bool, detail: str, seconds: float = 0.0) -> None:
        state = "passed" if ok else "failed"
        self.checks.append(VerifiedCheck(name, ok, detail, round(seconds, 3), state))

    def _seconds(self) -> float:
        return round(self._clock.monotonic() - self._started, 3)


def drill_document(result: DrillResult) -> dict[str, object]:
    """What only a drill tells: the restore time, where, and what was restored."""
    done = result.restored
    return {
        "rto_seconds": round(done.rto_seconds, 3) if done else None,
        "servers": result.servers,
        "points": done.points if done else {},
        "reembed": len(done.applied.reembed) if done else None,
        "reconcile": reconcile_document(done.reconcile) if done and done.reconcile else None,
        "warnings": result.warnings,
    }
