"""What `check` can tell of the configuration alone: the schedule, and who may read secrets."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from vbackup import redact
from vbackup.cli.linkcheck import Attention
from vbackup.errors import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from vbackup.config import ScheduleConfig
    from vbackup.settings import Settings

JOBS = ("backup", "verify", "drill", "reconcile", "prune")


def scheduled(schedule: ScheduleConfig) -> str:
    """The jobs that have a time. Raises Usage for what the daemon would not start with."""
    from vbackup.operate.cron import check_cron, zone
    from vbackup.operate.web import split_listen

    asked = {job: getattr(schedule, job) for job in JOBS}
    for job, expression in asked.items():
        if expression is None:
            continue
        try:
            check_cron(expression)
        except Usage as error:
            raise Usage(f"schedule.{job}: {error.message}", hint=error.hint) from error
    zone(schedule.timezone)
    split_listen(schedule.listen)
    return ", ".join(f"{job} {cron}" for job, cron in asked.items() if cron) or "no job has a time"


def guarded(settings: Settings) -> str:
    """Raises Attention for a file with a secret that everybody on this machine may read."""
    files = [path for path in _secret_files(settings) if _read_by_all(path)]
    if files:
        names = " ".join(map(str, files))
        raise Attention(f"everybody on this machine may read {names}", f"chmod 600 {names}")
    return "nobody else may read them"


def _secret_files(settings: Settings) -> list[Path]:
    """The passphrase's file, and the configuration when a secret stands in it."""
    found = [settings.config.repository.passphrase_file]
    if any(redact.MASK in origin.value and origin.source == "file" for origin in settings.origins):
        found.append(settings.path.absolute())
    return [path for path in found if path is not None]


def _read_by_all(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # whoever needs it says so
