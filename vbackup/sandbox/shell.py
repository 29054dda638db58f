"""Run a command of the user's, with all the processes that it starts, for a limited time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from vbackup.errors import Failed

_TAIL = 2_000


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended: `code` None when it took too long; the end of what it said."""

    code: int | None
    said: str


def run(command: str, environment: Mapping[str, str], timeout: float) -> Ran:
    """Run by `/bin/sh -c`, `environment` added to this process's own. Raises Failed when there
    is no shell. Whatever happens, nothing that it started in its session stays."""
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                ["/bin/sh", "-c", command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"/bin/sh could not be started: {error.strerror}") from error
        try:
            code: int | None = child.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
        output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL))
        return Ran(code, output.read().decode("utf-8", "replace").strip())


def _end(child: subprocess.Popen[bytes]) -> None:
    """The command leads a process group: its children go with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
