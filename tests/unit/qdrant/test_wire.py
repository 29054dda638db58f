"""Long answers over connections of the standard library: as careful as the pooled client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.faults import ManualClock
from vbackup.config import QdrantConfig
from vbackup.errors import Denied, Failed, Unreachable
from vbackup.qdrant.rest import ATTEMPTS, Node
from vbackup.qdrant.wire import IDLE, direct

OK: tuple[int, bytes, dict[str, str]] = (200, b'{"result":{"x":1}}', {})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def node(server: Any, clock: ManualClock) -> Iterator[Node]:
    made = Node(server.url, QdrantConfig(api_key=SecretStr("the-key-itself")), clock)
    yield made
    made.close()


def test_it_sends_what_the_client_would_send(server: Any, node: Node) -> None:
    server.on("POST", "/p", OK)

    assert node.read("/p", {"a": "ü"}) == OK[1]
    (request,) = server.requests
    assert request.json == {"a": "ü"}
    assert request.headers["api-key"] == "the-key-itself"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [0, 502, 503, 504, 429])
def test_what_may_pass_is_tried_again(
    server: Any, node: Node, clock: ManualClock, status: int
) -> None:
    server.on("POST", "/p", OK, (status, b"busy", {}), (status, b"busy", {}), OK)

    assert node.read("/p", {}) == node.read("/p", {}) == OK[1]
    assert len(server.requests) == 4
    assert clock.sleeps == [0.2, 0.4]


def test_the_server_says_how_long_to_wait(server: Any, node: Node, clock: ManualClock) -> None:
    server.on("POST", "/p", (429, b"", {"Retry-After": "7"}), OK)

    node.read("/p", {})
    assert clock.sleeps == [7]


def test_it_is_tried_so_often_and_no_more(server: Any, node: Node) -> None:
    server.on("POST", "/p", (503, b"", {}))

    with pytest.raises(Unreachable) as caught:
        node.read("/p", {})
    assert caught.value.retryable
    assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize(("status", "error"), [(401, Denied), (500, Failed)])
def test_what_will_not_pass_is_told_at_once(
    server: Any, node: Node, status: int, error: type[Exception]
) -> None:
    server.on("POST", "/p", (status, b'{"status":{"error":"no"}}', {}))

    with pytest.raises(error, match="no"):
        node.read("/p", {})
    assert len(server.requests) == 1


def test_a_connection_is_kept_while_the_server_keeps_it(
    server: Any, node: Node, clock: ManualClock
) -> None:
    ports: list[object] = []
    opened = node._wire._opened  # type: ignore[union-attr]

    def counted() -> Any:
        ports.append(opened())
        return ports[-1]

    node._wire._opened = counted  # type: ignore[method-assign, union-attr]
    server.on("POST", "/p", OK)
    node.read("/p", {})
    node.read("/p", {})
    assert len(ports) == 1
    clock.sleep(IDLE)
    node.read("/p", {})
    assert len(ports) == 2


def test_a_server_that_is_not_there_is_unreachable(clock: ManualClock) -> None:
    node = Node("http://127.0.0.1:9", QdrantConfig(), clock)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        node.read("/p", {})
    node.close()


def test_proxies_and_logins_are_left_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert direct("http://qdrant:6333", local=False)
    assert not direct("http://user:secret@qdrant:6333", local=False)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert not direct("http://qdrant:6333", local=False)
    assert direct("http://127.0.0.1:6333", local=True)
    monkeypatch.setenv("no_proxy", "qdrant")
    assert direct("http://qdrant:6333", local=False)
