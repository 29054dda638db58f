"""Runs repository operations in processes of their own that end abruptly.

One JSON command a line on stdin, one answer a line on stdout. Every command is carried out by a
fork of this process, which has done nothing but import, so a run costs milliseconds. `at` kills
it with SIGKILL right before that store operation; `after` ends it after so many seconds, by a
timer whose signal nobody handles.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vbackup.clock import SystemClock
from vbackup.config import RetentionConfig
from vbackup.errors import VbackupError
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
    """A store in a directory that kills its process at one operation, or counts them."""

    def __init__(self, root: Path, at: int | None) -> None:
        self._inner = DirectoryStore(root, SystemClock())
        self._at = at
        self.operations = 0

    def _tick(self) -> None:
        self.operations += 1
        if self.operations == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def conditional(self) -> bool:
        return True

    @property
    def location(self) -> str:
        return self._inner.location

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        self._tick()
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
            self._tick()
            self._inner.delete([key])


def opened(store: Any) -> Repository:
    return Repository.open(store, passphrase=PASSPHRASE, options=OPTIONS)


def streams(own: int) -> dict[str, bytes]:
    """What backup number `own` holds: some of it common to all."""
    noise = random.Random(own)
    return {
        "common": random.Random(-1).randbytes(60_000),
        "own": noise.randbytes(90_000),
        "text": b" ".join(b"%d" % noise.getrandbits(12) for _ in range(10_000)),
    }


def back_up(repository: Repository, own: int) -> Manifest:
    name = f"b{own}"
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


def carry_out(command: dict[str, Any], store: Countdown) -> None:
    if command["action"] == "create":
        Repository.create(store, passphrase=PASSPHRASE, options=OPTIONS)
    elif command["action"] == "backup":
        back_up(opened(store), command["own"])
    else:
        keep = RetentionConfig(
            keep_last=command["keep"], keep_daily=0, keep_weekly=0, keep_monthly=0
        )
        prune(opened(store), keep, PruneOptions(grace=0, repack_below=command["repack"]))


def run(command: dict[str, Any], answer: int) -> None:
    """In the forked process: it says how many operations there were, unless it dies first."""
    store = Countdown(Path(command["root"]), command.get("at"))
    if command.get("after"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, command["after"])
    started = time.monotonic()
    carry_out(command, store)
    done = {"operations": store.operations, "seconds": time.monotonic() - started}
    os.write(answer, json.dumps(done).encode())


def attempt(command: dict[str, Any], answer: int) -> int:
    """The exit code; a failure is shown, since nobody waits for its exception."""
    try:
        run(command, answer)
    except VbackupError:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve commands until stdin ends."""
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = attempt(json.loads(line), writing)
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = json.loads(pipe.read() or "{}")
        _, status = os.waitpid(child, 0)
        said["ended"] = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
