"""One child process that reads one shard snapshot; opened when first asked, and replaceable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

from vbackup.errors import Damaged, Failed
from vbackup.qdrant.edge_protocol import Answer, Open, Ready, Request, Trouble, receive_answer, send
from vbackup.qdrant.unpack import unpack

COMMAND = (sys.executable, "-P", "-m", "vbackup.qdrant.edge_worker")
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
"""Many arenas, and threads that nobody uses, would reserve addresses that the process' limit
counts."""
LARGE = 250_000
"""Points from which on several processes read a shard faster than one: each has to load it."""
SEGMENTS = "segments"
VERSIONS = "segments/*/*id_tracker.versions"
UNFINISHED = shutil.ignore_patterns("tmp-*")
ENDING = 10.0
"""Seconds for a process that closed its pipe to be gone."""

A = TypeVar("A", bound=Answer)


class EdgeProcess:
    """Thread-safe: one request at a time. `close` ends the process and removes its files."""

    def __init__(
        self, tar: Path, directory: Path, *, vectors: bool, twin: EdgeProcess | None = None
    ) -> None:
        """`twin` has unpacked the same shard already: its files are taken."""
        self._tar = tar
        self._directory = directory
        self._vectors = vectors
        self._twin = twin
        self._loading = False
        self._ready: Ready | None = None
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._unpacked: Path | None = None
        self._log: IO[bytes] | None = None

    def ask(self, request: Request, expected: type[A]) -> A:
        """The answer. Raises Damaged when the engine cannot read the shard or dies of it."""
        with self._lock:
            process, _ = self._loaded()
            return self._expect(process, request, expected)

    def begin(self) -> int:
        """Start the process and unpack the shard; about how many points that is, 0 where its files
        do not tell. Raises Damaged."""
        with self._lock:
            if self._process is None:
                self._start()
            return _points_in(self._unpacked) if self._unpacked else 0

    def load(self) -> None:
        """Let it load the shard, and wait for nothing. Raises Damaged."""
        with self._lock:
            self._load()

    def ready(self) -> Ready:
        """What the loaded shard has: ids of it only when it is so large that several processes
        read it faster than one. Raises Damaged."""
        with self._lock:
            return self._loaded()[1]

    def double(self) -> EdgeProcess:
        """Another process for the same shard, with files of its own. `close` it first."""
        return EdgeProcess(self._tar, self._directory, vectors=self._vectors, twin=self)

    def rest(self) -> None:
        """End the process but keep the unpacked files: the next request starts another."""
        with self._lock:
            self._end()

    def close(self) -> None:
        with self._lock:
            self._end()
            if self._unpacked:
                shutil.rmtree(self._unpacked, ignore_errors=True)
                self._unpacked = None

    def _loaded(self) -> tuple[subprocess.Popen[bytes], Ready]:
        process = self._load()
        if self._ready is None:
            self._ready = self._expect(process, None, Ready)
        return process, self._ready

    def _load(self) -> subprocess.Popen[bytes]:
        process = self._process or self._start()
        if not self._loading:
            self._loading = True
            self._send(process, Open(LARGE))
        return process

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process, and unpack what it will load while it gets ready."""
        directory = self._unpacked or self._made()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        process = self._process = subprocess.Popen(
            [*COMMAND, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        if self._unpacked is None:
            self._unpack(directory)
        return process

    def share(self, directory: Path) -> None:
        """Put the unpacked files into another directory. Raises Failed."""
        with self._lock:
            if self._unpacked is None:
                raise Failed(f"{self._tar.name} is not unpacked")
            try:
                _share(self._unpacked, directory)
            except (OSError, shutil.Error) as error:
                raise Failed(f"cannot share {self._tar.name} in {directory}: {error}") from error

    def _made(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="shard-", dir=self._directory))

    def _unpack(self, directory: Path) -> None:
        try:
            if self._twin:
                self._twin.share(directory)
            else:
                unpack(self._tar, directory, vectors=self._vectors)
        except BaseException:
            self._end()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._unpacked = directory

    def _expect(
        self, process: subprocess.Popen[bytes], request: Request | None, expected: type[A]
    ) -> A:
        """The answer to this request, or to the one before it."""
        if request is not None:
            self._send(process, request)
        if process.stdout is None:
            raise Failed("the offline reader has no pipes")
        answer = receive_answer(process.stdout)
        if isinstance(answer, expected):
            return answer
        if isinstance(answer, Trouble):
            if answer.ours:
                raise Failed(f"reading {self._tar.name} went wrong: {answer.message}")
            raise self._damaged(answer.message)
        raise self._damaged(self._last_words(process))

    def _send(self, process: subprocess.Popen[bytes], request: Request) -> None:
        if process.stdin is None:
            raise Failed("the offline reader has no pipes")
        # A broken pipe means that the process has died, which the missing answer tells better.
        with suppress(BrokenPipeError):
            send(process.stdin, request)

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        """How the process ended, and the last thing it said."""
        try:
            code = process.wait(ENDING)
        except subprocess.TimeoutExpired:
            return "the reader stopped answering"
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        said = b""
        if self._log:
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
            said = self._log.read().strip().rpartition(b"\n")[2]
        return f"the reader died ({how}) {said.decode('utf-8', 'replace')}".strip()

    def _damaged(self, reason: str) -> Damaged:
        self._end()
        return Damaged(
            f"{self._tar.name} cannot be read: {reason}",
            hint="the shard snapshot is damaged; take a new backup, or verify an older one",
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        self._loading, self._ready = False, None
        if process:
            # It writes nothing that anybody needs: no reason to be gentle.
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()
        if self._log:
            self._log.close()
            self._log = None


def _points_in(unpacked: Path) -> int:
    """By the versions that the engine keeps of its points, eight bytes each; points that were
    deleted count, and servers before Qdrant 1.13 keep them elsewhere."""
    return sum(file.stat().st_size for file in unpacked.glob(VERSIONS)) // 8


def _share(unpacked: Path, directory: Path) -> None:
    """Its segments under a second name: the engine writes none of their files to read them (both
    versions that are tested leave every byte as it was). All else it wants to itself. A log that
    the first engine is still preparing, and renames when it has, is not there yet."""
    for entry in unpacked.iterdir():
        if entry.is_dir():
            copy = _linked if entry.name == SEGMENTS else shutil.copyfile
            shutil.copytree(entry, directory / entry.name, copy_function=copy, ignore=UNFINISHED)
        else:
            shutil.copyfile(entry, directory / entry.name)


def _linked(source: str, target: str) -> None:
    """A copy where a file can have one name only."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
