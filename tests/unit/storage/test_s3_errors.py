"""The translation table: every driver's error has one meaning, and none leaks a secret."""

from __future__ import annotations

import socket

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from vbackup.errors import Denied, Failed, NotFound, Refused, Unreachable, Usage, VbackupError
from vbackup.storage.s3_errors import MEANINGS, translate

SECRET = "hunter2hunter2"


def _answer(code: str, status: int, message: str = "m") -> boto.ClientError:
    return boto.ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "",
                "HostId": "",
                "HTTPHeaders": {},
                "RetryAttempts": 0,
            },
        },
        "PutObject",
    )


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        (boto.NoCredentialsError(), Denied, False),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), Denied, False),
        (boto.CredentialRetrievalError(provider="sso", error_msg="expired"), Denied, False),
        (boto.UnauthorizedSSOTokenError(), Denied, False),
        (boto.ProfileNotFound(profile="x"), Usage, False),
        (boto.SSLError(endpoint_url="https://h", error=OSError("bad")), Failed, False),
        (boto.ConnectTimeoutError(endpoint_url="https://h"), Unreachable, True),
        (boto.ReadTimeoutError(endpoint_url="https://h"), Unreachable, True),
        (boto.EndpointConnectionError(endpoint_url="https://h"), Unreachable, True),
        (boto.ProxyConnectionError(proxy_url="http://p"), Unreachable, True),
        (boto.ConnectionClosedError(endpoint_url="https://h"), Unreachable, True),
        (boto.HTTPClientError(error="x"), Unreachable, True),
        (boto.ParamValidationError(report="x"), Usage, False),
        (ResponseParserError("no XML"), Unreachable, True),
        (ReadTimeoutError(None, "/", "slow"), Unreachable, True),  # type: ignore[arg-type]
        (ProtocolError("cut"), Unreachable, True),
        (ConnectionResetError(104, "reset"), Unreachable, True),
        (socket.gaierror(-2, "unknown"), Unreachable, True),
        (boto.UnknownServiceError(service_name="x", known_service_names=""), Failed, False),
        (_answer("Unheard", 418), Failed, False),
        (_answer("Unheard", 503), Unreachable, True),
        (_answer("Unheard", 403), Denied, False),
        (_answer("Unheard", 404), NotFound, False),
        (_answer("Unheard", 501), Refused, False),
        (_answer("Unheard", 507), Failed, False),
        (_answer("BadDigest", 400), Failed, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_meaning(error: Exception, kind: type[VbackupError], retryable: bool) -> None:
    translated = translate(error, "write", "s3://b/k")
    assert type(translated) is kind
    assert translated.retryable is retryable
    assert translated.message.startswith("cannot write s3://b/k: ")


def test_messages_are_one_line_without_secrets() -> None:
    error = _answer("AccessDenied", 403, f"line one\npassword={SECRET} https://u:{SECRET}@h/")
    translated = translate(error, "write", "s3://b/k")
    assert SECRET not in translated.message
    assert "\n" not in translated.message


def test_our_own_error_from_below_the_driver_passes_through() -> None:
    stalled = Unreachable("stalled")
    assert translate(boto.HTTPClientError(error=stalled), "write", "s3://b/k") is stalled


@pytest.mark.parametrize("code", sorted(MEANINGS))
def test_every_code_that_needs_a_person_has_a_hint(code: str) -> None:
    meaning = MEANINGS[code]
    silent = {"NoSuchKey", "NotFound", "404", "PreconditionFailed", "412"}
    assert bool(meaning.hint) is (code not in silent)
    assert meaning.retryable or meaning.kind is not Unreachable
