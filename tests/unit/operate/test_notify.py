"""Notifications reach a real listener, and never make a good backup a bad one."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from vbackup.config import NotifyConfig
from vbackup.operate.history import Run
from vbackup.operate.notify import Notifier

AT = datetime(2026, 3, 4, tzinfo=UTC)
GOOD = Run(1, "backup", AT, AT, 0, {"id": "b1"})
BAD = Run(2, "backup", AT, AT, 1, {"error": {"message": "the bucket is away"}})


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any]]]:
    heard: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            heard.append((self.path, json.loads(body) if body else None))
            self.send_response(500 if "broken" in self.path else 204)
            self.end_headers()

        def do_GET(self) -> None:
            heard.append((self.path, None))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    thread.join()
    server.server_close()


def notifier(notes: Any, **settings: Any) -> Notifier:
    return Notifier(NotifyConfig(**settings), notes, "db1")


def test_failures_are_told_and_successes_ping(listener: Any, notes: Any) -> None:
    url, heard = listener
    one = notifier(notes, webhook=SecretStr(f"{url}/hook"), ping=SecretStr(f"{url}/ping"))

    one.tell(GOOD)
    one.tell(BAD)

    assert [path for path, _ in heard] == ["/ping", "/hook"]
    told = heard[1][1]
    assert told["ok"] is False
    assert told["text"] == "vbackup backup on db1: failed after 0 s (the bucket is away)"


def test_a_good_run_that_the_history_does_not_know_is_told(listener: Any, notes: Any) -> None:
    url, heard = listener
    run = replace(GOOD, unnoted="the job history h cannot be used: disk full")
    notifier(notes, webhook=SecretStr(url), ping=SecretStr(f"{url}/ping")).tell(run)
    notifier(notes, webhook=SecretStr(url), on="never").tell(run)
    (pinged, _), (_, told) = heard
    assert pinged == "/ping"
    assert (told["ok"], told["outcome"]) == (True, "ok")
    assert "not noted: the job history h cannot be used: disk full" in told["text"]


def test_always_tells_successes_too_and_never_nothing(listener: Any, notes: Any) -> None:
    url, heard = listener
    notifier(notes, webhook=SecretStr(f"{url}/hook"), on="always").tell(GOOD)
    assert heard[0][1]["id"] == "b1"
    notifier(notes, webhook=SecretStr(f"{url}/hook"), on="never").tell(BAD)
    assert len(heard) == 1


@pytest.mark.parametrize("path", ["/broken/secret-token", None])
def test_what_cannot_be_delivered_is_a_warning_without_secrets(
    listener: Any, notes: Any, path: str | None
) -> None:
    url = listener[0] + path if path else "http://127.0.0.1:9/secret-token"
    notifier(notes, webhook=SecretStr(url)).tell(BAD)
    event, fields = notes.warnings[0]
    assert event == "a notification was not delivered"
    assert "secret-token" not in str(fields)


@pytest.mark.parametrize("url", ["http://127.0.0.1:secret-token/x", "secret-token", "http://a b/"])
def test_urls_that_are_none_are_a_warning_without_secrets(notes: Any, url: str) -> None:
    notifier(notes, webhook=SecretStr(url)).tell(BAD)
    assert notes.warnings[0][0] == "a notification was not delivered"
    assert "secret-token" not in str(notes.warnings[0][1]["reason"])


def test_a_listener_that_talks_nonsense_is_a_warning(notes: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/secret-token"
        notifier(notes, ping=SecretStr(url)).tell(GOOD)
        thread.join()
    assert notes.warnings[0][1]["reason"] == "BadStatusLine"


def test_apprise_urls_without_apprise_are_a_warning(
    notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    notifier(notes, urls=(SecretStr("mailto://x"),)).tell(BAD)
    assert "vbackup[notify]" in notes.warnings[0][0]
