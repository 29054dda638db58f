"""Runs one job: hooks around it, the command itself in a child process, its result noted.

A job is the very command that a person would type, with --json. A child process leaks nothing
into a daemon that runs for years, can be stopped like any command, and reads the configuration
as it is now.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vbackup import incarnation
from vbackup.config import HooksConfig, ScheduleConfig
from vbackup.errors import VbackupError
from vbackup.operate import child
from vbackup.operate.child import INTERRUPTED, Child, Ending
from vbackup.operate.history import UNNOTED, History, JobName, Run, outcome
from vbackup.ports import Clock, Reporter
from vbackup.redact import scrub


def arguments(job: JobName, schedule: ScheduleConfig) -> list[str]:
    """The command line of a job, behind `vbackup --json`."""
    if job == "verify":
        sample = ["--sample", schedule.verify_sample] if schedule.verify_sample else []
        return ["verify", "latest", "--level", schedule.verify_level, *sample]
    if job == "drill":
        return ["verify", "latest", "--level", "drill"]
    return [job]


class JobRunner:
    """Runs jobs, one after the other per calling thread. `finished` hears of every run that
    ended; `program` is the command that a job's arguments are put behind."""

    def __init__(
        self,
        config_path: Path,
        schedule: ScheduleConfig,
        hooks: HooksConfig,
        history: History,
        clock: Clock,
        reporter: Reporter,
        finished: Callable[[Run], None],
        program: Sequence[str] = (sys.executable, "-m", "vbackup"),
    ) -> None:
        self._config_path = config_path
        self._schedule = schedule
        self._hooks = hooks
        self._history = history
        self._clock = clock
        self._reporter = reporter
        self._finished = finished
        self._program = tuple(program)
        self._children: dict[int, Child] = {}
        self._runs = 0
        # Reentrant: `stop` may be called by a signal handler.
        self._lock = threading.RLock()
        self._stopping = False

    def run(self, job: JobName) -> Run:
        """Run the job to its end. Never raises for a job that fails: the run says so. A history
        that cannot be written costs the timeline, not the backup: the run says that too."""
        with self._lock:
            self._runs += 1
        try:
            return self._run(job)
        finally:
            with self._lock:
                self._runs -= 1

    def _run(self, job: JobName) -> Run:
        started = self._clock.now()
        run = self._note_start(Run(UNNOTED, job, started))
        self._reporter.note("job starts", job=job)
        code, document = self._before(run)
        if code == 0:
            code, document = self._command(run)
        run = replace(run, ended=self._clock.now(), code=code, document=document)
        run = self._note_end(run)
        self._after(run)
        self._tell(run)
        try:
            self._finished(run)
        # A notification or a metrics file never undoes a job, whatever is wrong with it.
        except Exception as error:  # noqa: BLE001
            self._reporter.warn("what follows the job failed", job=job, reason=scrub(f"{error!r}"))
        return run

    def _note_start(self, run: Run) -> Run:
        try:
            return replace(run, id=self._history.begin(run.job, run.started))
        except VbackupError as error:
            self._reporter.warn(
                "the start of the job is not noted", job=run.job, reason=error.message
            )
            return run

    def _note_work(self, run: Run, mark: str) -> None:
        if run.id == UNNOTED:
            return
        try:
            self._history.working(run.id, mark)
        except VbackupError as error:
            self._reporter.warn("the command is not noted", job=run.job, reason=error.message)

    def _note_end(self, run: Run) -> Run:
        """The history may take at the end what it did not take at the start."""
        try:
            if run.id == UNNOTED:
                run = replace(run, id=self._history.begin(run.job, run.started))
            self._history.end(run.id, run.ended or run.started, run.code or 0, run.document)
        except VbackupError as error:
            self._reporter.warn(
                "the end of the job is not noted", job=run.job, reason=error.message
            )
            return replace(run, unnoted=error.message)
        return run

    def stop(self) -> None:
        """Ask running commands to stop; they leave everything resumable and exit with 130.
        Hooks after a job still run: they undo what the hooks before it did."""
        with self._lock:
            self._stopping = True
            for each in self._children.values():
                each.stop()

    def kill(self) -> None:
        """End commands that do not stop."""
        with self._lock:
            for each in self._children.values():
                each.kill()

    def busy(self) -> bool:
        """Whether a job is running, its hooks and notifications included."""
        with self._lock:
            return self._runs > 0

    def _command(self, run: Run) -> tuple[int, dict[str, Any]]:
        line = [
            *self._program,
            "--json",
            "--config",
            str(self._config_path),
            *arguments(run.job, self._schedule),
        ]
        ending = self._child(line, dict(os.environ), None, run)
        return ending.code, _document(ending)

    def _before(self, run: Run) -> tuple[int, dict[str, Any]]:
        """A hook's failure before a job is the job's failure."""
        if not self._hooks.before:
            return 0, {}
        environment = {**os.environ, **hook_environment("before", run)}
        line = ["/bin/sh", "-c", self._hooks.before]
        ending = self._child(line, environment, self._hooks.timeout, run)
        if ending.code == INTERRUPTED:
            return ending.code, _document(ending)
        message = (
            f"the hook before {run.job} failed with exit code {ending.code}: {_tail(ending.err)}"
        )
        error = {"code": 1, "name": "failed", "message": message}
        return int(ending.code != 0), {"ok": False, "error": error}

    def _after(self, run: Run) -> None:
        """A hook's failure after a job is a warning."""
        if not self._hooks.after:
            return
        environment = {**os.environ, **hook_environment("after", run)}
        line = ["/bin/sh", "-c", self._hooks.after]
        ending = child.run(line, environment, self._hooks.timeout, lambda _: None)
        if ending.code != 0:
            self._reporter.warn(
                "the hook after the job failed",
                job=run.job,
                code=ending.code,
                output=_tail(ending.err),
            )

    def _child(
        self, line: list[str], environment: dict[str, str], timeout: float | None, run: Run
    ) -> Ending:
        thread = threading.get_ident()  # Runs that nobody noted all have the same id.

        def started(one: Child) -> None:
            with self._lock:
                self._children[thread] = one
                if self._stopping:
                    one.stop()
            self._note_work(run, incarnation.mark(one.pid))

        if self._stopping:
            return Ending(INTERRUPTED, b"", b"stopped before it began")
        try:
            return child.run(line, environment, timeout, started)
        except VbackupError as error:
            return Ending(1, b"", error.message.encode())
        finally:
            with self._lock:
                self._children.pop(thread, None)

    def _tell(self, run: Run) -> None:
        fields = {"job": run.job, "outcome": run.outcome, "seconds": round(run.seconds, 1)}
        if run.ok:
            self._reporter.note("job ended", **fields)
        else:
            self._reporter.warn("job failed", **fields, error=run.error)


def hook_environment(when: str, run: Run) -> dict[str, str]:
    """What a hook is told: VBACKUP_HOOK, VBACKUP_JOB, and after the job its result."""
    found = {"VBACKUP_HOOK": when, "VBACKUP_JOB": run.job}
    if run.code is not None:
        found |= {
            "VBACKUP_EXIT_CODE": str(run.code),
            "VBACKUP_OUTCOME": run.outcome,
            "VBACKUP_SECONDS": f"{run.seconds:.1f}",
            "VBACKUP_ID": str(run.document.get("id", "")),
            "VBACKUP_ERROR": run.error,
        }
    return found


def _document(ending: Ending) -> dict[str, Any]:
    """The command's JSON; a command that died without one is described by its last words."""
    try:
        found = json.loads(ending.out)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    message = _tail(ending.err) or "the command printed nothing"
    error = {"code": ending.code, "name": outcome(ending.code), "message": message}
    return {"ok": False, "error": error}


def _tail(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return scrub(" | ".join(lines[-3:]))
