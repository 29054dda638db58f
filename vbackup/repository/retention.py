"""Which backups a retention policy keeps, each with its reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vbackup.config import RetentionConfig
from vbackup.model.manifest import BackupSummary

LAST_GOOD = "last good backup"
"""Why the newest of a set that was not found bad is kept in any case."""

_PERIODS: tuple[tuple[str, Callable[[datetime], str]], ...] = (
    ("hourly", lambda at: at.strftime("%Y-%m-%d %H")),
    ("daily", lambda at: at.strftime("%Y-%m-%d")),
    ("weekly", lambda at: at.strftime("%G-W%V")),
    ("monthly", lambda at: at.strftime("%Y-%m")),
    ("yearly", lambda at: at.strftime("%Y")),
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one backup, and why; a backup without a reason to keep it goes."""

    backup: BackupSummary
    keep: bool
    reasons: tuple[str, ...]


def decide(backups: Sequence[BackupSummary], policy: RetentionConfig) -> list[Decision]:
    """The policy applied to each set of backups with equal tags, newest first; periods in UTC.

    Always kept: pinned backups, unreadable ones (nobody knows what they hold), and in each set
    the newest one that no verification found bad. A bad one takes no good one's place.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for members in _by_tags(backups).values():
        readable = [backup for backup in members if not backup.unreadable]
        good = [backup for backup in readable if backup.verified is None or backup.verified.ok]
        for chosen in (good, readable) if good != readable else (good,):
            for backup, reason in _kept(chosen, policy):
                if reason not in reasons[backup.id]:
                    reasons[backup.id].append(reason)
        if good:
            reasons[good[0].id].append(LAST_GOOD)
    return [_decision(backup, reasons[backup.id]) for backup in backups]


def _by_tags(
    backups: Sequence[BackupSummary],
) -> dict[frozenset[tuple[str, str]], list[BackupSummary]]:
    sets: dict[frozenset[tuple[str, str]], list[BackupSummary]] = defaultdict(list)
    for backup in sorted(backups, key=lambda backup: (backup.at, backup.id), reverse=True):
        sets[frozenset(backup.tags.items())].append(backup)
    return sets


def _kept(
    backups: Sequence[BackupSummary], policy: RetentionConfig
) -> list[tuple[BackupSummary, str]]:
    """Backups, newest first, and the rules that keep them."""
    if policy.keeps_all:
        return [(backup, "no policy") for backup in backups]
    kept = [(backup, "last") for backup in backups[: policy.keep_last]]
    for name, period in _PERIODS:
        limit: int = getattr(policy, f"keep_{name}")
        newest: dict[str, BackupSummary] = {}
        for backup in backups:
            newest.setdefault(period(backup.at.astimezone(UTC)), backup)
        kept += [(backup, f"{name} {label}") for label, backup in list(newest.items())[:limit]]
    return kept


def _decision(backup: BackupSummary, reasons: Sequence[str]) -> Decision:
    always = []
    if backup.pinned:
        always.append("pinned")
    if backup.unreadable:
        always.append("unreadable")
    found = (*always, *reasons)
    return Decision(backup, bool(found), found or ("no rule keeps it",))
