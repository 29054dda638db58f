"""Times have one spelling and always a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from vbackup.clock import SystemClock, format_time, parse_time
from vbackup.ports import Clock


def test_system_clock_is_a_clock_in_utc() -> None:
    clock: Clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    before = clock.monotonic()
    clock.sleep(-1)
    assert clock.monotonic() >= before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T01:40:00Z", "2026-11-23T01:40:00Z"),
        (" 2026-11-23T01:40:00.123456Z ", "2026-11-23T01:40:00.123456Z"),
        ("2026-11-23T03:40:00+02:00", "2026-11-23T01:40:00Z"),
        ("2026-11-23 01:40", "2026-11-23T01:40:00Z"),
        ("2026-11-23", "2026-11-23T00:00:00Z"),
    ],
)
def test_parse_and_format(text: str, expected: str) -> None:
    assert format_time(parse_time(text)) == expected


def test_format_converts_to_utc() -> None:
    at = datetime(2026, 11, 23, 1, tzinfo=timezone(timedelta(hours=-5)))
    assert format_time(at) == "2026-11-23T06:00:00Z"
    assert parse_time(format_time(at)) == at.astimezone(UTC)


def test_naive_and_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        format_time(datetime(2026, 11, 23))  # noqa: DTZ001 - a naive time is what is refused
    with pytest.raises(ValueError, match="not a time"):
        parse_time("yesterday")
