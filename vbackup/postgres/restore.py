"""Restores one set of archives into an empty database: schema, data in parallel, indexes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg
from psycopg import sql

from vbackup.model.manifest import DumpArtifact
from vbackup.ports import Step
from vbackup.postgres.client_tools import ClientTools
from vbackup.postgres.connection import Connection
from vbackup.postgres.filling import Filling
from vbackup.postgres.process import Child, connection_argument, environment
from vbackup.postgres.restore_errors import RestoreError, RestoreErrors

OpenArtifact = Callable[[DumpArtifact], Iterator[bytes]]

_PRIVILEGE = re.compile(r"GRANT |REVOKE |(RE)?SET SESSION AUTHORIZATION|ALTER DEFAULT PRIVILEGES ")


LEAST = 64 * 1024**2
"""Bytes of a table's archive for which a session of its own is worth while."""


class _Running(Protocol):
    def stop(self) -> None: ...


@dataclass(slots=True)
class Restore:
    """One restore into one database. `run` may be called once."""

    tools: ClientTools
    params: Mapping[str, str]
    jobs: int
    workers: bool
    """Whether one pg_restore may have several workers; see `quiet`."""
    roles: frozenset[str]
    superuser: bool
    warnings: list[str] = field(default_factory=list)
    retry: list[RestoreError] = field(default_factory=list)
    _running: set[_Running] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def run(
        self, main: Path, tables: Sequence[DumpArtifact], open_artifact: OpenArtifact, step: Step
    ) -> None:
        """Restore the main archive (a file) and the tables' archives (streams).

        `step` advances by the bytes of the tables' archives. Raises Failed with the object that
        could not be restored, and whatever reading an artifact raises.
        """
        step.detail("schema")
        self._from_file(main, "--section=pre-data")
        step.detail("data")
        self._data(main, tables, open_artifact, step)
        step.detail("indexes and constraints")
        self._from_file(main, "--section=post-data", *self._jobs())

    def _data(
        self, main: Path, tables: Sequence[DumpArtifact], open_artifact: OpenArtifact, step: Step
    ) -> None:
        """The small tables out of the main archive beside the large ones, `jobs` at a time; the
        first failure ends the others."""

        sessions = shares([dump.artifact.length for dump in tables], self.jobs)

        def table(dump: DumpArtifact, sessions: int) -> None:
            with closing(counted(open_artifact(dump), step)) as blocks:
                if sessions == 1:
                    self._pg_restore(["--data-only"], feed=blocks)
                    return
                filling = Filling(self.tools, self.params, dump.table or "", sessions)
                with self._tracked(filling):
                    filling.run(blocks)

        # Large tables bring the parallelism, where there are any.
        alone = [] if tables else self._jobs()
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="restore") as pool:
            futures = [pool.submit(table, *one) for one in zip(tables, sessions, strict=True)]
            futures.append(pool.submit(self._from_file, main, "--section=data", *alone))
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._stop_all()
                raise

    def _jobs(self) -> list[str]:
        return [f"--jobs={self.jobs}"] if self.workers else []

    def _from_file(self, main: Path, *options: str) -> None:
        self._pg_restore([*options, str(main)])

    def _pg_restore(self, options: Sequence[str], feed: Iterator[bytes] | None = None) -> None:
        parallel = any(option.startswith("--jobs=") for option in options)
        errors = RestoreErrors(self.roles, self.superuser, parallel)
        command = [
            self.tools.path("pg_restore"),
            "--no-password",
            connection_argument(self.params),
            *options,
        ]
        child = Child(
            command, environment(self.params), stdin=feed is not None, on_line=errors.line
        )
        errors.stop = child.stop
        with child, self._tracked(child):
            if feed is not None:
                child.feed(feed)
            errors.finish(child.wait(), child.tail)
        with self._lock:
            self.warnings += errors.warnings
            self.retry += errors.tolerated

    @contextmanager
    def _tracked(self, child: _Running) -> Iterator[None]:
        """Let `_stop_all` find the child; one that starts after it ends at once."""
        with self._lock:
            self._running.add(child)
            stopped = self._stopped
        if stopped:
            child.stop()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(child)

    def _stop_all(self) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            child.stop()


def shares(lengths: Sequence[int], jobs: int) -> list[int]:
    """How many sessions fill each of the tables, by the bytes of their archives."""
    total = sum(lengths) or 1
    return [max(1, min(round(jobs * each / total), each // LEAST)) for each in lengths]


def quiet(tools_major: int, server_major: int) -> bool:
    """Whether every worker of pg_restore begins without an error. From 17 on each one says `SET
    transaction_timeout`, which older servers refuse; several who complain at once write into
    each other's lines, and nobody can tell then that this was all that went wrong."""
    return tools_major < 17 or server_major >= 17


def counted(blocks: Iterator[bytes], step: Step) -> Generator[bytes, None, None]:
    """The blocks, each told to the step; closing this closes their source."""
    try:
        for block in blocks:
            step.advance(len(block))
            yield block
    finally:
        close = getattr(blocks, "close", None)
        if close is not None:
            close()


def grant_one_by_one(connection: Connection, errors: Sequence[RestoreError]) -> None:
    """Run the statements of privilege entries again, each alone: pg_restore sends an entry as
    one, so that one missing role also lost the grants to the others."""
    for error in errors:
        statements = [line for line in error.command.split("\n") if line.endswith(";")]
        if len(statements) < 2 or not all(_PRIVILEGE.match(line) for line in statements):
            continue
        for statement in statements:
            # The ones that failed before fail again, and were reported then.
            with suppress(psycopg.Error):
                connection.execute(sql.SQL(statement))
    connection.execute("RESET SESSION AUTHORIZATION")
