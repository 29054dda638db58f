"""Progress and notes on stderr: one log line a step, or nothing (bars are in `vbackup.bars`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vbackup.logs import FIELDS
from vbackup.ports import Clock, Step

LOGGER = "vbackup"


class SilentReporter:
    """Says nothing; warnings are kept in `warnings` for who wants to show them."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, object]]] = []

    @contextmanager
    def step(
        self,
        name: str,  # noqa: ARG002 - the port's signature
        *,
        total: int | None = None,  # noqa: ARG002
        unit: str = "bytes",  # noqa: ARG002
    ) -> Iterator[Step]:
        yield Counter()

    def note(self, event: str, **fields: object) -> None:
        """Nothing to say."""

    def warn(self, event: str, **fields: object) -> None:
        self.warnings.append((event, fields))


class LogReporter:
    """One log line when a step ends, with what it did and how long it took."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._log = logging.getLogger(LOGGER)

    @contextmanager
    def step(self, name: str, *, total: int | None = None, unit: str = "bytes") -> Iterator[Step]:
        counter = Counter()
        started = self._clock.monotonic()
        self._say(logging.DEBUG, f"{name} started", total=total, unit=unit)
        try:
            yield counter
        except BaseException as error:
            self._say(logging.ERROR, f"{name} failed", error=str(error) or type(error).__name__)
            raise
        seconds = self._clock.monotonic() - started
        fields: dict[str, object] = {"seconds": round(seconds, 3)}
        if counter.done:
            fields[unit] = counter.done
        self._say(logging.INFO, name, **fields)

    def note(self, event: str, **fields: object) -> None:
        self._say(logging.INFO, event, **fields)

    def warn(self, event: str, **fields: object) -> None:
        self._say(logging.WARNING, event, **fields)

    def _say(self, level: int, event: str, /, **fields: object) -> None:
        self._log.log(level, "%s", event, extra={FIELDS: fields})


class Counter:
    """Counts, for reporters that only say the sum."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0

    def advance(self, amount: int = 1) -> None:
        with self._lock:
            self.done += amount

    def detail(self, text: str) -> None:
        """Only a display shows what is being worked on."""
