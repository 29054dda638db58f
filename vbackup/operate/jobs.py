"""Runs one job: hooks around it, the command itself in a child process, its result noted.

A job is the very command that a person would type, with --json. A child process leaks nothing
into a daemon that runs for years, can be stopped like any command, and reads the configuration
as it is now.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vbackup.config import HooksConfig, ScheduleConfig
from vbackup.operate.history import History, JobName, Run
from vbackup.ports import Clock, Reporter
from vbackup.redact import scrub

STDERR_TAIL = 2_000


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
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, job: JobName) -> Run:
        """Run the job to its end. Never raises for a job that fails: the run says so."""
        started = self._clock.now()
        number = self._history.begin(job, started)
        run = Run(number, job, started)
        self._reporter.note("job starts", job=job)
        code, document = self._hook("before", self._hooks.before, run)
        if code == 0:
            code, document = self._command(job)
        run = replace(run, ended=self._clock.now(), code=code, document=document)
        self._history.end(number, run.ended or started, code, document)
        self._hook("after", self._hooks.after, run)
        self._tell(run)
        self._finished(run)
        return run

    def stop(self) -> None:
        """Ask running commands to stop; they leave everything resumable and exit with 130."""
        with self._lock:
            self._stopping = True
            for child in self._children.values():
                child.terminate()

    def busy(self) -> bool:
        """Whether a command is running."""
        with self._lock:
            return bool(self._children)

    def _command(self, job: JobName) -> tuple[int, dict[str, Any]]:
        line = [
            *self._program,
            "--json",
            "--config",
            str(self._config_path),
            *arguments(job, self._schedule),
        ]
        code, out, err = self._child(line, dict(os.environ), None)
        return code, _document(out, err)

    def _hook(self, when: str, command: str | None, run: Run) -> tuple[int, dict[str, Any]]:
        """A hook's failure before a job is the job's failure; after it, a warning."""
        if not command:
            return 0, {}
        environment = {**os.environ, **hook_environment(when, run)}
        line = ["/bin/sh", "-c", command]
        code, _, err = self._child(line, environment, self._hooks.timeout)
        if code == 0:
            return 0, {}
        tail = _tail(err)
        if when == "after":
            self._reporter.warn(
                "the hook after the job failed", job=run.job, code=code, output=tail
            )
        message = f"the hook before {run.job} failed with exit code {code}: {tail}"
        return 1, {"ok": False, "error": {"code": 1, "name": "failed", "message": message}}

    def _child(
        self, line: list[str], environment: Mapping[str, str], timeout: float | None
    ) -> tuple[int, bytes, bytes]:
        with self._lock:
            if self._stopping:
                return 130, b"", b"stopped before it began"
            child = subprocess.Popen(
                line,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # A Ctrl-C meant for the daemon must not reach the job: the daemon decides.
                start_new_session=True,
            )
            self._children[child.pid] = child
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            err += f"\nit took longer than {timeout:g} s".encode()
        finally:
            with self._lock:
                del self._children[child.pid]
        code = child.returncode
        return (code if code >= 0 else 128 - code), out, err

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


def _document(out: bytes, err: bytes) -> dict[str, Any]:
    """The command's JSON; a command that died without one is described by its last words."""
    try:
        found = json.loads(out)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    message = _tail(err) or "the command printed nothing"
    return {"ok": False, "error": {"code": 1, "name": "failed", "message": message}}


def _tail(text: bytes) -> str:
    lines = text[-STDERR_TAIL:].decode(errors="replace").strip().splitlines()
    return scrub(" | ".join(lines[-3:]))
