"""One child process of a job: its output goes to files, so that nothing it leaves can block.

A pipe stays open as long as any grandchild holds it, and fills the daemon's memory; a file does
neither.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import BinaryIO

STDERR_TAIL = 2_000
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended: exit code (128 + signal when one ended it), stdout, the end of stderr."""

    code: int
    out: bytes
    err: bytes


class Child:
    """A running command in a session of its own: a Ctrl-C meant for the daemon must not reach
    it, and all that it started can be killed with it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._stopped = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end; commands leave everything resumable."""
        self._stopped = True
        self._process.terminate()

    def kill(self) -> None:
        """End it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, timeout: float | None) -> tuple[int, str]:
        """Exit code and a complaint about the way it ended, if there is one."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            return 1, f"it took longer than {timeout:g} s"
        if code >= 0:
            return code, ""
        if self._stopped and -code == signal.SIGTERM:
            return INTERRUPTED, "it was stopped before it could say more"
        return 128 - code, f"it was ended by signal {-code}"


def run(
    line: Sequence[str],
    environment: Mapping[str, str],
    timeout: float | None,
    started: Callable[[Child], None],
) -> Ending:
    """Run a command to its end. `started` is given the child before it is waited for. A command
    that cannot be started at all ends with code 1."""
    with TemporaryFile() as out, TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                list(line),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            return Ending(1, b"", f"{line[0]} could not be started: {error}".encode())
        child = Child(process)
        try:
            started(child)
            code, complaint = child.wait(timeout)
        except BaseException:
            child.kill()
            process.wait()
            raise
        return Ending(code, _end_of(out), _end_of(err, STDERR_TAIL) + f"\n{complaint}".encode())


def _end_of(file: BinaryIO, most: int = 0) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - most) if most else 0)
    return file.read()
