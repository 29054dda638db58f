"""The daemon's web server: `/metrics`, `/healthz` and the status page, all read-only."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Protocol

from vbackup.errors import Usage, VbackupError
from vbackup.operate.metrics import exposition
from vbackup.operate.status import Status
from vbackup.ports import Reporter

REFRESH_SECONDS = 30
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Pages(Protocol):
    """What is served."""

    def status(self) -> Status:
        """Raises Failed."""
        ...

    def page(self) -> str:
        """The status page. Raises Failed."""
        ...

    def working(self) -> bool:
        """Whether the scheduler lives."""
        ...


class StatusServer:
    """Serves until `close`. `address` is where it really listens (port 0 picks a free one)."""

    def __init__(self, listen: str, pages: Pages, reporter: Reporter) -> None:
        host, port = split_listen(listen)
        handler = type("Handler", (_Handler,), {"pages": pages, "reporter": reporter})
        server = _Server6 if ":" in host else _Server
        try:
            self._server = server((host, port), handler)
        except OSError as error:
            raise Usage(
                f"cannot listen on {listen}: {error.strerror}",
                hint="set schedule.listen to a free address, such as 127.0.0.1:9187",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def split_listen(listen: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[::1]:port` or `:port`. Raises Usage."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise Usage(f"schedule.listen: {listen!r} is not host:port", hint="write 127.0.0.1:9187")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - asked for by ":port"


class _Server(ThreadingHTTPServer):
    # A client that is slow or silent holds a thread of its own, for at most _Handler.timeout.
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the base's reverse lookup, which waits where there is no name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    reporter: Reporter
    server_version = "vbackup"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        kind, make = _ROUTES.get(path, ("", None))
        if make is None:
            self._answer(HTTPStatus.NOT_FOUND, TEXT, b"not found\n")
            return
        try:
            code, body = make(self.pages)
        except VbackupError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"{error.message}\n".encode())
        # Whatever is wrong with one page, the daemon's log says it and the client sees it.
        except Exception as error:  # noqa: BLE001
            self.reporter.warn("a page could not be made", path=path, reason=repr(error))
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"see the daemon's log\n")
        else:
            self._answer(code, kind, body)

    do_HEAD = do_GET  # noqa: N815 - the base's name

    def _answer(self, code: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(code)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Scrapes are not worth a log line each."""


def _health(pages: Pages) -> tuple[HTTPStatus, bytes]:
    """200 while the daemon works; `protected` says whether the objectives are met. Where the
    history cannot be read nobody knows, but who restarts what is not healthy would end a running
    backup for it."""
    working = pages.working()
    try:
        problems = pages.status().problems
    except VbackupError as error:
        problems = [error.message]
    body = {"ok": working, "protected": not problems, "problems": problems}
    code = HTTPStatus.OK if working else HTTPStatus.SERVICE_UNAVAILABLE
    return code, json.dumps(body).encode() + b"\n"


TEXT = "text/plain; charset=utf-8"
_ROUTES: dict[str, tuple[str, Callable[[Pages], tuple[HTTPStatus, bytes]]]] = {
    "/": ("text/html; charset=utf-8", lambda pages: (HTTPStatus.OK, pages.page().encode())),
    "/healthz": ("application/json", _health),
    "/metrics": (
        "text/plain; version=0.0.4; charset=utf-8",
        lambda pages: (HTTPStatus.OK, exposition(pages.status)),
    ),
}
