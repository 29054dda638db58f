"""The cache beside the pair (Redis)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Cache(Protocol):
    """The cache beside the pair (Redis)."""

    def invalidate(self) -> int:
        """Forget what belongs to an abandoned timeline, as configured; how many keys went."""
        ...

    def dump(self) -> Iterator[bytes]:
        """The keys that a backup keeps."""
        ...

    def load(self, stream: Iterator[bytes]) -> int:
        """Write dumped keys back; how many."""
        ...
