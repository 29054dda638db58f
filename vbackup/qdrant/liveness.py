"""Ends a long request when its server no longer answers anything.

A shard that is recovered may take an hour to be acknowledged, so its request waits that long. A
server that hangs, or a machine that vanished from the network, would keep a restore waiting for
all of it: whether anybody is there is asked beside it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vbackup.errors import VbackupError

INTERVAL = 10.0
"""Seconds between two questions."""


class Watched:
    """One request. `trace` is httpx's extension of that name: it hands over the connection."""

    def __init__(self) -> None:
        self.given_up = False
        self._socket: socket.socket | None = None

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Remember the socket that the request goes over."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")

    def give_up(self) -> None:
        """Wake whoever waits on the socket."""
        self.given_up = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def watched(ask: Callable[[], object], patience: float) -> Iterator[Watched]:
    """While the block runs, `ask` the server in a thread of its own; give up once it has not
    answered for `patience` seconds."""
    request, done, interval = Watched(), threading.Event(), INTERVAL

    def watch() -> None:
        silent = 0.0
        while not done.wait(interval):
            try:
                ask()
                silent = 0.0
            except VbackupError:
                silent += interval
                if silent >= patience:
                    request.give_up()
                    return

    thread = threading.Thread(target=watch, name="qdrant-alive", daemon=True)
    thread.start()
    try:
        yield request
    finally:
        done.set()
        thread.join()
