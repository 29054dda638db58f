"""The daemon's web server: `/metrics`, `/healthz` and the status page, all read-only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vbackup.errors import Usage
from vbackup.operate.metrics import exposition
from vbackup.operate.page import render
from vbackup.operate.status import Status

REFRESH_SECONDS = 30
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class StatusServer:
    """Serves until `close`. `address` is where it really listens (port 0 picks a free one)."""

    def __init__(self, listen: str, status: Callable[[], Status], title: str) -> None:
        host, port = split_listen(listen)
        handler = type("Handler", (_Handler,), {"status": staticmethod(status), "title": title})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise Usage(
                f"cannot listen on {listen}: {error.strerror}",
                hint="set schedule.listen to a free address, such as 127.0.0.1:9187",
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

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


class _Handler(BaseHTTPRequestHandler):
    status: Callable[[], Status]
    title: str
    server_version = "vbackup"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer one request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            text = "text/plain; version=0.0.4; charset=utf-8"
            self._answer(HTTPStatus.OK, text, exposition(self.status))
        elif path == "/healthz":
            self._health()
        elif path == "/":
            page = render(self.status(), title=self.title, refresh=REFRESH_SECONDS)
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page.encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not found\n")

    do_HEAD = do_GET  # noqa: N815 - the base's name

    def _health(self) -> None:
        """200 while the daemon works; `protected` says whether the objectives are met."""
        status = self.status()
        body = {"ok": True, "protected": status.protected, "problems": status.problems}
        self._answer(HTTPStatus.OK, "application/json", json.dumps(body).encode() + b"\n")

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
