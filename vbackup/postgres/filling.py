"""Fills one large table by several sessions at once: one `COPY` keeps one processor busy.

pg_restore turns the table's archive into the script that it would run itself, whose rows are dealt
to the sessions as they come: each takes about a megabyte of whole rows, then another has its turn.
So the rows land within a few megabytes of where they were, and what was in order stays so.
"""

from __future__ import annotations

import re
import select
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from queue import Empty, Full, Queue

import psycopg
from psycopg import pq

from vbackup.errors import Failed
from vbackup.postgres.client_tools import ClientTools
from vbackup.postgres.connection import TRANSACTION_TIMEOUT_SINCE, Connection, opened
from vbackup.postgres.failures import failure, translated
from vbackup.postgres.process import Child, environment
from vbackup.postgres.restore_errors import RestoreErrors

TURN = 1 << 20
"""Bytes that a session gets before another has its turn."""
MOST = 1 << 20
"""Bytes that a script has at most before its rows, and after them."""
_WAITING = 2
"""Blocks that wait for each session."""
_PATIENCE = 0.5
"""Seconds after which somebody who waits looks whether all is stopped."""

_COPY = re.compile(rb"^COPY ", re.MULTILINE)
_FROM_STDIN = b" FROM stdin;\n"
_LAST_LINE = b"\\.\n"
# Commands for psql, which says no others.
_FOR_PSQL = re.compile(rb"^\\(?:un)?restrict .*\n?", re.MULTILINE)
_COMMENT = re.compile(rb"^--.*\n?", re.MULTILINE)
# Written by pg_restore 17 and newer, whatever the server is.
_NEWER = re.compile(rb"^SET transaction_timeout = 0;\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Head:
    """What a script says before the rows: a session's settings, and the `COPY` statement."""

    settings: bytes
    copy: bytes


class Script:
    """The script of one table's archive, taken apart as it is written.

    Raises Failed when it is not what pg_restore writes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._begun = self._tail = b""

    def head(self) -> Head:
        """What comes before the rows."""
        read = b""
        for block in self._blocks:
            read += block
            if place := _copy_statement(read):
                begin, end = place
                self._begun = read[end:]
                return Head(_FOR_PSQL.sub(b"", read[:begin]), read[begin:end])
            if len(read) > MOST:
                break
        raise Failed("the script of a table's archive has no rows where they should be")

    def rows(self) -> Iterator[bytes]:
        """The rows, in blocks that may end anywhere.

        Their end is looked for where it can be only: what follows it is short."""
        # The end of the line before the first row, which is none of the rows.
        line_ended = b"\n"
        held = deque([self._begun])
        size = len(self._begun)
        for block in self._blocks:
            held.append(block)
            size += len(block)
            while size - len(held[0]) > MOST:
                if first := held.popleft():
                    size -= len(first)
                    line_ended = b""
                    yield first
        end = line_ended + b"".join(held)
        at = end.find(b"\n" + _LAST_LINE)
        if at < 0:
            raise Failed("the script of a table's archive does not end after its rows")
        self._tail = end[at + 1 + len(_LAST_LINE) :]
        if last := end[len(line_ended) : at + 1]:
            yield last

    def tail(self) -> bytes:
        """What comes after the rows: the values of the table's sequences."""
        return _COMMENT.sub(b"", _FOR_PSQL.sub(b"", self._tail)).strip()


def _copy_statement(read: bytes) -> tuple[int, int] | None:
    """Where the statement begins, and its line ends: a quoted name may hold anything."""
    begin = _COPY.search(read)
    if begin is None:
        return None
    at = read.find(_FROM_STDIN, begin.start())
    while at >= 0 and read.count(b'"', begin.start(), at) % 2:
        at = read.find(_FROM_STDIN, at + 1)
    return None if at < 0 else (begin.start(), at + len(_FROM_STDIN))


class _Stopped(Exception):
    """Somebody else failed, or wants no more; nobody is told of this."""


@dataclass(slots=True, eq=False)
class Filling:
    """Fills one table. `run` may be called once, `stop` by any thread."""

    tools: ClientTools
    params: Mapping[str, str]
    table: str
    sessions: int
    _stopped: threading.Event = field(default_factory=threading.Event)
    _child: Child | None = None

    def run(self, archive: Iterator[bytes]) -> None:
        """Restore the rows of the table's archive, and the values of its sequences.

        Raises Failed and its kin, and whatever reading the archive raises."""
        errors = RestoreErrors(frozenset(), superuser=True)
        command = [self.tools.path("pg_restore"), "--data-only", "--file=-"]
        child = self._child = Child(
            command, environment(self.params), stdin=True, stdout=True, on_line=errors.line
        )
        with ThreadPoolExecutor(1 + self.sessions, "fill") as pool, child:
            feeding = pool.submit(_feed, child, archive)
            try:
                self._fill(Script(child.blocks()), pool)
            except BaseException:
                self.stop()
                # A script that breaks off has its reason in what reading the archive met.
                feeding.result()
                child.wait()
                errors.finish(0)
                raise
            feeding.result()
            errors.finish(child.wait(), child.tail)

    def stop(self) -> None:
        """Let `run` end soon, with an exception."""
        self._stopped.set()
        if self._child:
            self._child.stop()

    def _fill(self, script: Script, pool: ThreadPoolExecutor) -> None:
        head = script.head()
        sessions = [_Session(self.params, head, self._stopped) for _ in range(self.sessions)]
        running = [pool.submit(session.run) for session in sessions]
        try:
            _deal(script.rows(), sessions)
            for session in sessions:
                session.give(None)
        except _Stopped:
            self._blame(running)
        except BaseException:
            self._stopped.set()
            raise
        self._blame(running)
        if tail := script.tail():
            with translated(self._doing), _session(self.params, head) as connection:
                connection.execute(tail)

    def _blame(self, running: Sequence[Future[None]]) -> None:
        """Raise what ended the sessions, when they have."""
        found = [error for future in running if (error := future.exception())]
        for error in found:
            if isinstance(error, psycopg.Error):
                raise failure(error, self._doing) from error
            if not isinstance(error, _Stopped):
                raise error
        if self._stopped.is_set():
            raise Failed(f"filling table {self.table} was stopped")

    @property
    def _doing(self) -> str:
        return f"COPY failed for table {self.table}"


@dataclass(slots=True)
class _Session:
    """One session with its share of the rows. `give` is called by the dealer, `run` by a thread."""

    params: Mapping[str, str]
    head: Head
    stopped: threading.Event
    waiting: Queue[bytes | None] = field(default_factory=lambda: Queue(_WAITING))

    def give(self, block: bytes | None) -> None:
        """Add to its share; None ends it. Raises _Stopped."""
        while not self.stopped.is_set():
            with suppress(Full):
                return self.waiting.put(block, timeout=_PATIENCE)
        raise _Stopped

    def run(self) -> None:
        """Copy what is given. Raises psycopg.Error, _Stopped."""
        try:
            with (
                _session(self.params, self.head) as connection,
                connection.cursor() as cursor,
                cursor.copy(self.head.copy),
            ):
                for block in self._given():
                    self._send(connection.pgconn, block)
        except BaseException:
            self.stopped.set()
            raise

    def _given(self) -> Iterator[bytes]:
        while not self.stopped.is_set():
            with suppress(Empty):
                block = self.waiting.get(timeout=_PATIENCE)
                if block is None:
                    return
                yield block
        raise _Stopped

    def _send(self, server: pq.abc.PGconn, block: bytes) -> None:
        """Past psycopg's own writer, which cuts a block into small pieces and waits for each."""
        server.put_copy_data(block)
        ready = select.poll()
        ready.register(server.socket, select.POLLIN | select.POLLOUT)
        while server.flush():
            if self.stopped.is_set():
                raise _Stopped
            for _, event in ready.poll(_PATIENCE * 1000):
                if event & select.POLLIN:
                    server.consume_input()


def _feed(child: Child, archive: Iterator[bytes]) -> None:
    try:
        child.feed(archive)
    except BaseException:
        # Else it would wait for the rest, and everybody for it.
        child.stop()
        raise


@contextmanager
def _session(params: Mapping[str, str], head: Head) -> Iterator[Connection]:
    """A session with the script's settings."""
    with closing(opened(params)) as connection:
        settings = head.settings
        if connection.info.server_version < TRANSACTION_TIMEOUT_SINCE:
            settings = _NEWER.sub(b"", settings)
        connection.execute(settings)
        yield connection


def _deal(rows: Iterator[bytes], sessions: Sequence[_Session]) -> None:
    """Whole rows to each in turn."""
    turns = cycle(sessions)
    now, given = next(turns), 0
    for fresh in rows:
        block = fresh
        if given >= TURN and (end := block.find(b"\n") + 1):
            now.give(block[:end])
            block = block[end:]
            now, given = next(turns), 0
        if block:
            now.give(block)
            given += len(block)
