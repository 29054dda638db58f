"""Requests: retried where that can help, translated where it cannot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.faults import ManualClock
from vbackup.config import QdrantConfig
from vbackup.errors import (
    AlreadyExists,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    Usage,
    VbackupError,
)
from vbackup.qdrant.rest import ATTEMPTS, LONGEST_PAUSE, Node, collection_path, shown


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def node(server: Any, clock: ManualClock) -> Iterator[Node]:
    made = Node(server.url, QdrantConfig(api_key=SecretStr("the-key-itself")), clock)
    yield made
    made.close()


OK: tuple[int, bytes, dict[str, str]] = (200, b'{"result":{"x":1}}', {})


def test_the_result_is_what_is_inside(server: Any, node: Node) -> None:
    server.on("GET", "/collections", OK)

    assert node.get("/collections") == {"x": 1}
    assert server.requests[0].headers["api-key"] == "the-key-itself"
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [0, 502, 503, 504, 429])
def test_what_may_pass_is_tried_again(
    server: Any, node: Node, clock: ManualClock, status: int
) -> None:
    server.on("POST", "/p", (status, b"busy", {}), (status, b"busy", {}), OK)

    assert node.result("POST", "/p", {"a": "ü"}) == {"x": 1}
    assert len(server.requests) == 3
    assert server.requests[2].json == {"a": "ü"}
    assert clock.sleeps == [0.2, 0.4]


def test_it_is_tried_so_often_and_no_more(server: Any, node: Node) -> None:
    server.on("GET", "/p", (503, b"", {}))

    with pytest.raises(Unreachable) as caught:
        node.get("/p")
    assert caught.value.retryable
    assert len(server.requests) == ATTEMPTS
    with pytest.raises(Unreachable):
        node.call("GET", "/p", attempts=1)
    assert len(server.requests) == ATTEMPTS + 1


def test_the_server_says_how_long_to_wait(server: Any, node: Node, clock: ManualClock) -> None:
    server.on(
        "GET",
        "/p",
        (429, b"", {"retry-after": "7"}),
        (429, b"", {"retry-after": "7000"}),
        OK,
    )

    node.get("/p")

    assert clock.sleeps == [7.0, LONGEST_PAUSE]


ERRORS: list[tuple[int, str, type[VbackupError], str]] = [
    (400, "Wrong input: no such vector", Failed, ""),
    (400, 'Bad request: Limit exceeded. Help: Reduce the "limit"', Refused, "strict mode"),
    (401, "Must provide an API key", Denied, "api_key"),
    (403, "Forbidden: Global write access is required", Denied, "only reads"),
    (403, "Forbidden", Denied, "api_key"),
    (404, "Not found: Collection `x` doesn't exist!", NotFound, "check"),
    (404, "", Failed, "6333"),
    (409, "Wrong input: Collection `x` already exists!", AlreadyExists, "name"),
    (413, "Payload too large", Failed, "max_request_size_mb"),
    (500, "Service internal error: disk", Failed, ""),
    (302, "", Failed, "redirect"),
]


@pytest.mark.parametrize(("status", "text", "kind", "hint"), ERRORS)
def test_statuses_are_translated(
    server: Any, node: Node, status: int, text: str, kind: type[VbackupError], hint: str
) -> None:
    body = json.dumps({"status": {"error": text}}).encode()
    server.on("PUT", "/p", (status, body if text else b"", {}))

    with pytest.raises(kind) as caught:
        node.call("PUT", "/p")
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert text.split(".")[0] in str(caught.value)
    assert "the-key-itself" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.retryable == (status >= 500)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'"x"', b"\xff"])
def test_what_is_no_qdrant_is_said_so(server: Any, node: Node, body: bytes) -> None:
    server.on("GET", "/p", (200, body, {}))

    with pytest.raises(Failed, match="like a Qdrant"):
        node.get("/p")


def test_a_slow_server_is_not_asked_again(server: Any, clock: ManualClock) -> None:
    release = threading.Event()

    def slow(_: Any) -> Any:
        release.wait(30)
        return OK

    server.on("GET", "/p", slow)
    node = Node(server.url, QdrantConfig(timeout=0.1), clock)
    try:
        with pytest.raises(Unreachable, match="in time") as caught:
            node.get("/p")
    finally:
        release.set()
        node.close()
    assert "timeout" in caught.value.hint
    assert len(server.requests) == 1


def test_streams_are_translated_too(server: Any, node: Node) -> None:
    server.on("GET", "/s", (200, b"x" * 10, {}))
    with node.stream("/s") as body:
        assert body.read() == b"x" * 10
    assert server.requests[0].headers["api-key"] == "the-key-itself"

    server.on("GET", "/s", (404, b"Not found: shard 9 not found", {}))
    with pytest.raises(NotFound, match="shard 9"), node.stream("/s"):
        pass
    server.on("GET", "/s", (0, b"", {}))
    with pytest.raises(Unreachable), node.stream("/s"):
        pass


def test_a_login_in_the_url_is_sent_and_not_shown(server: Any, clock: ManualClock) -> None:
    url = server.url.replace("http://", "http://us%40er:pass%3Aword@")
    node = Node(url, QdrantConfig(), clock)
    server.on("GET", "/p", OK)
    node.get("/p")
    with node.stream("/p"):
        pass
    node.close()

    first, second = (request.headers["authorization"] for request in server.requests)
    assert first == second == "Basic dXNAZXI6cGFzczp3b3Jk"
    assert node.location == server.url


def test_uploads_have_a_length_and_flat_parameters(server: Any, node: Node) -> None:
    server.on("POST", "/u", OK)

    node.upload("/u", iter([b"ab", b"c"]), {"content-length": "3"}, {"wait": True, "n": 1})

    request = server.requests[0]
    assert request.body == b"abc"
    assert "transfer-encoding" not in request.headers
    assert request.path == "/u?wait=true&n=1"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("http://h:6333/", "http://h:6333"),
        ("https://u:p@h/prefix/", "https://h/prefix"),
        ("http://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_locations_are_without_secrets(url: str, location: str) -> None:
    assert shown(url) == location


@pytest.mark.parametrize("url", ["localhost:6333", "grpc://h:6334", "http://", "http://h:x", ""])
def test_what_is_no_url_is_usage(url: str) -> None:
    with pytest.raises(Usage, match=r"\[qdrant\] url"):
        shown(url)


def test_paths_are_quoted() -> None:
    assert (
        collection_path("a b/ü'?#%", "shards", 3)
        == "/collections/a%20b%2F%C3%BC%27%3F%23%25/shards/3"
    )
