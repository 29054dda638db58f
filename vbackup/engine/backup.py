"""Back up one pair: cut every shard, export the watermark, dump, compare, publish.

`Backup.run` is the runbook; `engine.attempt` does one set of cuts. The manifest is written
last, so that a backup exists whole or not at all; whatever was uploaded before a failure is
reused by the next run.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import vbackup
from vbackup.engine.attempt import Attempt, BackupOptions, Pair
from vbackup.engine.cuts import ShardLost
from vbackup.engine.links import Target, resolve, vector_collections
from vbackup.engine.storing import WatermarkBlocked
from vbackup.model.finding import LinkReport
from vbackup.model.link import Link
from vbackup.model.manifest import Manifest, Statistics
from vbackup.ports import BackupWriter, Clock, Reporter, Repository

ATTEMPTS = 3
"""How often the watermark may move: a shard stream breaks after it, or a dump cannot begin."""


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The published manifest, what the comparison under the watermark saw, and warnings."""

    manifest: Manifest
    reports: tuple[LinkReport, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Backup:
    """One run over one pair."""

    pair: Pair
    repository: Repository
    links: Sequence[Link]
    ignore: Sequence[str]
    options: BackupOptions
    reporter: Reporter
    clock: Clock

    def run(self) -> BackupResult:
        """Take the backup. Raises vbackup.errors; then no backup exists."""
        created = self.clock.now()
        started = self.clock.monotonic()
        backup_id = f"{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        with self.repository.lease("writer"), self._scratch() as scratch:
            writer = self.repository.begin(backup_id)
            try:
                attempt = self._attempt(writer, scratch)
                manifest = writer.publish(
                    Manifest(
                        id=backup_id,
                        created_at=created,
                        vbackup_version=vbackup.__version__,
                        host=socket.gethostname(),
                        watermark=attempt.record,
                        postgres=attempt.postgres,
                        qdrant=attempt.qdrant,
                        links=tuple(self.links),
                        patch=attempt.patch,
                        rows=attempt.rows,
                        redis=attempt.redis,
                        statistics=Statistics(seconds=self.clock.monotonic() - started),
                        tags=dict(self.options.tags),
                        ignore=tuple(self.ignore),
                    )
                )
            except BaseException:
                writer.abort()
                raise
        return BackupResult(manifest, tuple(attempt.reports), tuple(attempt.warnings))

    def _attempt(self, writer: BackupWriter, scratch: Path) -> Attempt:
        """Cut, find the watermark, store; again as a whole when a shard stream broke or
        a schema change kept the dump out."""
        for number in range(1, ATTEMPTS + 1):
            directory = scratch / str(number)
            attempt = Attempt(self.pair, writer, self.options, directory, self.reporter, self.clock)
            try:
                attempt.run(self._resolve(attempt))
            except (ShardLost, WatermarkBlocked) as error:
                if number == ATTEMPTS:
                    raise
                what = "shard stream broke" if isinstance(error, ShardLost) else "dump was blocked"
                self.reporter.warn(f"a {what}: cutting again", reason=error.message)
            else:
                return attempt
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        raise RuntimeError("no attempt was made")

    def _resolve(self, attempt: Attempt) -> list[Target]:
        known = attempt.collection_names() if self.pair.points else vector_collections(self.links)
        resolution = resolve(self.links, self.ignore, known)
        for warning in resolution.warnings:
            self.reporter.warn(warning)
        attempt.warnings.extend(resolution.warnings)
        return list(resolution.targets)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        parent = self.options.work_dir
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="vbackup-", dir=parent) as directory:
            yield Path(directory)
