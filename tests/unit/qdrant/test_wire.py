"""Connections of the standard library: as careful as a pooled client, and never shared."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.faults import ManualClock
from vbackup.config import QdrantConfig
from vbackup.errors import Denied, Failed, Unreachable
from vbackup.qdrant.pooled import Pooled
from vbackup.qdrant.rest import ATTEMPTS, Node
from vbackup.qdrant.wire import IDLE, Wire, direct

OK: tuple[int, bytes, dict[str, str]] = (200, b'{"result":{"x":1}}', {})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["plain", "login"])
def node(request: pytest.FixtureRequest, server: Any, clock: ManualClock) -> Iterator[Node]:
    """Over connections of its own, and over httpx."""
    plain = request.param == "plain"
    url = server.url if plain else server.url.replace("//", "//user:secret@")
    made = Node(url, QdrantConfig(api_key=SecretStr("the-key-itself")), clock)
    assert isinstance(made._transport, Wire if plain else Pooled)
    yield made
    made.close()


@pytest.fixture
def wired(server: Any, clock: ManualClock) -> Iterator[Node]:
    made = Node(server.url, QdrantConfig(), clock)
    yield made
    made.close()


def test_it_sends_what_is_asked(server: Any, node: Node) -> None:
    server.on("POST", "/p", OK)

    assert node.call("POST", "/p", {"a": "ü"}, params={"wait": True, "k": "a b"}) == OK[1]
    (request,) = server.requests
    assert request.path == "/p?wait=true&k=a+b"
    assert request.json == {"a": "ü"}
    assert request.headers["api-key"] == "the-key-itself"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [0, 502, 503, 504, 429])
def test_what_may_pass_is_tried_again(
    server: Any, node: Node, clock: ManualClock, status: int
) -> None:
    server.on("POST", "/p", OK, (status, b"busy", {}), (status, b"busy", {}), OK)

    assert node.call("POST", "/p", {}) == node.call("POST", "/p", {}) == OK[1]
    assert len(server.requests) == 4
    assert clock.sleeps == [0.2, 0.4]


def test_the_server_says_how_long_to_wait(server: Any, node: Node, clock: ManualClock) -> None:
    server.on("POST", "/p", (429, b"", {"Retry-After": "7"}), OK)

    node.call("POST", "/p", {})
    assert clock.sleeps == [7]


def test_it_is_tried_so_often_and_no_more(server: Any, node: Node) -> None:
    server.on("POST", "/p", (503, b"", {}))

    with pytest.raises(Unreachable) as caught:
        node.call("POST", "/p", {})
    assert caught.value.retryable
    assert len(server.requests) == ATTEMPTS


@pytest.mark.parametrize(("status", "error"), [(401, Denied), (500, Failed)])
def test_what_will_not_pass_is_told_at_once(
    server: Any, node: Node, status: int, error: type[Exception]
) -> None:
    server.on("POST", "/p", (status, b'{"status":{"error":"no"}}', {}))

    with pytest.raises(error, match="no"):
        node.call("POST", "/p", {})
    assert len(server.requests) == 1


def test_a_connection_is_kept_while_the_server_keeps_it(
    server: Any, wired: Node, clock: ManualClock
) -> None:
    ports: list[object] = []
    wire = wired._transport
    assert isinstance(wire, Wire)
    opened = wire._opened

    def counted(timeout: float) -> Any:
        ports.append(opened(timeout))
        return ports[-1]

    wire._opened = counted  # type: ignore[method-assign]
    server.on("POST", "/p", OK)
    wired.call("POST", "/p", {})
    wired.call("POST", "/p", {})
    assert len(ports) == 1
    clock.sleep(IDLE)
    wired.call("POST", "/p", {})
    assert len(ports) == 2


def test_a_connection_in_use_is_nobody_elses(server: Any, wired: Node, clock: ManualClock) -> None:
    """Pools that look at idle connections of others close what a thread was just given."""
    asked, answer = threading.Event(), threading.Event()

    def slow(_: object) -> tuple[int, bytes, dict[str, str]]:
        asked.set()
        answer.wait(30)
        return OK

    server.on("GET", "/slow", OK, slow)
    server.on("GET", "/p", OK)
    wired.call("GET", "/slow")
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(wired.call("GET", "/slow", attempts=1)))
    thread.start()
    assert asked.wait(30)
    clock.sleep(IDLE)
    wired.call("GET", "/p", attempts=1)
    answer.set()
    thread.join(30)
    assert found == [OK[1]]


def test_an_idle_connection_that_the_server_closed_is_not_used(clock: ManualClock) -> None:
    """A request that is not idempotent cannot be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        node = Node(f"http://127.0.0.1:{listener.getsockname()[1]}", QdrantConfig(), clock)
        thread = threading.Thread(target=_answer_once_a_connection, args=(listener, 2))
        thread.start()
        node.call("PUT", "/p", {}, attempts=1)
        wire = node._transport
        assert isinstance(wire, Wire)
        ((_, idle),) = wire._idle
        assert select.select([idle.sock], [], [], 30)[0]
        assert node.call("PUT", "/p", {}, attempts=1) == OK[1]
        node.close()
        thread.join(30)


def _answer_once_a_connection(listener: socket.socket, times: int) -> None:
    """Hang up after each answer, without having said so."""
    for _ in range(times):
        connection, _ = listener.accept()
        with connection:
            said = b""
            while b"{}" not in said:
                said += connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(OK[1]))
            connection.sendall(OK[1])


def test_the_pool_of_httpx_keeps_nothing(servers: Callable[[], Any], clock: ManualClock) -> None:
    server = servers()
    server.on("GET", "/p", OK)
    node = Node(server.url.replace("//", "//user:secret@"), QdrantConfig(), clock)
    node.call("GET", "/p")
    assert isinstance(node._transport, Pooled)
    assert node._transport._client._transport._pool.connections == []  # type: ignore[attr-defined]
    node.close()


@pytest.mark.parametrize("login", ["", "user:secret@"])
def test_a_server_that_takes_its_time_is_told_from_one_that_is_not_there(
    clock: ManualClock, login: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://{login}127.0.0.1:{silent.getsockname()[1]}"
        node = Node(url, QdrantConfig(timeout=0.2), clock)
        with pytest.raises(Unreachable, match=r"did not answer POST /p in time"):
            node.call("POST", "/p", {})
        with pytest.raises(Unreachable, match=r"does not answer any more"):
            node.greet()
        node.close()


def test_a_server_that_is_not_there_is_unreachable(clock: ManualClock) -> None:
    node = Node("http://127.0.0.1:9", QdrantConfig(), clock)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        node.call("POST", "/p", {})
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
