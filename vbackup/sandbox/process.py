"""Start, recognise and stop one server process; a recycled pid is never signalled (Linux)."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vbackup.errors import Failed
from vbackup.sandbox.account import Account

MARK = "VBACKUP_SANDBOX_MARK"
# Children of this very process must be reaped by it, or they stay behind as zombies.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server, so that it can be started again just so.

    `ready` is what tells that it serves: an http URL that answers 200, or the path of a
    postmaster.pid. `container` is the name of the one that the program (a docker client) runs.
    `memory_limit` caps private memory in bytes (0: none). RLIMIT_AS would count
    mapped files; RLIMIT_DATA does not, so a server can map what it likes and still not eat the
    machine.
    """

    kind: str
    name: str
    argv: tuple[str, ...]
    cwd: str
    environment: dict[str, str]
    log: str
    ready: str = ""
    account: Account | None = None
    stop_signal: int = signal.SIGTERM
    memory_limit: int = 0
    container: str = ""


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One started server. `started` names this incarnation of the pid: boot id and clock ticks."""

    launch: Launch
    pid: int
    started: str

    @property
    def name(self) -> str:
        return self.launch.name

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


def spawn(launch: Launch) -> ServerProcess:
    """Start a server in a session of its own, so that it outlives the command that started it.

    Raises Failed when the program cannot be executed.
    """
    account = launch.account
    try:
        with Path(launch.log).open("ab") as output:
            child = subprocess.Popen(
                launch.argv,
                cwd=launch.cwd,
                env=launch.environment,
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
            f"{launch.name} could not be started: {launch.argv[0]}: {error.strerror}",
            hint="check that the file exists and may be executed on this machine",
        ) from error
    _CHILDREN[child.pid] = child
    if launch.memory_limit:
        _limit(child.pid, launch.memory_limit)
    return ServerProcess(launch, child.pid, start_mark(child.pid) or "exited")


def marked(mark: str) -> list[ServerProcess]:
    """Processes that carry this sandbox's mark: also those that no state file knows of."""
    wanted = f"{MARK}={mark}".encode()
    stray = Launch("stray", "stray server", (), "", {}, "")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # Other users' environments are closed to us; so are processes that just ended.
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                started = start_mark(int(entry.name))
                if started:
                    found.append(ServerProcess(stray, int(entry.name), started))
    return found


def _limit(pid: int, memory_limit: int) -> None:
    """The process may have exited already; then its log says why."""
    with contextlib.suppress(OSError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (memory_limit, memory_limit))
    with contextlib.suppress(OSError):
        # Out of memory all the same: this server goes first, not the user's session.
        Path(f"/proc/{pid}/oom_score_adj").write_text("800")


def stop(
    processes: Iterable[ServerProcess], *, grace: float = 10.0, polite: bool = True
) -> list[str]:
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
            if polite:
                _signal(handle, process.launch.stop_signal)
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


def exit_text(pid: int) -> str:
    """How a process ended, as far as its parent can know."""
    child = _CHILDREN.get(pid)
    code = child.wait() if child else None
    if code is None:
        return "it exited"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
