"""Wait until a server serves; when it does not, say why with the end of its log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vbackup.errors import Failed
from vbackup.sandbox.loopback import request
from vbackup.sandbox.process import ServerProcess, exit_text, stop

TIMEOUT = 60.0
_POLL = 0.02


def is_ready(process: ServerProcess) -> bool:
    """Asks the server itself, as its launch says how."""
    sign = process.launch.ready
    if sign.startswith("http://"):
        return request(sign)[0] == 200
    return _postmaster_is_ready(Path(sign), process.pid)


def _postmaster_is_ready(pid_file: Path, pid: int) -> bool:
    """Lines 1 and 8, as pg_ctl reads them: no connection needed, no other server's answer."""
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def wait_ready(
    process: ServerProcess,
    ready: Callable[[ServerProcess], bool] = is_ready,
    *,
    timeout: float = TIMEOUT,
) -> None:
    """Wait until it is ready.

    Raises Failed with the end of the log when the server exits instead, or is not ready in
    `timeout` seconds (it is stopped then).
    """
    deadline = time.monotonic() + timeout
    while True:
        # Alive is asked after ready: what answered must not be a stranger on the same port.
        answered = ready(process)
        check_alive([process])
        if answered:
            return
        if time.monotonic() > deadline:
            stop([process])
            raise not_started(process, f"not ready after {timeout:.0f} s")
        time.sleep(_POLL)


def check_alive(processes: Iterable[ServerProcess]) -> None:
    """Raises Failed for the first that has ended."""
    for process in processes:
        if not process.is_alive():
            raise not_started(process, exit_text(process.pid))


def not_started(process: ServerProcess, what: str) -> Failed:
    """The error for a server that did not come up, with the last lines of its log."""
    log = process.launch.log
    lines = tail(Path(log))
    last = f": {lines[-1].strip()}" if lines else ""
    end = "\n".join(f"  {line}" for line in lines)
    hint = f"{log} ends with\n{end}" if lines else f"its log {log} is empty"
    return Failed(f"{process.name} did not start ({what}){last}", hint=hint)


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last non-empty lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
