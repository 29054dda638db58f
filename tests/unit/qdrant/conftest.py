"""A server that answers what a test tells it to, over real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, bytes, dict[str, str]]
"""Status (0: hang up without a word), body, headers."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is what some tests are about."""


class ScriptedServer:
    """Answers by method and path (without query): one answer after the other, the last for ever."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._script: dict[tuple[str, str], list[Answer | Callable[[Request], Answer]]] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def on(self, method: str, path: str, *answers: Answer | Callable[[Request], Answer]) -> None:
        self._script[method, path] = list(answers)

    def results(self, method: str, path: str, *values: Any) -> None:
        """The same with values that are each the `result` of an answer."""
        self.on(method, path, *(self.result(value) for value in values))

    def result(self, value: Any) -> Answer:
        return 200, json.dumps({"result": value, "status": "ok", "time": 0.0}).encode(), {}

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of this kind so far."""
        return [r for r in self.requests if (r.method, r.path.partition("?")[0]) == (method, path)]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _next(self, request: Request) -> Answer:
        self.requests.append(request)
        answers = self._script.get((request.method, request.path.partition("?")[0]))
        if not answers:
            text = f"Not found: nothing is scripted for {request.method} {request.path}"
            return 404, json.dumps({"status": {"error": text}}).encode(), {}
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(request) if callable(answer) else answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._respond
                raise AttributeError(name)

            def _respond(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                named = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, named, self.rfile.read(size))
                status, body, headers = scripted._next(request)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def servers() -> Iterator[Callable[[], ScriptedServer]]:
    """`servers()` starts another one."""
    made: list[ScriptedServer] = []

    def make() -> ScriptedServer:
        made.append(ScriptedServer())
        return made[-1]

    yield make
    for scripted in made:
        scripted.close()


@pytest.fixture
def server(servers: Callable[[], ScriptedServer]) -> ScriptedServer:
    return servers()
