"""Runs repository operations in processes of their own that end abruptly, or are stopped.

One JSON command a line on stdin, one answer a line on stdout. Every command is carried out by a
fork of this process, which has done nothing but import, so a run costs milliseconds. `at` kills
it with SIGKILL right before that store operation, `stop_at` stops it there with SIGSTOP until
the action `continue` or `kill`; `after` ends it after so many seconds, by a timer whose signal
nobody handles. The action `together` runs several commands at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vbackup.clock import SystemClock
from vbackup.config import RetentionConfig
from vbackup.errors import Failed, VbackupError
from vbackup.model.manifest import (
    Artifact,
    DatabaseFacts,
    DumpArtifact,
    Manifest,
    PatchPart,
    PostgresPart,
    Statistics,
    WatermarkRecord,
)
from vbackup.ports import Buffer, ObjectStat
from vbackup.repository import keys
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository, RepositoryOptions
from vbackup.storage.directory import DirectoryStore

keys._SCRYPT_N = 2**4  # Hundreds of openings; the strength of passphrases is not tested here.
OPTIONS = RepositoryOptions(chunk_size=1024, pack_size=32 * 1024, upload_jobs=2)
PASSPHRASE = "a passphrase"


class Countdown:
    """A store in a directory that kills or stops its process at one operation, or counts them.
    `changes` are the operations that write or delete."""

    def __init__(self, root: Path, at: int | None, stop_at: int | None = None) -> None:
        self._inner = DirectoryStore(root, SystemClock())
        self._at = at
        self._stop_at = stop_at
        self.operations = 0
        self.changes: list[int] = []

    def _tick(self, *, changes: bool = False) -> None:
        self.operations += 1
        if changes:
            self.changes.append(self.operations)
        if self.operations == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.operations == self._stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    @property
    def conditional(self) -> bool:
        return True

    @property
    def location(self) -> str:
        return self._inner.location

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        self._tick(changes=True)
        self._inner.put(key, data, if_absent=if_absent)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._tick()
        return self._inner.get(key, start, length)

    def stat(self, key: str) -> ObjectStat | None:
        self._tick()
        return self._inner.stat(key)

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        self._tick()
        return self._inner.scan(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._tick(changes=True)
            self._inner.delete([key])


def opened(store: Any, ttl: float = OPTIONS.lease_ttl) -> Repository:
    options = replace(OPTIONS, lease_ttl=ttl)
    return Repository.open(store, passphrase=PASSPHRASE, options=options)


def streams(own: int) -> dict[str, bytes]:
    """What backup number `own` holds: some of it common to all."""
    noise = random.Random(own)
    return {
        "common": random.Random(-1).randbytes(60_000),
        "own": noise.randbytes(90_000),
        "text": b" ".join(b"%d" % noise.getrandbits(12) for _ in range(10_000)),
    }


def own_of(name: str) -> int:
    """The number of a backup's content: `b7` and `b7-again` hold the same."""
    return int(name[1:].partition("-")[0])


def back_up(repository: Repository, own: int, *, again: bool = False) -> Manifest:
    name = f"b{own}-again" if again else f"b{own}"
    writer = repository.begin(name)
    artifacts = [writer.add(label, [data]) for label, data in streams(own).items()]
    return writer.publish(manifest(name, artifacts))


def manifest(name: str, artifacts: list[Artifact]) -> Manifest:
    now = datetime.now(UTC)
    facts = DatabaseFacts("app", "16.4", 160004, "1", "UTF8", "C", "C")
    dumps = tuple(DumpArtifact("table", artifact) for artifact in artifacts)
    return Manifest(
        id=name,
        created_at=now,
        vbackup_version="0",
        host="host",
        watermark=WatermarkRecord("capture", "0-1", "0/1", now),
        postgres=PostgresPart(facts, "16.4", dumps, 0),
        qdrant=None,
        links=(),
        patch=PatchPart(),
        statistics=Statistics(),
    )


def read(repository: Repository, own: int) -> None:
    """A restore: the lease, the manifest, every byte."""
    with repository.reading(f"b{own}") as problem:
        if problem:
            raise Failed(problem)
        for artifact in repository.load(f"b{own}").artifacts():
            if b"".join(repository.read(artifact)) != streams(own)[artifact.name]:
                raise RuntimeError(f"{artifact.name} of b{own} came back wrong")


def carry_out(command: dict[str, Any], store: Countdown) -> None:
    if command["action"] == "create":
        Repository.create(store, passphrase=PASSPHRASE, options=OPTIONS)
        return
    repository = opened(store, command.get("ttl", OPTIONS.lease_ttl))
    if command["action"] == "backup":
        back_up(repository, command["own"], again=command.get("again", False))
    elif command["action"] == "read":
        read(repository, command["own"])
    else:
        keep = RetentionConfig(
            keep_last=command["keep"], keep_daily=0, keep_weekly=0, keep_monthly=0
        )
        prune(repository, keep, PruneOptions(grace=0, repack_below=command["repack"]))


def run(command: dict[str, Any], answer: int) -> None:
    """In the forked process: it says how many operations there were, unless it dies first."""
    store = Countdown(Path(command["root"]), command.get("at"), command.get("stop_at"))
    if command.get("after"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, command["after"])
    started = time.monotonic()
    said: dict[str, Any] = {"error": None}
    try:
        carry_out(command, store)
    except VbackupError as error:
        said["error"] = type(error).__name__
        if command.get("loud", True):  # Nobody waits for its exception.
            traceback.print_exc()
    said["operations"], said["changes"] = store.operations, store.changes
    said["seconds"] = time.monotonic() - started
    os.write(answer, json.dumps(said).encode())


class Fork:
    """One command in a process of its own."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                run(command, writing)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the fork must not go on as its parent
                traceback.print_exc()
                os._exit(1)
        os.close(writing)

    def wait(self) -> dict[str, Any]:
        """Until it ends or stops: what it said, and how it ended."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return {"stopped": self.pid}
        with os.fdopen(self._reading) as pipe:
            said: dict[str, Any] = json.loads(pipe.read() or "{}")
        return {**said, "ended": os.waitstatus_to_exitcode(status)}


def serve(command: dict[str, Any], stopped: dict[int, Fork]) -> Any:
    """Carry out one command; the answer."""
    if command["action"] in {"continue", "kill"}:
        fork = stopped.pop(command["pid"])
        os.kill(fork.pid, signal.SIGCONT if command["action"] == "continue" else signal.SIGKILL)
        return fork.wait()
    if command["action"] == "together":
        forks = [Fork({**each, "root": command["root"]}) for each in command["commands"]]
        return [fork.wait() for fork in forks]
    fork = Fork(command)
    said = fork.wait()
    if "stopped" in said:
        stopped[fork.pid] = fork
    return said


def main() -> None:
    """Serve commands until stdin ends."""
    stopped: dict[int, Fork] = {}
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line), stopped)) + "\n")
        sys.stdout.flush()
    for pid in list(stopped):
        serve({"action": "kill", "pid": pid}, stopped)


if __name__ == "__main__":
    main()
