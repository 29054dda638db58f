"""httpx, where the standard library will not do: proxies, logins in URLs, bodies in pieces."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http.client import HTTPException, UnknownProtocol

import httpx

from vbackup.qdrant.wire import CONNECT_TIMEOUT, Answer, NotConnected, NotConnectedInTime


def connected(
    headers: Mapping[str, str], tls: ssl.SSLContext, timeout: float, *, local: bool
) -> httpx.Client:
    """A client that never uses a connection twice: httpcore may close one that is idle while
    another thread has just been given it (https://github.com/encode/httpcore/issues/1110)."""
    return httpx.Client(
        headers=dict(headers),
        verify=tls,
        timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=0),
        trust_env=not local,
    )


class Pooled:
    """`Transport` through the proxies of the environment, and for URLs with a login."""

    def __init__(
        self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext, *, local: bool
    ) -> None:
        self._url = url
        self._client = connected(headers, tls, CONNECT_TIMEOUT, local=local)

    def request(self, method: str, target: str, content: bytes | None, timeout: float) -> Answer:
        """As `Transport` says."""
        try:
            response = self._client.request(
                method,
                self._url + target,
                content=content,
                headers={"content-type": "application/json"} if content is not None else None,
                timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            )
        except httpx.TransportError as error:
            raise standard(error) from error
        return Answer(response.status_code, response.headers, response.content)

    def close(self) -> None:
        self._client.close()


def standard(error: httpx.TransportError) -> OSError | HTTPException:
    """The exception that the standard library would have raised."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return NotConnectedInTime(reason)
    if isinstance(error, httpx.ConnectError):
        return NotConnected(reason)
    if isinstance(error, httpx.TimeoutException):
        return TimeoutError(reason)
    if isinstance(error, httpx.UnsupportedProtocol):
        return UnknownProtocol(reason)
    return ConnectionError(reason)
