"""The one real clock, and the one spelling of times: RFC 3339 in UTC, with Z."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """`vbackup.ports.Clock` of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


def format_time(at: datetime) -> str:
    """`2026-11-23T01:40:00Z`; with microseconds when there are any.

    Raises ValueError for a naive time: nobody knows which instant that is.
    """
    if at.tzinfo is None:
        raise ValueError(f"a time without a zone: {at.isoformat()}")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    """An aware UTC time out of RFC 3339 or ISO 8601 text; without an offset it is UTC.

    Raises ValueError.
    """
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"not a time: {text!r} (write 2026-11-23T01:40:00Z)") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
