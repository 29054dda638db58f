"""Shard streams of real servers: whole or refused, and an exact prefix of what was written."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from vbackup.clock import SystemClock
from vbackup.config import QdrantConfig
from vbackup.errors import Damaged, Failed, Interrupted, NotFound, VbackupError
from vbackup.model.link import Link
from vbackup.ports import ShardRef
from vbackup.qdrant.source import QdrantSource

pytestmark = pytest.mark.integration

BODY = {"vectors": {"size": 8, "distance": "Dot"}, "shard_number": 2}


def _points(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": start + n, "vector": [float(n % 7)] * 8, "payload": {"text": f"{n} " * 40}}
        for n in range(count)
    ]


def test_spool_is_the_stream_with_its_hash(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    store.put(name, _points(500))

    for spool in store.spool(name, tmp_path):
        data = spool.path.read_bytes()
        assert spool.error is None
        assert spool.cut.is_set()
        assert spool.cut_at is not None
        assert spool.requested_at <= spool.cut_at
        assert spool.length == len(data)
        assert spool.sha256 == hashlib.sha256(data).hexdigest()
        with tarfile.open(spool.path) as tar:
            assert tar.getnames()[-1] == "shard_config.json"


def test_the_file_is_there_at_once_and_names_may_repeat(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY, " 'ü'")
    shard = store.facts(name).shards[0]

    spools = [store.source.spool(shard, tmp_path / "a" / "b") for _ in range(2)]

    assert all(spool.path.exists() for spool in spools)
    assert len({spool.path for spool in spools}) == 2
    assert all(spool.done.wait(60) for spool in spools)


def test_a_shard_that_is_not_there_is_an_error(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    node = store.facts(name).shards[0].node

    missing = store.source.spool(ShardRef(name, 9, None, node), tmp_path)
    gone = store.source.spool(ShardRef("no such collection", 0, None, node), tmp_path)

    for spool in (missing, gone):
        assert spool.done.wait(60)
        assert spool.cut.is_set()
        assert isinstance(spool.error, NotFound)
        assert "shard" in str(spool.error)
        assert not spool.path.exists()
    with pytest.raises(VbackupError), store.source.offline([missing], tmp_path):
        pass


@contextmanager
def _proxy(url: str, allowed: int, *, framed: bool) -> Iterator[str]:
    """Forwards one connection after another and closes each after so many bytes of the answer;
    `framed` ends the chunks as a clean end would."""
    target = urlsplit(url)
    stop = threading.Event()

    def pump(client: socket.socket) -> None:
        assert target.hostname
        with closing(client), socket.create_connection((target.hostname, target.port or 0)) as up:
            request = client.recv(65536)
            up.sendall(request)
            sent = 0
            while data := up.recv(65536):
                data = data[: allowed - sent] if b"/snapshot " in request else data
                client.sendall(data)
                sent += len(data)
                if sent >= allowed and b"/snapshot " in request:
                    break
            if framed:
                client.sendall(b"\r\n0\r\n\r\n")

    def serve(listener: socket.socket) -> None:
        while not stop.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=pump, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_stream_is_refused(store: Any, tmp_path: Path, share: float) -> None:
    name = store.make(BODY)
    store.put(name, _points(500))
    whole = store.spool(name, tmp_path)[0].length
    with _proxy(store.server.url, 700 + int(whole * share), framed=False) as url:
        source = QdrantSource(QdrantConfig(url=url), SystemClock())
        spool = source.spool(ShardRef(name, 0, None, url), tmp_path)
        assert spool.done.wait(60)
        source.close()

    assert isinstance(spool.error, Failed)
    assert spool.error.retryable
    assert f"shard 0 of collection {name!r}" in str(spool.error)
    assert not spool.path.exists()


class _Truncating:
    """Serves a prefix of a real stream with HTTP 200 and a clean end, as a failing Qdrant does."""

    def __init__(self, data: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._data = data
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with closing(client):
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for at in range(0, len(self._data), 4096):
                piece = self._data[at : at + 4096]
                client.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            client.sendall(b"0\r\n\r\n")

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


def _cuts(data: bytes) -> dict[str, int]:
    """Interesting places to end at; the last three are ends of members."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = list(tar)
    starts = {member.name: member.offset for member in members}
    return {
        "nothing": 0,
        "inside a header": members[3].offset + 100,
        "inside a member": members[2].offset_data + 1,
        "before the wal": starts["wal"],
        "before the last member": starts["shard_config.json"],
        "without the end": starts["shard_config.json"] + 1024,
        "half of the end": starts["shard_config.json"] + 1024 + 512,
    }


def test_a_stream_that_ends_early_and_clean_is_refused(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    store.put(name, _points(50))
    data = store.spool(name, tmp_path)[0].path.read_bytes()

    for where, end in _cuts(data).items():
        server = _Truncating(data[:end])
        source = QdrantSource(QdrantConfig(url=server.url), SystemClock())
        spool = source.spool(ShardRef(name, 0, None, server.url), tmp_path)
        assert spool.done.wait(60)
        source.close()
        server.close()

        assert isinstance(spool.error, Damaged), where
        assert spool.error.retryable, where
        assert not spool.path.exists(), where


def test_closing_the_source_stops_its_streams(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    store.put(name, _points(2000))
    source = QdrantSource(QdrantConfig(url=store.server.url), SystemClock())
    shard = source.facts([name]).collections[0].shards[0]
    source.close()

    spool = source.spool(shard, tmp_path)

    assert spool.done.wait(60)
    assert isinstance(spool.error, Interrupted)
    assert not spool.path.exists()


def test_a_snapshot_is_a_prefix_of_what_was_written(store: Any, tmp_path: Path) -> None:
    """Two writers a shard key space, each in sequence: what a shard holds has no holes, all that
    was acknowledged before the request, and nothing that began after the cut."""
    name = store.make(BODY | {"shard_number": 1})
    store.put(name, _points(3000, start=10**6))
    log: dict[int, tuple[float, float]] = {}
    clock = SystemClock()
    stop = threading.Event()
    writers = [_writer(store, name, base, log, clock.monotonic, stop) for base in (0, 10**5)]
    _wait_until(lambda: len(log) > 50)

    requested = clock.monotonic()
    spool = store.source.spool(store.facts(name).shards[0], tmp_path)
    assert spool.cut.wait(60)
    cut = clock.monotonic()
    assert spool.done.wait(60)
    written = len(log)
    _wait_until(lambda: len(log) > written + 50)
    stop.set()
    for writer in writers:
        writer.join()

    assert spool.error is None
    with store.source.offline([spool], tmp_path / "work") as offline:
        link = Link(name="all", collection=name, rows=())
        held = {id_ for block in offline.points(link, name) for id_ in block.ids}
    held = {id_ for id_ in held if id_ < 10**6}
    assert {id_ for id_, (_, acked) in log.items() if acked < requested} <= held
    assert not {id_ for id_, (began, _) in log.items() if began > cut} & held
    for base in (0, 10**5):
        mine = sorted(id_ for id_ in held if base <= id_ < base + 10**5)
        assert mine == list(range(base, base + len(mine)))
    assert len(held) < len(log)


def _writer(
    store: Any,
    name: str,
    base: int,
    log: dict[int, tuple[float, float]],
    now: Callable[[], float],
    stop: threading.Event,
) -> threading.Thread:
    def write() -> None:
        number = base
        while not stop.is_set():
            began = now()
            store.call(
                "PUT",
                store.path(name, "/points"),
                {"points": [{"id": number, "vector": [1.0] * 8}]},
                wait="true" if number % 2 else "false",
            )
            log[number] = (began, now())
            number += 1

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = SystemClock().monotonic() + 60
    waiter = threading.Event()
    while not condition():
        assert SystemClock().monotonic() < deadline
        waiter.wait(0.01)


def test_a_name_that_cannot_be_streamed_says_what_to_do(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY, "line\nbreak")
    (spool, *_) = store.spool(name, tmp_path)
    assert isinstance(spool.error, Failed)
    assert "such letters" in spool.error.message
    assert "leave it out" in spool.error.hint
    assert not spool.error.retryable
