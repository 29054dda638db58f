"""Objects in a bucket or a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """`key` is relative to the store's prefix; `modified` is the store's own clock."""

    key: str
    size: int
    modified: datetime


class ObjectStore(Protocol):
    """Objects by key (`/`-separated, relative to the repository's prefix), nothing else."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        """Write one whole object, atomically.

        With `if_absent`, raises AlreadyExists when the store can tell that the key is taken
        (see `conditional`). Without, an existing object is replaced.
        """
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or a range of them; fewer where the object ends earlier.

        Raises NotFound."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """Size and time of one object, or None when there is none."""
        ...

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        """All objects whose key starts with `prefix`, in key order."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; a missing one is not an error."""
        ...

    @property
    def conditional(self) -> bool:
        """Whether `put(if_absent=True)` is enforced by the store (probed, not assumed)."""
        ...

    @property
    def location(self) -> str:
        """A URL for people, without secrets."""
        ...


@runtime_checkable
class LockingStore(Protocol):
    """What a store with Object Lock can do besides."""

    @property
    def locks(self) -> bool:
        """Whether uploads are retained: then the rest has a meaning."""
        ...

    def prolong(self, key: str) -> None:
        """Retain an object as long as if it were written now; never shorter than it is.

        Raises Denied, Usage (a bucket without Object Lock), NotFound."""
        ...

    def locked_until(self, key: str) -> datetime | None:
        """Until when nobody can remove it; None when it is not locked or not there."""
        ...
