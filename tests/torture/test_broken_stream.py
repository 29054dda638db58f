"""A shard stream that breaks half way: the shard is cut again, and the watermark moves with it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from vbackup import wiring
from vbackup.config import Config
from vbackup.demo.scenario import Lag, Scenario
from vbackup.errors import VbackupError

pytestmark = [pytest.mark.integration, pytest.mark.torture, pytest.mark.timeout(300)]

SCENARIO = Scenario(seed=300, rows=1_000, lag=Lag(slow=0.5), writes_per_second=120, shards=2)
_STREAM = re.compile(rb"GET \S*/shards/\d+/snapshot[ ?]")


class Proxy:
    """A link to Qdrant that cuts the first `breaks` shard streams after `limit` bytes."""

    def __init__(self, upstream: str, breaks: int, limit: int) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._limit = limit
        self._mutex = threading.Lock()
        self._left = breaks
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._mutex:
            for each in self._open:
                _shut(each)
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            with self._mutex:
                self._open |= {client, server}
            budget: list[int] = []
            self._start(self._requests, client, server, budget)
            self._start(self._answers, server, client, budget)

    def _requests(self, client: socket.socket, server: socket.socket, budget: list[int]) -> None:
        """Client to server; a request for a shard stream may get a budget of answer bytes."""
        while data := _receive(client):
            if _STREAM.search(data):
                with self._mutex:
                    if self._left:
                        self._left -= 1
                        budget.append(self._limit)
            if not _send(server, data):
                break
        _shut(server)

    def _answers(self, server: socket.socket, client: socket.socket, budget: list[int]) -> None:
        while data := _receive(server):
            if budget:
                budget[0] -= len(data)
                if budget[0] < 0:
                    self.broken += 1
                    break
            if not _send(client, data):
                break
        for each in (client, server):
            _shut(each)
            each.close()
        with self._mutex:
            self._open -= {client, server}


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 15)
    except OSError:
        return b""


def _send(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def through(
    torture: Any, config: Config, breaks: int, limit: int
) -> Iterator[tuple[Config, Proxy]]:
    """The same configuration, with Qdrant behind a proxy."""
    assert config.qdrant is not None
    with closing(Proxy(torture.qdrant.url, breaks, limit)) as proxy:
        qdrant = config.qdrant.model_copy(update={"nodes": (proxy.url,)})
        yield config.model_copy(update={"qdrant": qdrant}), proxy


@pytest.mark.parametrize("limit", [0, 400_000], ids=["at-once", "half-way"])
def test_the_shard_is_cut_again_and_the_pair_is_exact(torture: Any, limit: int) -> None:
    app, config = torture.begin(SCENARIO)

    with through(torture, config, breaks=1, limit=limit) as (proxied, proxy):
        backup = torture.back_up(proxied)

    assert proxy.broken == 1
    torture.judge(app, config, backup).prove()


def test_a_stream_that_never_ends_well_leaves_no_backup(torture: Any) -> None:
    app, config = torture.begin(SCENARIO)

    with (
        through(torture, config, breaks=1_000, limit=400_000) as (proxied, proxy),
        pytest.raises(VbackupError) as failure,
    ):
        torture.back_up(proxied)

    assert proxy.broken > 1
    assert failure.value.code == 1
    assert wiring.open_repository(config.repository).backups() == []
    torture.judge(app, config, torture.back_up(config)).prove()
