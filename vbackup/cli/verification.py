"""The checks of `verify`, level by level, as one list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vbackup.errors import Damaged, Usage, VbackupError
from vbackup.model.manifest import CheckRecord
from vbackup.quantity import duration
from vbackup.reconciling import stored_pair

if TYPE_CHECKING:
    from vbackup.model.finding import LinkReport
    from vbackup.ports import Clock, Reporter
    from vbackup.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class VerifiedCheck:
    """One line of the result (contract: `verify` checks)."""

    name: str
    ok: bool
    detail: str
    seconds: float = 0.0


class Verification:
    """Runs once; then `checks`, `damage` and `ok` say what was found."""

    def __init__(self, repository: Repository, reporter: Reporter, clock: Clock) -> None:
        self.id = ""
        self.level = ""
        self.checks: list[VerifiedCheck] = []
        self.damage: list[str] = []
        self._repository = repository
        self._reporter = reporter
        self._clock = clock
        self._started = clock.monotonic()

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def run(self, backup_id: str, level: str, sample: str | None) -> None:
        """All checks of a level. What is wrong with the backup is noted, never raised.

        Raises NotFound, Denied, Unreachable; Usage for a sample of another level."""
        from vbackup.repository.check import verify
        from vbackup.repository.sample import Sample

        if sample and level != "chunks":
            raise Usage("--sample goes with --level chunks")
        self.id, self.level = backup_id, level
        first = len(self.checks)
        stored = verify(
            self._repository,
            backup_id,
            # Offline reads every byte that it compares, and checks it on the way.
            level="chunks" if level == "chunks" else "manifest",
            part=Sample.parse(sample) if sample else None,
            report=self._reporter,
        )
        for check in stored.checks:
            self._add(check.name, check.ok, check.detail, check.seconds)
        self.damage = [str(damage) for damage in stored.damage]
        if level == "offline" and stored.ok:
            self._offline(backup_id)
        self._record(sound=all(check.ok for check in self.checks[first:]))

    def age(self, limit: float) -> None:
        """The backup must not be older than `limit` seconds."""
        taken = next(s.at for s in self._repository.backups() if s.id == self.id)
        seconds = (self._clock.now() - taken).total_seconds()
        self._add(
            "age", seconds <= limit, f"{duration(seconds)} old, at most {duration(limit)} allowed"
        )

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
        return {
            "id": self.id,
            "level": self.level,
            "checks": self.checks,
            "damage": self.damage,
            "seconds": self._seconds(),
        }

    # ------------------------------------------------------------ levels

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
        for name, ok, detail in _verdicts(result.reports):
            self._add(name, ok, detail)
        took = self._clock.monotonic() - started
        read = sum(report.rows + report.points for report in result.reports)
        self._add("offline", True, f"{read:,} rows and points compared", took)

    def _record(self, *, sound: bool) -> None:
        """Store the result beside the backup, where writing is allowed. Whether the backup is
        old, or the index had to be rebuilt, is no part of it: retention goes by what is stored."""
        record = CheckRecord(
            level=self.level,
            at=self._clock.now(),
            ok=sound,
            detail=next((check.detail for check in self.checks if not check.ok), ""),
            seconds=self._seconds(),
        )
        try:
            self._repository.record(self.id, record)
        except VbackupError as error:
            self._reporter.warn("the result could not be stored", reason=error.message)

    def _add(self, name: str, ok: bool, detail: str, seconds: float = 0.0) -> None:
        self.checks.append(VerifiedCheck(name, ok, detail, round(seconds, 3)))

    def _seconds(self) -> float:
        return round(self._clock.monotonic() - self._started, 3)


def _verdicts(reports: Iterable[LinkReport]) -> Iterable[tuple[str, bool, str]]:
    for report in reports:
        rest = f", {report.expected_reembed:,} to re-embed" if report.expected_reembed else ""
        found = "agree" if report.clean else f"{report.drift:,} findings"
        counts = f"{report.rows:,} rows, {report.points:,} points: {found}{rest}"
        yield f"link {report.name}", report.clean, counts
