"""Shard streams that nobody wants any more."""

from __future__ import annotations

import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vbackup.clock import SystemClock
from vbackup.config import QdrantConfig
from vbackup.engine.cuts import STOP_SECONDS, ShardCuts
from vbackup.errors import Interrupted
from vbackup.ports import ShardRef
from vbackup.qdrant.source import QdrantSource

PIECE = bytes(1 << 16)


class EndlessServer:
    """Begins a shard snapshot, and goes on for ever or falls silent. `gone` is set once its
    client has hung up."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.gone = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        with closing(client):
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + _header())
            try:
                while not self._silent:
                    client.sendall(PIECE)
                if not client.recv(1):
                    self.gone.set()
            except OSError:
                self.gone.set()

    def close(self) -> None:
        self._listener.close()


def _header() -> bytes:
    member = tarfile.TarInfo("segments/a/data")
    member.size = 1 << 40
    return member.tobuf()


@pytest.fixture
def endless() -> Iterator[Callable[[bool], EndlessServer]]:
    made: list[EndlessServer] = []

    def make(silent: bool) -> EndlessServer:
        made.append(EndlessServer(silent=silent))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.mark.parametrize("silent", [False, True], ids=["flowing", "silent"])
def test_a_stream_that_is_given_up_ends_at_once(
    endless: Callable[[bool], EndlessServer], tmp_path: Path, silent: bool
) -> None:
    server, clock = endless(silent), SystemClock()
    with closing(QdrantSource(QdrantConfig(url=server.url), clock)) as source:
        cuts = ShardCuts(source.spool, [ShardRef("docs", 0, None, server.url)], tmp_path, clock)
        cuts.request()
        cuts.wait_cut()
        (spool,) = cuts.spools
        began = clock.monotonic()

        cuts.close()

        assert clock.monotonic() - began < STOP_SECONDS
        assert spool.done.is_set()
        assert isinstance(spool.error, Interrupted)
        assert not spool.path.exists()
        assert server.gone.wait(30)
