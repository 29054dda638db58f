"""PostgreSQL, Qdrant and S3 under one directory: up, status, down, and no server left over."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TypeVar

from vbackup.errors import Failed, Interrupted, NotFound, Refused, VbackupError
from vbackup.ports import Reporter
from vbackup.sandbox import docker, process
from vbackup.sandbox.account import server_account
from vbackup.sandbox.ledger import (
    STATE_FILE,
    Ledger,
    Owner,
    State,
    empty,
    locked,
    read_state,
    remove_tree,
    this_process,
)
from vbackup.sandbox.postgres import PostgresOptions, start_postgres
from vbackup.sandbox.qdrant import QdrantOptions, start_qdrant
from vbackup.sandbox.s3 import s3_available, start_s3
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

_Server = TypeVar("_Server")


@dataclass(frozen=True, slots=True)
class Options:
    """What to start; None leaves a server out. `s3` None: when moto is installed."""

    postgres: PostgresOptions | None = field(default_factory=PostgresOptions)
    qdrant: QdrantOptions | None = field(default_factory=QdrantOptions)
    s3: bool | None = None

    @property
    def with_s3(self) -> bool:
        return s3_available() if self.s3 is None else self.s3


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that is up. Asking for a server it was started without raises NotFound."""

    directory: Path
    state: State

    @property
    def postgres(self) -> PostgresServer:
        return _present(self.state.postgres, "PostgreSQL")

    @property
    def qdrant(self) -> QdrantServer:
        return _present(self.state.qdrant, "Qdrant")

    @property
    def s3(self) -> S3Server:
        return _present(self.state.s3, "S3 server")

    @property
    def repository_url(self) -> str:
        """`s3://…` in its own bucket, or a directory of the sandbox when it has no S3."""
        if self.state.s3:
            return f"s3://{self.state.s3.bucket}/repository"
        return (self.directory / "repository").as_uri()


@dataclass(frozen=True, slots=True)
class Status:
    """`state` is "up", "down" (no sandbox there) or "broken" (some of its servers died)."""

    directory: Path
    state: str
    sandbox: Sandbox | None = None
    alive: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()


def default_directory() -> Path:
    """Where `vbackup sandbox` works without `--dir`: one place a user, whatever the cwd."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (
        Path(base) if base.startswith("/") else Path.home() / ".local/state"
    ) / "vbackup/sandbox"


def up(
    directory: Path,
    options: Options | None = None,
    *,
    owner: Owner | None = None,
    reporter: Reporter | None = None,
) -> Sandbox:
    """Start the servers and return once all are ready; they outlive this process.

    A sandbox with the same options that is up already is returned as it is; what a crash left
    there is cleaned up first. Whatever fails, nothing is left running.
    With an `owner` it is that process's alone, and `sweep` ends it when the owner died.
    Raises Refused (other options, a directory that is no sandbox), Locked, NotFound, Failed.
    """
    options = options or Options()
    directory = directory.absolute()
    _make_directory(directory)
    with _terminating(), locked(directory):
        found = _status(directory)
        if found.sandbox and found.state == "up":
            return _same(found.sandbox, options, owner)
        _prepare(directory)
        ledger = Ledger(directory, State(owner=owner, request=_request(options)))
        try:
            return Sandbox(directory, _start_all(options, ledger, reporter))
        except BaseException:
            # The logs stay for a look; the next `up`, or `down`, removes them.
            _tear_down(ledger.state)
            raise


def _start_all(options: Options, ledger: Ledger, reporter: Reporter | None) -> State:
    postgres = qdrant = s3 = None
    if options.postgres:
        with _step(reporter, f"start PostgreSQL {options.postgres.major}"):
            postgres = start_postgres(options.postgres, ledger)
    if options.qdrant:
        with _step(reporter, f"start Qdrant {options.qdrant.version or ''}".rstrip()):
            qdrant = start_qdrant(options.qdrant, ledger)
    if options.with_s3:
        with _step(reporter, "start an S3 server"):
            s3 = start_s3(ledger)
    return ledger.complete(postgres, qdrant, s3)


def _step(reporter: Reporter | None, name: str) -> contextlib.AbstractContextManager[object]:
    return reporter.step(name) if reporter else contextlib.nullcontext()


def status(directory: Path) -> Status:
    """What runs there now. Raises Failed for an unreadable state file."""
    return _status(directory.absolute())


def down(directory: Path) -> Status:
    """Stop the servers and remove the directory; does nothing where no sandbox is.

    The returned status tells what was there before. Only processes whose start time is the
    recorded one are signalled. Raises Locked, Failed.
    """
    directory = directory.absolute()
    if read_state(directory) is None:
        return Status(directory, "down")
    with locked(directory):
        before = _status(directory)
        state = read_state(directory)
        if state is not None:
            _tear_down(state)
            empty(directory)
            with contextlib.suppress(OSError):
                directory.rmdir()
    return before


@contextlib.contextmanager
def throwaway(
    options: Options | None = None,
    directory: Path | None = None,
    *,
    reporter: Reporter | None = None,
) -> Iterator[Sandbox]:
    """A sandbox for the length of a block: stopped and removed however the block ends.

    SIGTERM ends the block too (as Interrupted) when nobody else handles it. After SIGKILL of
    this process, `sweep` finds what was left.
    """
    with _terminating():
        place = directory or new_directory()
        try:
            yield up(place, options, owner=this_process(), reporter=reporter)
        finally:
            state = read_state(place)
            # A sandbox that was up here before, and refused us, is not ours to stop.
            if state and state.owner == this_process():
                down(place)
            if directory is None:
                remove_tree(place)


def new_directory(parent: Path | None = None) -> Path:
    """An empty directory for one sandbox, where `sweep` looks for it. Raises Failed."""
    try:
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="vbackup-sandbox-", dir=parent))
    except OSError as error:
        raise Failed(f"no directory for a sandbox in {parent}: {error.strerror}") from error


def sweep(root: Path | None = None) -> list[Path]:
    """Take down throwaway sandboxes in `root` (the temp directory) whose owner died; which ones."""
    swept = []
    for state_file in (root or Path(tempfile.gettempdir())).glob(f"vbackup-sandbox-*/{STATE_FILE}"):
        with contextlib.suppress(VbackupError):
            state = read_state(state_file.parent)
            if state and state.owner and not state.owner.is_alive():
                down(state_file.parent)
                swept.append(state_file.parent)
    return swept


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Python's default for SIGTERM would end the process without any `finally`."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted("terminated by SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not any(directory.iterdir()):
            # PostgreSQL runs under another account when we are root: it must get through.
            directory.chmod(0o711 if server_account() else 0o700)
    except OSError as error:
        raise Failed(f"cannot use {directory} for a sandbox: {error.strerror}") from error


def _status(directory: Path) -> Status:
    state = read_state(directory)
    if state is None:
        return Status(directory, "down")
    alive = tuple(each.name for each in state.processes if each.is_alive())
    dead = tuple(each.name for each in state.processes if not each.is_alive())
    word = "up" if state.complete and not dead else "broken"
    return Status(directory, word, Sandbox(directory, state), alive, dead)


def _prepare(directory: Path) -> None:
    """Make room: what a crashed or failed start left goes, anything else is refused."""
    state = read_state(directory)
    if state is not None:
        _tear_down(state)
        empty(directory)
    elif any(directory.iterdir()):
        raise Refused(
            f"{directory} is not empty and not a sandbox",
            hint="choose an empty or a new directory: `sandbox down` removes all of it",
        )


def _same(sandbox: Sandbox, options: Options, owner: Owner | None) -> Sandbox:
    if owner is not None or sandbox.state.owner is not None:
        raise Refused(
            f"a sandbox is up in {sandbox.directory} and somebody else uses it",
            hint="choose another directory",
        )
    if sandbox.state.request != _request(options):
        raise Refused(
            f"a sandbox with other options is up in {sandbox.directory}",
            hint=f"vbackup sandbox down --dir {sandbox.directory}, or another --dir",
        )
    return sandbox


def _request(options: Options) -> dict[str, str]:
    return {
        "postgres": repr(options.postgres),
        "qdrant": repr(options.qdrant),
        "s3": str(options.with_s3),
    }


def _tear_down(state: State) -> None:
    """Stop what was recorded, and what was started in the instant before it could be."""
    process.stop(state.processes)
    process.stop(process.marked(state.mark))
    for each in state.processes:
        if each.launch.container:
            docker.remove(each.launch.container)
    for outside in state.outside:
        remove_tree(Path(outside))


def _present(server: _Server | None, name: str) -> _Server:
    if server is None:
        raise NotFound(f"this sandbox has no {name}", hint="it was started without one")
    return server
