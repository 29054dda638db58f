"""One Qdrant node's REST API: pooled, timed out, retried, with errors of ours."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from vbackup import redact
from vbackup.config import QdrantConfig
from vbackup.errors import Failed, Unreachable, Usage, VbackupError
from vbackup.ports import Clock
from vbackup.qdrant import failures
from vbackup.qdrant.download import open_stream
from vbackup.qdrant.liveness import watched
from vbackup.qdrant.wire import Transport, Wire, direct

ATTEMPTS = 4
GREETING = 20.0
"""Seconds. A server that works says its version in milliseconds."""
LONGEST_PAUSE = 65.0
"""Seconds. Strict mode's rate limiter asks for up to a minute."""

Params = Mapping[str, str | int | bool]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def collection_path(name: str, *rest: object) -> str:
    """`/collections/{name}/...` with every part quoted; names may hold anything but `/`."""
    return "/collections/" + "/".join(quote(str(part), safe="") for part in (name, *rest))


class Node:
    """One node. Thread-safe; `close` releases its connections."""

    def __init__(self, url: str, options: QdrantConfig, clock: Clock) -> None:
        self.location = shown(url)
        self._options = options
        self._clock = clock
        self._url = url.rstrip("/")
        self._local = urlsplit(url).hostname in LOOPBACK
        self._tls = tls_context(options)
        if options.api_key:
            redact.register(options.api_key.get_secret_value())
        self._transport = self._connect()

    def close(self) -> None:
        self._transport.close()

    def get(self, path: str) -> Any:
        """The `result` of a GET."""
        return self.result("GET", path)

    def result(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """The `result` member of the answer. Options as for `call`."""
        raw = self.call(method, path, body, **options)
        try:
            return msgspec.json.decode(raw)["result"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise self.foreign(method, path) from error

    def greet(self) -> bytes:
        """What a server that works answers at once. Raises Unreachable long before the time-out
        of a request that may take its time."""
        return self.call("GET", "/", timeout=min(self._options.timeout, GREETING))

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Params | None = None,
        timeout: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> bytes:
        """The answer's raw bytes. Requests that are not idempotent pass `attempts=1`."""
        content = None if body is None else msgspec.json.encode(body)
        target = path + ("?" + urlencode(_text(params)) if params else "")
        for attempt in range(1, attempts + 1):
            try:
                return self._once(method, path, target, content, timeout or self._options.timeout)
            except _Retry as retry:
                if attempt == attempts:
                    raise retry.error from retry.error.__cause__
                self._clock.sleep(min(retry.after or 0.1 * 2**attempt, LONGEST_PAUSE))
        raise Unreachable(f"Qdrant at {self.location} was not asked")

    def stream(self, path: str) -> AbstractContextManager[HTTPResponse]:
        """A long GET on a connection of its own, so that no stale keep-alive can break it."""
        return open_stream(
            self._url + path,
            self._headers(),
            timeout=self._options.timeout,
            tls=self._tls,
            proxies={} if self._local else None,
            what=f"GET {path}",
            location=self.location,
        )

    def upload(
        self, path: str, content: Iterator[bytes], headers: dict[str, str], params: Params
    ) -> None:
        """A long POST of a body that cannot be repeated."""
        import httpx

        from vbackup.qdrant.pooled import connected, standard

        what = f"POST {path}"
        patience = self._options.recover_timeout
        with (
            connected(self._headers(), self._tls, patience, local=self._local) as client,
            watched(self.greet, self._options.timeout) as request,
        ):
            try:
                response = client.post(
                    self._url + path,
                    content=content,
                    headers=headers,
                    params=_text(params),
                    extensions={"trace": request.trace},
                )
            except httpx.TransportError as error:
                if request.given_up:
                    raise failures.hangs(self.location, what) from error
                raise failures.of_transport(standard(error), what, self.location) from error
        if response.status_code != HTTPStatus.OK:
            raise failures.of_status(response.status_code, response.content, what, self.location)

    def foreign(self, method: str, path: str) -> VbackupError:
        """The answer is not what a Qdrant says."""
        return Failed(
            f"{self.location} does not answer {method} {path} like a Qdrant REST API",
            hint="check the path and port in [qdrant] url (REST is 6333 by default)",
        )

    def _once(
        self, method: str, path: str, target: str, content: bytes | None, timeout: float
    ) -> bytes:
        what = f"{method} {path}"
        try:
            answer = self._transport.request(method, target, content, timeout)
        except (OSError, HTTPException) as error:
            translated = failures.of_transport(error, what, self.location)
            late = isinstance(error, TimeoutError)
            if late and what == "GET /":
                translated = failures.hangs(self.location)
            if translated.retryable and not late:
                raise _Retry(translated, None) from error
            raise translated from error
        if answer.status == HTTPStatus.OK:
            return answer.body
        refused = failures.of_status(answer.status, answer.body, what, self.location)
        if isinstance(refused, Unreachable):
            raise _Retry(refused, _seconds(answer.headers.get("retry-after")))
        raise refused

    def _connect(self) -> Transport:
        if direct(self._url, local=self._local):
            return Wire(self._url, self._headers(), self._tls, self._clock)
        from vbackup.qdrant.pooled import Pooled

        return Pooled(self._url, self._headers(), self._tls, local=self._local)

    def _headers(self) -> dict[str, str]:
        # Compression would cost more than it saves, and would hide a stream's first bytes.
        headers = {"accept-encoding": "identity"}
        if key := self._options.api_key:
            headers["api-key"] = key.get_secret_value()
        return headers


class _Retry(Exception):
    """Carries an error that another try may cure, and the seconds the server asks to wait."""

    def __init__(self, error: VbackupError, after: float | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


def tls_context(options: QdrantConfig) -> ssl.SSLContext:
    """Whom to trust. Raises Usage when there is no such file."""
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Usage(f"[qdrant] ca_file {options.ca_file}: {reason}") from error
    if not options.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def shown(url: str) -> str:
    """The URL for people: without user and password. Raises Usage for what is no URL."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise Usage("[qdrant] url: not a URL", hint="write http://host:6333") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Usage("[qdrant] url: not an http:// or https:// URL", hint="write http://host:6333")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _text(params: Params) -> dict[str, str]:
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in params.items()}


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None
