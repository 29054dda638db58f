"""Backups and their artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from vbackup.model.manifest import Artifact, BackupSummary, CheckRecord, Manifest
from vbackup.ports.progress import Step
from vbackup.ports.storage import Buffer

LeaseName = Literal["writer", "pruner", "reader", "scheduler", "switch", "keys", "check"]
"""Who may exclude whom: backups, prunes, daemons, restores in place, changes of keys, checks of the
lease itself; readers exclude nobody."""


@dataclass(frozen=True, slots=True)
class StreamShape:
    """About how long one record of a stream is, and the whole stream, in bytes; 0 is unknown.
    How finely a stream is cut depends on it, never whether it can be stored."""

    record: int = 0
    length: int = 0


class BackupWriter(Protocol):
    """One backup being written. Nothing is visible until `publish`. Thread-safe."""

    @property
    def id(self) -> str: ...

    def add(
        self,
        name: str,
        stream: Iterable[Buffer],
        *,
        step: Step | None = None,
        shape: StreamShape | None = None,
    ) -> Artifact:
        """Store one stream: chunked, deduplicated, packed, uploaded; several may run at once.

        `step` advances by the stream's bytes; `shape` is what is known of the stream before. An
        error raised by the stream is raised here and
        leaves nothing that could be taken for a backup."""
        ...

    def publish(self, manifest: Manifest) -> Manifest:
        """Flush packs and index, then write the manifest (create-only). Returns it with its
        statistics filled in."""
        ...

    def abort(self) -> None:
        """Give up; what was uploaded stays reusable until `prune` removes it."""
        ...


class Repository(Protocol):
    """Backups and their artifacts."""

    def begin(self, backup_id: str) -> BackupWriter: ...

    def read(self, artifact: Artifact) -> Iterator[bytes]:
        """The artifact's bytes in order; every chunk, the length and the BLAKE3 of the stream that
        came in are verified on the way.

        Raises Damaged with artifact and byte range."""
        ...

    def load(self, backup_id: str) -> Manifest:
        """Raises NotFound, Damaged."""
        ...

    def backups(self) -> list[BackupSummary]:
        """Newest first. A manifest that cannot be read is listed with `unreadable`."""
        ...

    def resolve(self, wanted: str, *, at: datetime | None = None) -> str:
        """`latest`, an id or a unique prefix of one, or the newest whose watermark is not after
        `at`. Raises NotFound."""
        ...

    def reading(self, backup_id: str) -> AbstractContextManager[str]:
        """Tell prunes, on whatever machine, that this backup is being read: it and its packs
        stay. Gives the reason why nobody could be told, or nothing. Raises NotFound."""
        ...

    def record(self, backup_id: str, check: CheckRecord) -> None: ...

    def lease(self, name: LeaseName) -> AbstractContextManager[None]:
        """Hold one lease. Raises Locked with the holder."""
        ...
