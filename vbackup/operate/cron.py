"""Cron expressions as an APScheduler trigger.

APScheduler's own `from_crontab` reads the day of the week as 0 = Monday and fires at times that
daylight saving skips; cronsim follows Debian's cron in both.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

from vbackup.errors import Usage


def check_cron(expression: str) -> str:
    """The expression. Raises Usage when it is none."""
    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise Usage(
            f"not a cron expression: {expression!r} ({error})",
            hint='five fields: minute hour day month weekday, such as "15 * * * *"',
        ) from error
    return expression


def zone(name: str) -> ZoneInfo:
    """The time zone. Raises Usage."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise Usage(
            f"no such time zone: {name!r}", hint='write "UTC" or a name such as "Europe/Berlin"'
        ) from error


def next_time(expression: str, after: datetime, place: ZoneInfo) -> datetime:
    """The first time of the expression after a moment, aware."""
    return next(CronSim(expression, after.astimezone(place)))


class CronTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler ships no annotations
    """Fires by a cron expression, up to `jitter` seconds late."""

    def __init__(self, expression: str, place: ZoneInfo, jitter: float) -> None:
        self._expression = check_cron(expression)
        self._place = place
        self._jitter = jitter

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """See APScheduler. The jitter never carries a fire time past the next one."""
        after = previous_fire_time or now
        planned = next_time(self._expression, after, self._place)
        if self._jitter <= 0:
            return planned
        room = next_time(self._expression, planned, self._place) - planned
        late = random.uniform(0, min(self._jitter, room.total_seconds() / 2))  # noqa: S311
        return planned + timedelta(seconds=late)
