"""Runs PostgreSQL's client programs: bytes streamed, stderr kept, no password in the arguments."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from psycopg import conninfo

from vbackup.errors import Denied, Failed, Refused, Unreachable, VbackupError
from vbackup.postgres.connection import APPLICATION_NAME

BLOCK = 1024**2
_KEPT_LINES = 30
_GRACE_SECONDS = 5.0
_SECRETS = ("password", "sslpassword")


def connection_argument(params: Mapping[str, str]) -> str:
    """`--dbname=…` for a client program, without secrets: every user of the machine sees it.

    Raises Refused for a secret that fits nowhere else.
    """
    if "sslpassword" in params:
        raise Refused(
            "sslpassword cannot be handed to pg_dump without showing it to other users",
            hint="use a client key without a passphrase, readable by this user only",
        )
    public = {name: value for name, value in params.items() if name not in _SECRETS}
    return f"--dbname={conninfo.make_conninfo('', **public)}"


def environment(params: Mapping[str, str]) -> dict[str, str]:
    """The environment for a client program: the password, and its messages in English."""
    found = dict(os.environ) | {"LC_ALL": "C", "PGAPPNAME": APPLICATION_NAME}
    if params.get("password"):
        found["PGPASSWORD"] = params["password"]
    return found


class Child:
    """One running client program. A thread drains stderr; leaving the context ends it."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        stdin: bool = False,
        stdout: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Start the program. `on_line` gets every line of stderr, on the draining thread."""
        self.program = Path(command[0]).name
        self._tail: deque[str] = deque(maxlen=_KEPT_LINES)
        self._on_line = on_line
        self._listener_error: Exception | None = None
        try:
            # A session of its own: Ctrl-C reaches vbackup, which then ends its children in order.
            self._process = subprocess.Popen(
                list(command),
                env=dict(env),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"{self.program} cannot be started: {error.strerror}") from error
        _widen(self._process.stdin)
        _widen(self._process.stdout)
        self._drain = threading.Thread(target=self._listen, name=self.program, daemon=True)
        self._drain.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._drain.join()
        if self._process.stderr:
            self._process.stderr.close()

    def blocks(self) -> Iterator[bytes]:
        """What the program writes to stdout, in blocks of 1 MiB."""
        pipe = _open_pipe(self._process.stdout)
        while block := pipe.read(BLOCK):
            yield block

    def feed(self, blocks: Iterable[bytes]) -> None:
        """Write to the program's stdin and close it; stops early when the program does."""
        pipe = _open_pipe(self._process.stdin)
        with suppress(BrokenPipeError):
            for block in blocks:
                pipe.write(block)
            pipe.close()

    def wait(self) -> int:
        """The exit status, when the program has ended and all of stderr was read."""
        status = self._process.wait()
        self._drain.join()
        if self._listener_error:
            raise self._listener_error
        return status

    def stop(self) -> None:
        """End the program if it still runs. Safe from any thread."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def tail(self) -> str:
        """The last lines of stderr, as one line."""
        return " ".join(" ".join(self._tail).split())

    def _listen(self) -> None:
        for raw in _open_pipe(self._process.stderr):
            line = raw.decode(errors="replace").rstrip("\n")
            self._tail.append(line)
            if self._on_line and self._listener_error is None:
                try:
                    self._on_line(line)
                except Exception as error:  # noqa: BLE001 - raised again by wait()
                    self._listener_error = error


def streamed(
    command: Sequence[str], env: Mapping[str, str], failed: Callable[[str, str], VbackupError]
) -> Iterator[bytes]:
    """A program's stdout. It starts with the first block asked for and is ended when the
    iteration is given up; a bad exit status raises `failed(program, stderr)` at the end."""
    with Child(command, env, stdout=True) as child:
        yield from child.blocks()
        if child.wait() != 0:
            raise failed(child.program, child.tail)


def output(command: Sequence[str], env: Mapping[str, str]) -> bytes:
    """All of a short program's stdout. Raises Failed and its kin."""
    return b"".join(streamed(command, env, dump_failure))


def dump_failure(program: str, stderr: str) -> VbackupError:
    """What a failing pg_dump or pg_dumpall means, by what it wrote to stderr."""
    message = f"{program} failed: {stderr or 'it said nothing'}"
    # pg_dump sets its --lock-wait-timeout as a statement_timeout for its LOCK TABLE.
    if "Query was: LOCK TABLE" in stderr and "permission denied" not in stderr:
        hint = "a schema change waits for a table that is being dumped; try again when it is done"
        return Failed(message, hint=hint, retryable=True)
    if "SET TRANSACTION SNAPSHOT" in stderr or "invalid snapshot identifier" in stderr:
        hint = "the session that held the watermark was lost; look at the server's log"
        return Failed(message, hint=hint, retryable=True)
    if "row-level security" in stderr or "row security" in stderr:
        return Refused(message, hint="grant BYPASSRLS to the backup role")
    if "permission denied" in stderr:
        return Denied(message, hint="grant pg_read_all_data to the backup role")
    if "aborting because of server version mismatch" in stderr:
        return Refused(message, hint="install the server's client package or set postgres.bin_dir")
    lost = ("connection to server", "server closed the connection", "terminating connection")
    if any(words in stderr for words in lost):
        return Unreachable(message, hint="look at the server's log")
    return Failed(message)


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold a whole block where the system allows it: with Linux's 64 KiB the two sides
    wake each other up sixteen times as often, a quarter of what the data costs on its way."""
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, BLOCK)


def _open_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise Failed("a client program was started without the pipe that is now needed")
    return pipe
