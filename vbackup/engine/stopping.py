"""One switch that ends the streams of an operation when any part of it fails or is stopped."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext

from vbackup.errors import Interrupted


class StopSwitch:
    """Streams that it guards end with Interrupted once it was pulled: after Ctrl-C nobody waits
    for hours of dump or upload."""

    def __init__(self) -> None:
        self._pulled = threading.Event()

    def pull(self) -> None:
        """End every guarded stream at its next block."""
        self._pulled.set()

    def check(self) -> None:
        """Raises Interrupted once the switch was pulled."""
        if self._pulled.is_set():
            raise Interrupted("stopped: another part failed or was stopped")

    def guard(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        """The same blocks; closes the stream (and its child process) however it ends."""
        with closing(stream) if isinstance(stream, Generator) else nullcontext():
            for block in stream:
                self.check()
                yield block
