"""One Qdrant node's REST API: pooled, timed out, retried, with errors of ours."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from vbackup import redact
from vbackup.config import QdrantConfig
from vbackup.errors import Failed, Unreachable, Usage, VbackupError
from vbackup.ports import Clock
from vbackup.qdrant import failures
from vbackup.qdrant.download import open_stream
from vbackup.qdrant.liveness import watched
from vbackup.qdrant.wire import Wire, direct

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
        self._tls = _tls(options)
        if options.api_key:
            redact.register(options.api_key.get_secret_value())
        self._client = self._connect(options.timeout)
        wire = Wire(self._url, self._headers(), options.timeout, self._tls, clock)
        self._wire = wire if direct(url, local=self._local) else None

    def close(self) -> None:
        self._client.close()
        if self._wire:
            self._wire.close()

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
        return self._tried(lambda: self._once(method, path, content, params, timeout), attempts)

    def read(self, path: str, body: object) -> bytes:
        """The raw answer to a POST that only reads: long pages, many of them."""
        if self._wire is None:
            return self.call("POST", path, body)
        wire, content = self._wire, msgspec.json.encode(body)
        return self._tried(lambda: self._read_once(wire, path, content), ATTEMPTS)

    def _tried(self, ask: Callable[[], bytes], attempts: int) -> bytes:
        for attempt in range(1, attempts + 1):
            try:
                return ask()
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
        what = f"POST {path}"
        with (
            self._connect(self._options.recover_timeout) as client,
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
                raise failures.of_transport(error, what, self.location) from error
        if response.status_code != httpx.codes.OK:
            raise failures.of_status(response.status_code, response.content, what, self.location)

    def foreign(self, method: str, path: str) -> VbackupError:
        """The answer is not what a Qdrant says."""
        return Failed(
            f"{self.location} does not answer {method} {path} like a Qdrant REST API",
            hint="check the path and port in [qdrant] url (REST is 6333 by default)",
        )

    def _once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        params: Params | None,
        timeout: float | None,
    ) -> bytes:
        what = f"{method} {path}"
        try:
            response = self._client.request(
                method,
                self._url + path,
                content=content,
                params=_text(params),
                headers={"content-type": "application/json"} if content is not None else None,
                timeout=timeout or self._options.timeout,
            )
        except httpx.TransportError as error:
            translated = failures.of_transport(error, what, self.location)
            if what == "GET /" and isinstance(error, httpx.TimeoutException):
                translated = failures.hangs(self.location)
            if translated.retryable and not isinstance(error, httpx.TimeoutException):
                raise _Retry(translated, None) from error
            raise translated from error
        return self._accepted(response.status_code, response.headers, response.content, what)

    def _read_once(self, wire: Wire, path: str, content: bytes) -> bytes:
        what = f"POST {path}"
        try:
            answer = wire.post(path, content)
        except (OSError, HTTPException) as error:
            translated = failures.of_transport(error, what, self.location)
            if translated.retryable and not isinstance(error, TimeoutError):
                raise _Retry(translated, None) from error
            raise translated from error
        return self._accepted(answer.status, answer.headers, answer.body, what)

    def _accepted(self, status: int, headers: Mapping[str, str], body: bytes, what: str) -> bytes:
        if status == httpx.codes.OK:
            return body
        refused = failures.of_status(status, body, what, self.location)
        if isinstance(refused, Unreachable):
            raise _Retry(refused, _seconds(headers.get("retry-after")))
        raise refused

    def _connect(self, timeout: float) -> httpx.Client:
        return httpx.Client(
            headers=self._headers(),
            verify=self._tls,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            # Qdrant closes idle connections after five seconds: leave them a little earlier.
            limits=httpx.Limits(
                max_connections=64, max_keepalive_connections=16, keepalive_expiry=4
            ),
            trust_env=not self._local,
        )

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


def _tls(options: QdrantConfig) -> ssl.SSLContext:
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


def _text(params: Params | None) -> dict[str, str] | None:
    if params is None:
        return None
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in params.items()}


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None
