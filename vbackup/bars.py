"""Progress and notes on a terminal: bars with amount, rate and ETA."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vbackup import redact
from vbackup.ports import Clock, Step
from vbackup.progress import Counter
from vbackup.quantity import amount, duration, rate


class TerminalReporter:
    """A bar with amount, rate and ETA for every running step; a line for every finished one."""

    def __init__(self, clock: Clock, console: Console | None = None) -> None:
        self._clock = clock
        self._console = console or Console(stderr=True, highlight=False)
        self._lock = threading.Lock()
        self._running = 0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            AmountColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=self._console,
            transient=True,
        )

    @contextmanager
    def step(self, name: str, *, total: int | None = None, unit: str = "bytes") -> Iterator[Step]:
        started = self._clock.monotonic()
        task = self._begin(name, total, unit)
        bar = _Bar(self._progress, task)
        try:
            yield bar
        except BaseException:
            self._end(task, Text.assemble(("✗ ", "red"), name))
            raise
        done = amount(bar.done, unit) if bar.done else ""
        took = duration(self._clock.monotonic() - started)
        self._end(task, Text.assemble(("✓ ", "green"), f"{name}  ", (f"{done}  {took}", "dim")))

    def note(self, event: str, **fields: object) -> None:
        self._console.print(_line("· ", "cyan", event, fields))

    def warn(self, event: str, **fields: object) -> None:
        self._console.print(_line("! ", "yellow", event, fields))

    def _begin(self, name: str, total: int | None, unit: str) -> TaskID:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._progress.start()
            # Nobody knows a total of 0: it is an estimate that found nothing to go by.
            return self._progress.add_task(name, total=total or None, unit=unit, detail="")

    def _end(self, task: TaskID, line: Text) -> None:
        with self._lock:
            self._progress.remove_task(task)
            self._console.print(line)
            self._running -= 1
            if self._running == 0:
                self._progress.stop()


class _Bar(Counter):
    """Counts into a task of a progress display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        super().__init__()
        self._progress = progress
        self._task = task

    def advance(self, amount: int = 1) -> None:
        super().advance(amount)
        self._progress.advance(self._task, amount)

    def detail(self, text: str) -> None:
        self._progress.update(self._task, detail=redact.scrub(text))


class AmountColumn(ProgressColumn):
    """`1.2 GiB of 3.0 GiB, 85 MiB/s` in the step's own unit."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        if not task.completed and task.total is None:
            return Text("")
        text = amount(int(task.completed), unit)
        # Totals are estimates: one that has been passed says nothing any more.
        if task.total is not None and task.total >= task.completed:
            text += f" of {amount(int(task.total), unit)}"
        speed = task.finished_speed or task.speed
        return Text(f"{text}, {rate(speed, unit)}" if speed else text, style="cyan")


def _line(mark: str, style: str, event: str, fields: dict[str, Any]) -> Text:
    said = "  ".join(f"{name}={value}" for name, value in fields.items())
    return Text.assemble((mark, style), redact.scrub(f"{event}  {said}".rstrip()))
