"""Cron expressions mean what they mean to cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vbackup.errors import Usage
from vbackup.operate.cron import CronTrigger, check_cron, next_time, zone

BERLIN = zone("Europe/Berlin")


def test_sunday_is_sunday() -> None:
    assert next_time("15 2 * * 0", datetime(2026, 3, 2, tzinfo=UTC), zone("UTC")).weekday() == 6


def test_a_time_that_daylight_saving_skips_comes_right_after() -> None:
    before = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert next_time("30 2 * * *", before, BERLIN).astimezone(UTC).hour == 1


@pytest.mark.parametrize("expression", ["", "* * * *", "61 * * * *", "nightly"])
def test_what_is_no_expression_is_said(expression: str) -> None:
    with pytest.raises(Usage, match="not a cron expression"):
        check_cron(expression)


def test_unknown_zones_are_said() -> None:
    with pytest.raises(Usage, match="no such time zone"):
        zone("Mars/Base")


def test_jitter_delays_but_never_past_the_next_time() -> None:
    trigger = CronTrigger("* * * * *", zone("UTC"), jitter=600)
    now = datetime(2026, 3, 2, 10, 0, 30, tzinfo=UTC)
    times = [trigger.get_next_fire_time(None, now) for _ in range(200)]
    planned = datetime(2026, 3, 2, 10, 1, tzinfo=UTC)
    assert all(planned <= at <= planned + timedelta(seconds=30) for at in times if at)
    assert len(set(times)) > 100
