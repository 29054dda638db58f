"""Long answers, read as fast as the server sends them.

Qdrant sends shard snapshots in chunks of three or four kilobytes. The pooled client spends three
times as long on each as the standard library does, and while a reader lags behind, Qdrant 1.16
lets nobody write to the shard.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from urllib.parse import unquote, urlsplit

from vbackup.qdrant import failures


@contextmanager
def open_stream(
    url: str,
    headers: Mapping[str, str],
    *,
    timeout: float,
    tls: ssl.SSLContext,
    proxies: Mapping[str, str] | None,
    what: str,
    location: str,
) -> Iterator[http.client.HTTPResponse]:
    """A GET whose body the caller reads piece by piece (`read1`, `readinto`).

    `timeout` bounds each wait for bytes. `proxies` None takes the environment's. What fails
    while the body is read is translated as well. A body that ends early raises.
    """
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(dict(proxies) if proxies is not None else None),
        urllib.request.HTTPSHandler(context=tls),
    )
    request = _request(url, headers)
    try:
        with closing(opener.open(request, timeout=timeout)) as response:
            yield response
    except urllib.error.HTTPError as error:
        with closing(error):
            raise failures.of_status(error.code, error.read(65536), what, location) from error
    except (OSError, http.client.HTTPException) as error:
        raise failures.of_transport(error, what, location) from error


@contextmanager
def severable(response: http.client.HTTPResponse) -> Iterator[Callable[[], None]]:
    """Gives what ends the connection below a response: whoever waits for bytes of it wakes."""
    with socket.socket(fileno=os.dup(response.fileno())) as connection:

        def sever() -> None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        yield sever


def _request(url: str, headers: Mapping[str, str]) -> urllib.request.Request:
    """The request; a login in the URL becomes the header that httpx would send."""
    parts = urlsplit(url)
    found = dict(headers)
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        found["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    # Only http and https get here: rest.shown refuses anything else.
    return urllib.request.Request(url, headers=found)  # noqa: S310
