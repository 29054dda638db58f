"""Requests over plain keep-alive connections of the standard library, each used by one thread.

A comparison of millions of points spends more on a pooled client's handling of each answer than
on reading what is in it (2 ms a page of 10,000 points, against 1 ms here), and a short command
more on loading one than on all it asks. Pools that threads share may also close a connection that
another thread was just given (https://github.com/encode/httpcore/issues/1110): a connection is
taken out of this one before it is looked at.
"""

from __future__ import annotations

import http.client
import select
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from vbackup.ports import Clock

CONNECT_TIMEOUT = 10.0
IDLE = 4.0
"""Seconds. Qdrant closes idle connections after five: leave them a little earlier."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotConnected(OSError):
    """Nobody took the connection, so nothing was asked."""


class NotConnectedInTime(NotConnected, TimeoutError):
    """Nobody answered at all: another try would wait as long."""


class Transport(Protocol):
    """What carries the requests to one server. Thread-safe."""

    def request(self, method: str, target: str, content: bytes | None, timeout: float) -> Answer:
        """One request; `target` is path and query, `timeout` bounds each wait in seconds.

        Raises OSError (NotConnected, TimeoutError) and http.client.HTTPException."""

    def close(self) -> None:
        """Release the connections."""


def direct(url: str, *, local: bool) -> bool:
    """Whether a server is reached without proxy and login, so that a plain connection will do."""
    parts = urlsplit(url)
    if parts.username is not None or not parts.hostname:
        return False
    return local or not getproxies() or bool(proxy_bypass(parts.hostname))


class Wire:
    """Connections to one server: as many as there are requests at a time. Thread-safe."""

    def __init__(
        self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext, clock: Clock
    ) -> None:
        self._parts = urlsplit(url)
        self._headers = dict(headers)
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []

    def request(self, method: str, target: str, content: bytes | None, timeout: float) -> Answer:
        """As `Transport` says; a connection that failed is not used again."""
        connection = self._taken(timeout)
        headers = self._headers
        if content is not None:
            headers = headers | {"content-type": "application/json"}
        try:
            connection.request(method, self._parts.path + target, content, headers)
            response = connection.getresponse()
            answer = Answer(response.status, _lower(response), response.read())
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append((self._clock.monotonic() + IDLE, connection))
        return answer

    def close(self) -> None:
        with self._lock:
            for _, connection in self._idle:
                connection.close()
            self._idle.clear()

    def _taken(self, timeout: float) -> http.client.HTTPConnection:
        now = self._clock.monotonic()
        with self._lock:
            while self._idle:
                until, connection = self._idle.pop()
                if now < until and not _hung_up(connection):
                    connection.sock.settimeout(timeout)
                    return connection
                connection.close()
        return self._opened(timeout)

    def _opened(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port or _PORTS[self._parts.scheme]
        most = min(timeout, CONNECT_TIMEOUT)
        connection = (
            http.client.HTTPSConnection(host, port, timeout=most, context=self._tls)
            if self._parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=most)
        )
        try:
            connection.connect()
        except BaseException as error:
            connection.close()
            if isinstance(error, TimeoutError):
                raise NotConnectedInTime(str(error)) from error
            if isinstance(error, OSError):
                raise NotConnected(str(error)) from error
            raise
        connection.sock.settimeout(timeout)
        return connection


def _hung_up(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed an idle connection: there is something to read, the end."""
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return bool(waiting.poll(0))


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
