"""A server that takes requests and answers nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from vbackup.clock import SystemClock
from vbackup.config import QdrantConfig
from vbackup.errors import Unreachable
from vbackup.model.manifest import Artifact, ShardPart
from vbackup.qdrant import liveness
from vbackup.qdrant.recover import TRIES, Placement, _uploaded
from vbackup.qdrant.rest import Node

AT = datetime(2026, 1, 1, tzinfo=UTC)
UPLOAD = "/collections/docs/shards/0/snapshots/upload"


@pytest.fixture
def awake() -> Iterator[threading.Event]:
    """Set at the end, so that no request of the scripted server stays behind."""
    event = threading.Event()
    yield event
    event.set()


def node(server: Any, timeout: float) -> Node:
    return Node(server.url, QdrantConfig(timeout=timeout, recover_timeout=3600), SystemClock())


def test_a_greeting_is_not_waited_for_as_long_as_work(
    server: Any, awake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vbackup.qdrant.rest.GREETING", 0.1)

    def hang(_: object) -> tuple[int, bytes, dict[str, str]]:
        awake.wait(60)
        return 0, b"", {}

    server.on("GET", "/", hang)
    asked = node(server, timeout=3600)
    with pytest.raises(Unreachable, match="does not answer any more") as caught:
        asked.greet()
    assert "hangs" in caught.value.hint
    asked.close()


def test_an_upload_ends_when_nobody_is_there(
    server: Any, awake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though recovering a shard may take an hour."""
    monkeypatch.setattr(liveness, "INTERVAL", 0.05)
    monkeypatch.setattr("vbackup.qdrant.rest.GREETING", 0.05)

    def hang(_: object) -> tuple[int, bytes, dict[str, str]]:
        awake.wait(60)
        return 0, b"", {}

    server.on("GET", "/", hang)
    server.on("POST", UPLOAD, hang)
    asked = node(server, timeout=0.2)
    with pytest.raises(Unreachable, match="was given up"):
        asked.upload(UPLOAD, iter([b"x"]), {"content-length": "1"}, {})
    assert len(server.asked("GET", "/")) >= 2
    asked.close()


def test_an_upload_that_takes_long_is_waited_for(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "INTERVAL", 0.01)
    greeted = threading.Event()

    def greet(_: object) -> tuple[int, bytes, dict[str, str]]:
        if len(server.asked("GET", "/")) >= 5:
            greeted.set()
        return 200, b"{}", {}

    def recover(_: object) -> tuple[int, bytes, dict[str, str]]:
        greeted.wait(60)
        return server.result(True)  # type: ignore[no-any-return]

    server.on("GET", "/", greet)
    server.on("POST", UPLOAD, recover)
    asked = node(server, timeout=60)
    asked.upload(UPLOAD, iter([b"x"]), {"content-length": "1"}, {})
    assert greeted.is_set()
    asked.close()


def test_a_shard_is_uploaded_again_when_its_connection_breaks(server: Any) -> None:
    data = b"a shard snapshot"
    artifact = Artifact("docs/0", len(data), "00")
    part = ShardPart(0, None, artifact, AT, AT)
    asked = node(server, timeout=60)
    server.on("POST", UPLOAD, (0, b"", {}), server.result(True))
    step = Counted()
    _uploaded(Placement(part, 0, asked), "docs", lambda _: iter([data[:5], data[5:]]), step)
    assert [data in request.body for request in server.asked("POST", UPLOAD)] == [True, True]
    assert step.done == len(data)
    server.on("POST", UPLOAD, (0, b"", {}))
    with pytest.raises(Unreachable):
        _uploaded(Placement(part, 0, asked), "docs", lambda _: iter([data]), step)
    assert len(server.asked("POST", UPLOAD)) == 2 + TRIES
    asked.close()


class Counted:
    done = 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount

    def detail(self, text: str) -> None: ...
