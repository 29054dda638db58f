"""What the scheduled jobs did: one SQLite file, so that restarts forget nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from vbackup.errors import EXIT_CODES, Failed

KEPT = timedelta(days=400)
JobName = Literal["backup", "verify", "drill", "reconcile", "prune"]
JOBS: tuple[JobName, ...] = ("backup", "verify", "drill", "reconcile", "prune")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, started REAL NOT NULL, ended REAL,
    code INTEGER, document TEXT NOT NULL DEFAULT '{}');
CREATE INDEX IF NOT EXISTS run_job ON run (job, started);
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job. `code` is the exit code, None while it runs or when it was cut off;
    `document` is what the command printed with --json."""

    id: int
    job: JobName
    started: datetime
    ended: datetime | None = None
    code: int | None = None
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def seconds(self) -> float:
        return (self.ended - self.started).total_seconds() if self.ended else 0.0

    @property
    def outcome(self) -> str:
        """The name of the exit code; `running`, or `cut off` when nobody saw it end."""
        return "running" if self.ended is None else outcome(self.code)

    @property
    def error(self) -> str:
        """What went wrong, in one line; empty when nothing did."""
        error = self.document.get("error")
        return str(error.get("message", "")) if isinstance(error, dict) else ""


def outcome(code: int | None) -> str:
    """What an ended run came to, in the words of the exit codes."""
    if code is None:
        return "cut off"
    return EXIT_CODES.get(code, (f"exit {code}", ""))[0]


class History:
    """The file. Thread-safe; every call opens it anew, so that nothing is held between jobs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as db:
                db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise Failed(
                f"the job history {path} cannot be used: {error}",
                hint="set schedule.state_dir to a directory that vbackup may write",
            ) from error

    def begin(self, job: JobName, at: datetime) -> int:
        """Note that a job starts; returns the run's id."""
        with self._open() as db:
            cursor = db.execute(
                "INSERT INTO run (job, started) VALUES (?, ?)", (job, at.timestamp())
            )
            db.execute("DELETE FROM run WHERE started < ?", ((at - KEPT).timestamp(),))
            return int(cursor.lastrowid or 0)

    def end(self, run: int, at: datetime, code: int, document: dict[str, Any]) -> None:
        """Note how a run ended."""
        with self._open() as db:
            db.execute(
                "UPDATE run SET ended = ?, code = ?, document = ? WHERE id = ?",
                (at.timestamp(), code, json.dumps(document), run),
            )

    def close_open(self, at: datetime) -> int:
        """After a crash: mark runs that nobody saw end as cut off; how many there were."""
        with self._open() as db:
            return db.execute(
                "UPDATE run SET ended = ? WHERE ended IS NULL", (at.timestamp(),)
            ).rowcount

    def runs(self, since: datetime, job: JobName | None = None) -> list[Run]:
        """Runs since a moment, oldest first."""
        return self._select(
            "started >= ? AND (? IS NULL OR job = ?) ORDER BY started, id",
            (since.timestamp(), job, job),
        )

    def last(self, job: JobName, *, ok: bool = False) -> Run | None:
        """The newest ended run of a job; with `ok`, the newest that succeeded."""
        condition = "code = 0" if ok else "ended IS NOT NULL"
        found = self._select(
            f"job = ? AND {condition} ORDER BY started DESC, id DESC LIMIT 1", (job,)
        )
        return found[0] if found else None

    def failures(self) -> dict[tuple[str, int | None], int]:
        """How many ended runs did not succeed, by job and exit code (None: cut off)."""
        with self._open() as db:
            rows = db.execute(
                "SELECT job, code, count(*) FROM run WHERE ended IS NOT NULL"
                " AND code IS NOT 0 GROUP BY job, code"
            )
            return {(job, code): count for job, code, count in rows}

    def running(self) -> list[Run]:
        """Runs that have not ended."""
        return self._select("ended IS NULL ORDER BY started", ())

    def _select(self, condition: str, values: Sequence[object]) -> list[Run]:
        query = f"SELECT id, job, started, ended, code, document FROM run WHERE {condition}"  # noqa: S608 - conditions are literals of this module
        with self._open() as db:
            return [_run(row) for row in db.execute(query, tuple(values))]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock, closing(sqlite3.connect(self._path, timeout=30)) as db, db:
            yield db


def _run(row: tuple[Any, ...]) -> Run:
    number, job, started, ended, code, document = row
    return Run(
        id=number,
        job=job,
        started=datetime.fromtimestamp(started, UTC),
        ended=datetime.fromtimestamp(ended, UTC) if ended is not None else None,
        code=code,
        document=json.loads(document),
    )
