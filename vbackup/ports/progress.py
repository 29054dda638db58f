"""Time and progress, injected so that tests and front ends own them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Time, injected so that tests own it."""

    def now(self) -> datetime:
        """The current time, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Step(Protocol):
    """One running step of an operation."""

    def advance(self, amount: int = 1) -> None:
        """Add to what is done, in the step's unit. Thread-safe."""
        ...

    def detail(self, text: str) -> None:
        """Say what is being worked on now."""
        ...


class Reporter(Protocol):
    """Progress and notes for a person or a log; never results."""

    def step(
        self, name: str, *, total: int | None = None, unit: str = "bytes"
    ) -> AbstractContextManager[Step]:
        """A step that ends with the context; `total` may be an estimate."""
        ...

    def note(self, event: str, **fields: object) -> None: ...

    def warn(self, event: str, **fields: object) -> None:
        """A warning. It never changes the exit code."""
        ...
