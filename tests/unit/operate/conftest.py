"""A job history, a status out of it, and a program that stands for vbackup's commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vbackup.config import HooksConfig, ScheduleConfig
from vbackup.operate.history import History, Run
from vbackup.operate.jobs import JobRunner

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)

# Prints the document that $ANSWER names and ends with $CODE; waits for a signal when told to.
PROGRAM = """
import os, signal, sys, time
if os.environ.get("WAIT"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    open(os.environ["WAIT"], "w").close()
    while True: time.sleep(60)
if os.environ.get("SEEN"):
    open(os.environ["SEEN"], "a").write(" ".join(sys.argv[1:]) + "\\n")
sys.stdout.write(os.environ.get("ANSWER", "{}"))
sys.stderr.write(os.environ.get("COMPLAINT", ""))
sys.stdout.flush()
if os.environ.get("ENDED_BY"):
    os.kill(os.getpid(), int(os.environ["ENDED_BY"]))
sys.exit(int(os.environ.get("CODE", "0")))
"""


class FixedClock:
    """Moves only when it is told to, or when somebody sleeps."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Notes:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.warnings: list[tuple[str, dict[str, object]]] = []

    def step(self, name: str, **_: Any) -> Any:
        raise NotImplementedError

    def note(self, event: str, **fields: object) -> None:
        self.notes.append((event, fields))

    def warn(self, event: str, **fields: object) -> None:
        self.warnings.append((event, fields))


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "state" / "history.sqlite")


@pytest.fixture
def ended() -> list[Run]:
    return []


@pytest.fixture
def make_runner(
    tmp_path: Path, history: History, clock: FixedClock, notes: Notes, ended: list[Run]
) -> Callable[..., JobRunner]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def make(hooks: HooksConfig | None = None, schedule: ScheduleConfig | None = None) -> JobRunner:
        return JobRunner(
            tmp_path / "vbackup.toml",
            schedule or ScheduleConfig(),
            hooks or HooksConfig(),
            history,
            clock,
            notes,
            ended.append,
            program=(sys.executable, str(program)),
        )

    return make
