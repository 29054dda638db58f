"""Qdrant's and HTTP's failures, turned into vbackup's once, the most specific first."""

from __future__ import annotations

import ssl
from http.client import UnknownProtocol

import msgspec

from vbackup.errors import (
    AlreadyExists,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    VbackupError,
)
from vbackup.qdrant.wire import NotConnected

_REACH = "check that Qdrant runs there and that [qdrant] url or nodes names it"
_TLS = "set [qdrant] ca_file to the CA that signed the server's certificate"


class NotAsked(Unreachable):
    """No connection was made: the server has not heard of the request."""


def of_transport(error: Exception, what: str, location: str) -> VbackupError:
    """The request never got a whole answer: an exception of the standard library."""
    cause = _tls_cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Failed(f"{location}: certificate not trusted ({cause.verify_message})", hint=_TLS)
    if isinstance(cause, ssl.SSLError):
        hint = "write http:// in [qdrant] url if the server does not use TLS"
        return Failed(f"{location}: TLS failed ({cause.reason or cause})", hint=hint)
    if isinstance(error, UnknownProtocol):
        return Failed(f"{location}: not an http:// or https:// URL", hint=_REACH)
    if isinstance(error, TimeoutError) and not isinstance(error, NotConnected):
        hint = "raise [qdrant] timeout, or look at the server's load"
        return Unreachable(f"Qdrant at {location} did not answer {what} in time", hint=hint)
    reason = str(error) or type(error).__name__
    kind = NotAsked if isinstance(error, NotConnected) else Unreachable
    return kind(f"Qdrant at {location} does not answer {what}: {reason}", hint=_REACH)


def hangs(location: str, what: str = "") -> Unreachable:
    """It takes connections, and does nothing with them."""
    during = f", and {what} was given up" if what else ""
    hint = "it hangs or is overloaded: look at its log and load, and restart it if need be"
    message = f"Qdrant at {location} does not answer any more{during}"
    return Unreachable(message, hint=hint, retryable=not what)


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def of_status(status: int, body: bytes, what: str, location: str) -> VbackupError:
    """The server answered, with an error status."""
    reason = _reason(body)
    message = f"{what} on {location}: {reason or f'HTTP {status}'}"
    if status in (401, 403):
        return Denied(message, hint=_denied_hint(reason))
    if status == 404:
        return _of_missing(reason, message, location)
    if status == 409 or (status == 400 and "already exists" in reason):
        return AlreadyExists(message, hint="choose another name, or drop what is there")
    if status == 413:
        return Failed(message, hint="raise service.max_request_size_mb on the server")
    if status == 429 or status in (502, 503, 504):
        return Unreachable(message, hint="the server or a proxy limits requests; try again later")
    if status == 400 and "Help:" in reason:
        hint = "strict mode of the collection forbids this; relax strict_mode_config and try again"
        return Refused(message, hint=hint)
    if 300 <= status < 400:
        return Failed(message, hint="put the address it redirects to into [qdrant] url")
    return Failed(message, retryable=status >= 500)


def _of_missing(reason: str, message: str, location: str) -> VbackupError:
    if reason.startswith(("Not found", "Not Found")):
        return NotFound(message, hint="vbackup check lists the collections that are there")
    hint = "check the path and port in [qdrant] url (REST is 6333 by default, gRPC is not spoken)"
    return Failed(f"{location} does not look like a Qdrant REST API: {message}", hint=hint)


def _denied_hint(reason: str) -> str:
    if "write access" in reason or "manage" in reason.lower():
        return "this key only reads; snapshots and restores need the server's full api_key"
    return "set [qdrant] api_key, for instance to ${env:QDRANT_API_KEY}"


def _reason(body: bytes) -> str:
    """The message inside an error body, on one line and not longer than a line should be."""
    try:
        decoded = msgspec.json.decode(body)
        status = decoded.get("status") if isinstance(decoded, dict) else None
        text = status["error"] if isinstance(status, dict) else ""
    except (msgspec.DecodeError, KeyError):
        text = body[:1000].decode("utf-8", "replace")
    return " ".join(str(text).split())[:400]
