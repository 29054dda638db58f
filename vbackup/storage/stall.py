"""Detects transfers that trickle: socket time-outs only see those that stop."""

from __future__ import annotations

from vbackup.errors import Unreachable
from vbackup.ports import Buffer, Clock

MIN_RATE = 1024
"""Bytes a second, on average over one window, below which a transfer counts as stalled."""

BLOCK = 128 * 1024
"""Bytes handed to the socket at a time: each block has the socket's whole time-out to go."""


class StallGuard:
    """Told of every piece that moved; raises Unreachable when a window saw too few bytes."""

    def __init__(self, clock: Clock, window: float, what: str) -> None:
        self._clock = clock
        self._window = window
        self._what = what
        self._since = clock.monotonic()
        self._moved = 0

    def moved(self, count: int) -> None:
        self._moved += count
        elapsed = self._clock.monotonic() - self._since
        if elapsed < self._window:
            return
        if self._moved < MIN_RATE * elapsed:
            raise Unreachable(
                f"{self._what} stalled: {self._moved} bytes in {elapsed:.0f} s",
                hint="the network or the store is too slow; raise repository.read_timeout",
            )
        self._since += elapsed
        self._moved = 0


class Upload:
    """A request body over a buffer, without copying it: what botocore wants of a file.

    `read` returns at most BLOCK bytes whatever it is asked for: a single `sendall` of a large
    body would have to end within one socket time-out.
    """

    def __init__(self, data: Buffer, guard: StallGuard) -> None:
        self._view = memoryview(data).cast("B")
        self._guard = guard
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> memoryview:
        limit = len(self._view) if size < 0 else BLOCK
        block = self._view[self._at : self._at + limit]
        self._guard.moved(len(block))
        self._at += len(block)
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._at, 2: len(self._view)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at
