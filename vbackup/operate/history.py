"""What the scheduled jobs did: one SQLite file, so that restarts forget nothing.

A run names the process that watches it (`owner`) and the command itself (`child`), so that a
later start can tell a run that goes on from one that nobody will see end.
"""

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

from vbackup import incarnation
from vbackup.errors import EXIT_CODES, Failed

KEPT = timedelta(days=400)
UNNOTED = 0
"""The id of a run that the history does not know."""

JobName = Literal["backup", "verify", "drill", "reconcile", "prune"]
JOBS: tuple[JobName, ...] = ("backup", "verify", "drill", "reconcile", "prune")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, started REAL NOT NULL, ended REAL,
    code INTEGER, document TEXT NOT NULL DEFAULT '{}', owner TEXT NOT NULL DEFAULT '',
    child TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS run_job ON run (job, started);
CREATE TABLE IF NOT EXISTS skip (job TEXT NOT NULL, at REAL NOT NULL);
"""
# What a list of runs shows of each; a merge patch leaves out what is null.
_BRIEF = """json_patch('{}', json_object(
    'id', json_extract(document, '$.id'), 'error', json_extract(document, '$.error'),
    'bytes_read', json_extract(document, '$.bytes_read'),
    'bytes_uploaded', json_extract(document, '$.bytes_uploaded')))"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job. `code` is the exit code, None while it runs or when it was cut off;
    `document` is what the command printed with --json. `unnoted` says why the history does not
    know how it ended; empty when it does."""

    id: int
    job: JobName
    started: datetime
    ended: datetime | None = None
    code: int | None = None
    document: dict[str, Any] = field(default_factory=dict)
    unnoted: str = ""

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
    other = f"signal {code - 128}" if code > 128 else f"exit {code}"
    return EXIT_CODES.get(code, (other, ""))[0]


class History:
    """The file. Thread-safe; every call opens it anew, so that nothing is held between jobs, and
    makes it where it is not. `owner` is the mark of the process whose runs these are. Every call
    raises Failed while the file cannot be used; making one of these does not: a schedule starts
    without its history."""

    def __init__(self, path: Path, owner: str | None = None) -> None:
        self._path = path
        self._owner = incarnation.mark() if owner is None else owner
        self._lock = threading.Lock()

    def begin(self, job: JobName, at: datetime) -> int:
        """Note that a job starts; returns the run's id."""
        with self._open() as db:
            # A run of this process that could not be noted when it ended: it has, jobs of a
            # kind never overlap here.
            db.execute(
                "UPDATE run SET ended = ? WHERE ended IS NULL AND job = ? AND owner = ?",
                (at.timestamp(), job, self._owner),
            )
            cursor = db.execute(
                "INSERT INTO run (job, started, owner) VALUES (?, ?, ?)",
                (job, at.timestamp(), self._owner),
            )
            oldest = (at - KEPT).timestamp()
            db.execute("DELETE FROM run WHERE started < ?", (oldest,))
            db.execute("DELETE FROM skip WHERE at < ?", (oldest,))
            return int(cursor.lastrowid or 0)

    def working(self, run: int, child: str) -> None:
        """Note the mark of the command that does a run's work."""
        with self._open() as db:
            db.execute("UPDATE run SET child = ? WHERE id = ?", (child, run))

    def end(self, run: int, at: datetime, code: int, document: dict[str, Any]) -> None:
        """Note how a run ended. Raises Failed where its start is not noted any more."""
        with self._open() as db:
            changed = db.execute(
                "UPDATE run SET ended = ?, code = ?, document = ? WHERE id = ?",
                (at.timestamp(), code, json.dumps(document), run),
            )
            if not changed.rowcount:
                raise Failed(f"{self._path} has lost run {run}: somebody has removed the file")

    def skip(self, job: JobName, at: datetime) -> None:
        """Note that a job was due and did not start: its last run still went on."""
        with self._open() as db:
            db.execute("INSERT INTO skip (job, at) VALUES (?, ?)", (job, at.timestamp()))

    def skipped(self) -> dict[str, int]:
        """How often each job did not start."""
        with self._open() as db:
            return dict(db.execute("SELECT job, count(*) FROM skip GROUP BY job").fetchall())

    def close_open(self, at: datetime) -> int:
        """After a crash: mark runs that nobody will see end as cut off; how many there were.
        Runs that a living process watches go on."""
        with self._open() as db:
            rows = db.execute("SELECT id, owner FROM run WHERE ended IS NULL").fetchall()
            lost = [number for number, owner in rows if not incarnation.pid_if_alive(owner)]
            for number in lost:
                db.execute("UPDATE run SET ended = ? WHERE id = ?", (at.timestamp(), number))
            return len(lost)

    def orphans(self) -> list[str]:
        """Marks of commands that still run although the process that watched them is gone."""
        with self._open() as db:
            rows = db.execute("SELECT owner, child FROM run WHERE child != '' AND code IS NULL")
            return [
                child
                for owner, child in rows.fetchall()
                if not incarnation.pid_if_alive(owner) and incarnation.pid_if_alive(child)
            ]

    def runs(self, since: datetime, job: JobName | None = None) -> list[Run]:
        """Runs since a moment, oldest first; of their documents only what lists show."""
        return self._select(
            "started >= ? AND (? IS NULL OR job = ?) ORDER BY started, id",
            (since.timestamp(), job, job),
            document=_BRIEF,
        )

    def last(self, job: JobName, *, ok: bool = False, count: int = 1) -> list[Run]:
        """The newest ended runs of a job, newest first; with `ok`, those that succeeded."""
        condition = "code = 0" if ok else "ended IS NOT NULL"
        return self._select(
            f"job = ? AND {condition} ORDER BY started DESC, id DESC LIMIT ?", (job, count)
        )

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

    def _select(
        self, condition: str, values: Sequence[object], *, document: str = "document"
    ) -> list[Run]:
        query = f"SELECT id, job, started, ended, code, {document} FROM run WHERE {condition}"  # noqa: S608 - both are literals of this module
        with self._open() as db:
            return [_run(row) for row in db.execute(query, tuple(values))]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            with self._lock, closing(sqlite3.connect(self._path, timeout=30)) as db, db:
                db.executescript(_SCHEMA)
                yield db
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> Failed:
        return Failed(
            f"the job history {self._path} cannot be used: {error}",
            hint="set schedule.state_dir to a directory that vbackup may write",
        )


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
