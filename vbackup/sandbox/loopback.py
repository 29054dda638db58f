"""Free ports on 127.0.0.1, and plain HTTP to the servers that were started there."""

from __future__ import annotations

import http.client
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import TypeVar

from vbackup.errors import Failed

HOST = "127.0.0.1"
# Below the usual range of outgoing connections, which could take a port between look and use.
_FIRST, _LAST = 15000, 31999
_ATTEMPTS = 4

_Started = TypeVar("_Started")


def free_ports(count: int) -> list[int]:
    """Distinct ports that nobody listens on right now. Raises Failed when none is left."""
    found: set[int] = set()
    for _ in range(200 * count):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST + 1)
        if _is_free(port):
            found.add(port)
        if len(found) == count:
            return sorted(found)
    raise Failed(f"no free ports between {_FIRST} and {_LAST} on {HOST}")


def on_free_ports(count: int, start: Callable[[list[int]], _Started]) -> _Started:
    """Start a server on free ports, and again on others when somebody was faster."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return start(free_ports(count))
        except Failed as error:
            if "in use" not in f"{error.message} {error.hint}":
                raise
    return start(free_ports(count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def request(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 2.0,
) -> tuple[int, bytes]:
    """Status and body; status 0 when nobody answers. Proxies are never asked for loopback."""
    asked = urllib.request.Request(url, body, dict(headers or {}), method=method)  # noqa: S310 (our own http:// addresses)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except (OSError, http.client.HTTPException):
        return 0, b""
