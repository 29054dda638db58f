"""Start, recognise and stop one server process; a recycled pid is never signalled (Linux)."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vbackup.errors import Failed
from vbackup.sandbox.account import Account

MARK = "VBACKUP_SANDBOX_MARK"
_POLL = 0.02
# Children of this very process must be reaped by it, or they stay behind as zombies.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One started server. `started` names this incarnation of the pid: boot id and clock ticks."""

    name: str
    pid: int
    started: str
    log: str
    stop_signal: int = signal.SIGTERM

    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_mark(self.pid) == self.started


def start_mark(pid: int) -> str | None:
    """What tells this process from a later one with its pid; None when nothing runs there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # proc(5): the command, field 2, may hold spaces and brackets; fields are counted after it.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path,
    environment: Mapping[str, str],
    account: Account | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    memory_limit: int = 0,
) -> ServerProcess:
    """Start a server in a session of its own, so that it outlives the command that started it.

    `memory_limit` caps private memory in bytes (0: none). RLIMIT_AS would count mapped files;
    RLIMIT_DATA does not, so a server can map what it likes and still not eat the machine.
    """
    try:
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
    except OSError as error:
        raise Failed(
            f"{name} could not be started: {argv[0]}: {error.strerror}",
            hint="check that the file exists and may be executed on this machine",
        ) from error
    _CHILDREN[child.pid] = child
    mark = start_mark(child.pid) or "exited"
    if memory_limit:
        _limit(child.pid, memory_limit)
    return ServerProcess(name, child.pid, mark, str(log), stop_signal)


def marked(mark: str) -> list[ServerProcess]:
    """Processes that carry this sandbox's mark: also those that no state file knows of."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # Other users' environments are closed to us; so are processes that just ended.
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                started = start_mark(int(entry.name))
                if started:
                    found.append(ServerProcess("stray server", int(entry.name), started, ""))
    return found


def _limit(pid: int, memory_limit: int) -> None:
    """The process may have exited already; then its log says why."""
    with contextlib.suppress(OSError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (memory_limit, memory_limit))
    with contextlib.suppress(OSError):
        # Out of memory all the same: this server goes first, not the user's session.
        Path(f"/proc/{pid}/oom_score_adj").write_text("800")


def stop(processes: Iterable[ServerProcess], *, grace: float = 10.0) -> list[str]:
    """Stop all at once: polite signal, `grace` seconds, SIGKILL. Returns names that were alive."""
    stopped = []
    with contextlib.ExitStack() as stack:
        waiting = []
        for process in processes:
            handle = _open(process)
            if handle is None:
                _reap(process.pid, process.started)
                continue
            stack.callback(os.close, handle)
            _signal(handle, process.stop_signal)
            waiting.append((process, handle))
            stopped.append(process.name)
        deadline = time.monotonic() + grace
        for process, handle in waiting:
            if not _ended(handle, deadline - time.monotonic()):
                _signal(handle, signal.SIGKILL)
                _ended(handle, 10.0)
            _reap(process.pid, process.started)
    return stopped


def _open(process: ServerProcess) -> int | None:
    """A handle bound to this incarnation: opened first, then compared, so no race is left."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise Failed(f"cannot take hold of {process.name}: {error.strerror}") from error
    if process.is_alive():
        return handle
    os.close(handle)
    return None


def _signal(handle: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise Failed(
            "a server of this sandbox belongs to another user", hint="run this as that user or root"
        ) from error


def _ended(handle: int, timeout: float) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout) * 1000))


def _reap(pid: int, started: str) -> None:
    child = _CHILDREN.get(pid)
    if child is not None and start_mark(pid) in (None, started):
        del _CHILDREN[pid]
        child.wait()


def wait_ready(process: ServerProcess, ready: Callable[[], bool], *, timeout: float) -> None:
    """Wait until `ready()`.

    Raises Failed with the end of the log when the server exits instead, or is not ready in
    `timeout` seconds (it is stopped then).
    """
    deadline = time.monotonic() + timeout
    while True:
        # Alive is asked after ready: what answered must not be a stranger on the same port.
        answered = ready()
        if not process.is_alive():
            raise not_started(process, _exit_text(process.pid))
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
            raise not_started(process, _exit_text(process.pid))


def _exit_text(pid: int) -> str:
    child = _CHILDREN.get(pid)
    code = child.wait() if child else None
    if code is None:
        return "it exited"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def not_started(process: ServerProcess, what: str) -> Failed:
    """The error for a server that did not come up, with the last lines of its log."""
    lines = tail(Path(process.log))
    last = f": {lines[-1].strip()}" if lines else ""
    end = "\n".join(f"  {line}" for line in lines)
    hint = f"{process.log} ends with\n{end}" if lines else f"its log {process.log} is empty"
    return Failed(f"{process.name} did not start ({what}){last}", hint=hint, retryable=False)


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last non-empty lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
