"""Is the pair protected now? One value, for the page, the metrics and `/healthz` alike."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vbackup.config import ObjectiveConfig, ScheduleConfig
from vbackup.operate.history import JOBS, History, JobName, Run


@dataclass(frozen=True, slots=True)
class LinkState:
    """One link as the newest reconcile or drill saw it."""

    name: str
    rows: int
    points: int
    drift: dict[str, int]
    at: datetime

    @property
    def clean(self) -> bool:
        return not any(self.drift.values())


@dataclass(frozen=True, slots=True)
class Status:
    """What is known at `now`. Ages are None when there is nothing to be old. `last` and
    `last_good` are the newest ended run of each job and the newest that succeeded."""

    now: datetime
    objective: ObjectiveConfig
    scheduled: tuple[JobName, ...]
    last: dict[JobName, Run]
    last_good: dict[JobName, Run]
    running: tuple[Run, ...]
    links: tuple[LinkState, ...]
    failures: dict[tuple[str, int | None], int]
    skipped: dict[str, int]

    @property
    def backup(self) -> Run | None:
        """The newest good backup."""
        return self.last_good.get("backup")

    @property
    def drill(self) -> Run | None:
        """The newest passed drill."""
        return self.last_good.get("drill")

    @property
    def watermark_at(self) -> datetime | None:
        """The instant that the newest good backup brings back."""
        return watermark(self.backup) if self.backup else None

    @property
    def rpo_seconds(self) -> float | None:
        """What would be lost now: the age of the newest good backup's watermark."""
        at = self.watermark_at
        return (self.now - at).total_seconds() if at else None

    @property
    def rto_seconds(self) -> float | None:
        """How long the newest passed drill took to restore."""
        if self.drill is None:
            return None
        found = self.drill.document.get("rto_seconds")
        return float(found) if isinstance(found, int | float) else self.drill.seconds

    @property
    def problems(self) -> list[str]:
        """Why the pair is not protected, for people; empty when it is."""
        found: list[str] = []
        rpo = self.rpo_seconds
        if rpo is None:
            found.append("there is no good backup yet")
        elif rpo > self.objective.backup_age:
            found.append("the newest good backup is older than the objective")
        if "drill" in self.scheduled and self._drill_age() > self.objective.drill_age:
            found.append("no drill has passed for longer than the objective")
        found += [
            f"the last {job} failed: {run.outcome}" for job, run in self.last.items() if not run.ok
        ]
        found += [f"link {link.name} has drift" for link in self.links if not link.clean]
        return found

    @property
    def protected(self) -> bool:
        return not self.problems

    def _drill_age(self) -> float:
        if self.drill is None or self.drill.ended is None:
            return float("inf")
        return (self.now - self.drill.ended).total_seconds()


def watermark(run: Run) -> datetime | None:
    """The watermark of a backup that a run made."""
    mark = run.document.get("watermark")
    at = mark.get("at") if isinstance(mark, dict) else None
    try:
        return datetime.fromisoformat(str(at)) if at else run.started
    except ValueError:
        return run.started


def read_status(
    history: History, schedule: ScheduleConfig, objective: ObjectiveConfig, now: datetime
) -> Status:
    """The status out of the job history."""
    last = {job: run for job in JOBS for run in history.last(job)}
    scheduled = tuple(job for job in JOBS if getattr(schedule, job))
    return Status(
        now=now,
        objective=objective,
        scheduled=scheduled,
        last=last,
        last_good={job: run for job in JOBS for run in history.last(job, ok=True)},
        running=tuple(history.running()),
        links=tuple(_links(last.get("reconcile"))),
        failures=history.failures(),
        skipped=history.skipped(),
    )


DRIFT = (
    "missing",
    "orphans",
    "stale",
    "ahead",
    "not_live",
    "wrong_count",
    "duplicates",
    "no_reference",
)


def _links(run: Run | None) -> list[LinkState]:
    found = run.document.get("links") if run else None
    if run is None or not isinstance(found, list):
        return []
    return [
        LinkState(
            name=str(link.get("name", "")),
            rows=int(link.get("rows", 0)),
            points=int(link.get("points", 0)),
            drift={kind: int(link.get(kind, 0)) for kind in DRIFT},
            at=run.ended or run.started,
        )
        for link in found
        if isinstance(link, dict)
    ]
