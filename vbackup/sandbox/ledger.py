"""The state file of a sandbox: what was started where, written before it can be needed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from vbackup.errors import Failed, Locked
from vbackup.sandbox.process import ServerProcess, start_mark
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

STATE_FILE = "sandbox.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """The process whose end ends the sandbox too (tests, demo)."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        return start_mark(self.pid) == self.started


def this_process() -> Owner:
    return Owner(os.getpid(), start_mark(os.getpid()) or "")


@dataclass(frozen=True, slots=True)
class State:
    """What `sandbox.json` holds.

    `mark` is in the environment of every server of this sandbox, `outside` are directories
    elsewhere that belong to it, `request` tells what it was started with.
    """

    format: int = FORMAT
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    complete: bool = False
    owner: Owner | None = None
    request: dict[str, str] = field(default_factory=dict)
    processes: tuple[ServerProcess, ...] = ()
    outside: tuple[str, ...] = ()
    postgres: PostgresServer | None = None
    qdrant: QdrantServer | None = None
    s3: S3Server | None = None


class Ledger:
    """Writes the state file again at every step, so that a crash leaves nothing unknown."""

    def __init__(self, directory: Path, state: State) -> None:
        self.directory = directory
        self.state = state
        self._write()

    def started(self, process: ServerProcess) -> None:
        """A later attempt at a server takes the place of the one that failed."""
        others = [each for each in self.state.processes if each.launch.kind != process.launch.kind]
        self._change(replace(self.state, processes=(*others, process)))

    def outside(self, directory: Path) -> None:
        self._change(replace(self.state, outside=(*self.state.outside, str(directory))))

    def complete(
        self,
        postgres: PostgresServer | None,
        qdrant: QdrantServer | None,
        s3: S3Server | None,
    ) -> State:
        self._change(replace(self.state, complete=True, postgres=postgres, qdrant=qdrant, s3=s3))
        return self.state

    def _change(self, state: State) -> None:
        self.state = state
        self._write()

    def _write(self) -> None:
        target = self.directory / STATE_FILE
        fresh = target.with_suffix(".new")
        write_private(fresh, msgspec.json.format(msgspec.json.encode(self.state)).decode() + "\n")
        fresh.replace(target)


def write_private(path: Path, text: str) -> None:
    """Write a file with secrets: readable for its owner only, from the first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def read_state(directory: Path) -> State | None:
    """The state of the sandbox in `directory`; None when there is no sandbox. Raises Failed."""
    try:
        with (directory / STATE_FILE).open("rb") as file:
            _check_owner(directory, os.fstat(file.fileno()).st_uid)
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failed(f"cannot read {directory / STATE_FILE}: {error.strerror}") from error
    try:
        return msgspec.json.decode(data, type=State)
    except msgspec.MsgspecError as error:
        raise Failed(
            f"{directory / STATE_FILE} is not a sandbox state file: {error}",
            hint="stop its servers by hand, then remove the directory",
        ) from error


def _check_owner(directory: Path, uid: int) -> None:
    """It names processes to stop and directories to remove: never take that from others."""
    if uid != os.geteuid():
        raise Failed(
            f"the sandbox in {directory} belongs to another user", hint="run this as that user"
        )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One `up` or `down` at a time on a directory. Raises Locked, NotADirectoryError."""
    busy = Locked(
        f"another sandbox command is working on {directory}",
        hint="wait for it to end, or choose another --dir",
        retryable=True,
    )
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise busy from None
    except OSError as error:
        raise Failed(f"cannot open {directory}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 0:
            raise busy
        yield
    except BlockingIOError:
        raise busy from None
    finally:
        os.close(descriptor)


def empty(directory: Path) -> None:
    """Remove what is in it; the state file last, so that a crash leaves a sandbox still."""
    entries = [entry for entry in directory.iterdir() if entry.name != STATE_FILE]
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink(missing_ok=True)
    (directory / STATE_FILE).unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Remove it if it is there. Raises Failed."""
    for last in (False, False, True):
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            # Gone already, or a dying server removed a file under our hands: look again.
            if not directory.exists():
                return
        except OSError as error:
            if last:
                raise Failed(f"cannot remove {directory}: {error.strerror}") from error
        else:
            return
