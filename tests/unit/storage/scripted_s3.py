"""A tiny HTTP server that answers as an S3 server would on a bad day, by script."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_DATE = "Mon, 23 Nov 2026 01:40:00 GMT"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the next answer of the script."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        self.server.next_answer(asked)(self)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A well-formed answer; header names with underscores for dashes."""
        self.begin(status, len(body), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Last-Modified", _DATE)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Silent."""


Answer = Callable[[Handler], None]


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stopping = threading.Event()
        self.asked: list[Asked] = []
        self.script: list[Answer] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        if self.script:
            return self.script.pop(0)
        return status(500, "ScriptEnded")

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def status(code: int, name: str = "", message: str = "a message", **headers: str) -> Answer:
    """S3's XML error, or an empty body without a name."""
    body = f"<Error><Code>{name}</Code><Message>{message}</Message></Error>" if name else ""
    return lambda handler: handler.reply(code, body.encode(), **headers)


def ok(body: bytes = b"", code: int = 200, **headers: str) -> Answer:
    return lambda handler: handler.reply(code, body, **headers)


def page(keys: list[str], token: str = "") -> Answer:
    """One page of a list; `token`: more follows."""
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size>"
        "<LastModified>2026-11-23T01:40:00Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>"
    if token and token != "missing":
        more += f"<NextContinuationToken>{token}</NextContinuationToken>"
    return ok(f"<ListBucketResult>{more}{contents}</ListBucketResult>".encode())


def reset(handler: Handler) -> None:
    """Cut the connection with a RST instead of an answer."""
    _abort(handler.connection)
    handler.close_connection = True


def truncated(body: bytes, keep: int, **headers: str) -> Answer:
    """Announce all of the body, send some of it, hang up."""

    def answer(handler: Handler) -> None:
        handler.begin(206 if "Content_Range" in headers else 200, len(body), **headers)
        handler.wfile.write(body[:keep])
        handler.close_connection = True

    return answer


def reset_midway(body: bytes, keep: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin(200, len(body))
        handler.wfile.write(body[:keep])
        handler.wfile.flush()
        reset(handler)

    return answer


def announced(length: int, body: bytes) -> Answer:
    """A wrong Content-Length."""

    def answer(handler: Handler) -> None:
        handler.begin(200, length)
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def trickle(handler: Handler) -> None:
    """A byte every few milliseconds, for ever."""
    stopping = handler.server.stopping
    handler.begin(200, 1_000_000)
    while not stopping.wait(0.01):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def silence(handler: Handler) -> None:
    """No answer at all."""
    handler.server.stopping.wait(30)
    handler.close_connection = True


def _abort(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@dataclass(slots=True)
class DeafServer:
    """Accepts a connection and never reads from it: uploads get stuck."""

    port: int = 0
    _socket: socket.socket = field(default_factory=socket.socket)

    def __enter__(self) -> DeafServer:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(8)
        self.port = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
