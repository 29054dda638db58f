"""What S3's and botocore's errors mean for a backup: one table, translated once."""

from __future__ import annotations

from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from vbackup.errors import (
    AlreadyExists,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    Usage,
    VbackupError,
)
from vbackup.redact import scrub

DRIVER_ERRORS = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError, OSError)
"""Everything that a call of the S3 client or a read of its body raises."""


@dataclass(frozen=True, slots=True)
class Meaning:
    kind: type[VbackupError]
    hint: str = ""
    retryable: bool = False


_OVERLOADED = Meaning(
    Unreachable, "the store is overloaded or restarting; lower repository.upload_jobs", True
)
_IN_TRANSIT = Meaning(
    Failed, "bytes changed on their way; if it stays, check network and RAM", True
)
_REGION = Meaning(
    Usage, "set repository.region to the bucket's region (aws s3api get-bucket-location)"
)
_KEY = Meaning(
    Denied, "check repository.access_key_id and secret_access_key, or the AWS_* environment"
)
_EXPIRED = Meaning(Denied, "log in again (aws sso login) or renew repository.session_token")
_NO_ACTION = Meaning(Denied, "compare the key's policy with deploy/s3/ (docs/storage.md)")
_REDIRECT = Meaning(
    Failed, "the store answers with a redirect: name the final address in repository.endpoint_url"
)
_UNSUPPORTED = Meaning(Refused, "this store does not implement it; see docs/storage.md")

MEANINGS: dict[str, Meaning] = {
    "NoSuchBucket": Meaning(NotFound, "create the bucket (aws s3 mb), or correct repository.url"),
    "NoSuchKey": Meaning(NotFound),
    "NotFound": Meaning(NotFound),
    "404": Meaning(NotFound),
    "PreconditionFailed": Meaning(AlreadyExists),
    "412": Meaning(AlreadyExists),
    "ConditionalRequestConflict": Meaning(Unreachable, "another writer has the same key", True),
    "OperationAborted": Meaning(Unreachable, "another operation is under way", True),
    "RequestTimeTooSkewed": Meaning(
        Denied, "this machine's clock is wrong by more than 15 minutes: start NTP (timedatectl)"
    ),
    "RequestExpired": Meaning(Denied, "this machine's clock is wrong: start NTP (timedatectl)"),
    "AuthorizationHeaderMalformed": _REGION,
    "AuthorizationQueryParametersError": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "IllegalLocationConstraint": _REGION,
    "InvalidRegion": _REGION,
    "301": _REGION,
    "TemporaryRedirect": _REDIRECT,
    "Redirect": _REDIRECT,
    "302": _REDIRECT,
    "307": _REDIRECT,
    "308": _REDIRECT,
    "InvalidAccessKeyId": _KEY,
    "SignatureDoesNotMatch": _KEY,
    "UnrecognizedClientException": _KEY,
    "InvalidClientTokenId": _KEY,
    "InvalidSecurity": _KEY,
    "401": _KEY,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "AccessDenied": _NO_ACTION,
    "AccessDeniedException": _NO_ACTION,
    "AllAccessDisabled": _NO_ACTION,
    "AccountProblem": _NO_ACTION,
    "Forbidden": _NO_ACTION,
    "403": _NO_ACTION,
    "KMS.DisabledException": Meaning(Denied, "enable the KMS key of repository.kms_key_id"),
    "KMS.NotFoundException": Meaning(Denied, "correct repository.kms_key_id"),
    "InvalidObjectState": Meaning(
        Failed, "the object is archived: restore it (aws s3api restore-object), then try again"
    ),
    "QuotaExceeded": Meaning(Failed, "raise the bucket's quota, or run vbackup prune"),
    "XMinioStorageFull": Meaning(Failed, "the store's disks are full"),
    "507": Meaning(Failed, "the store's disks are full"),
    "EntityTooLarge": Meaning(Usage, "lower repository.pack_size"),
    "KeyTooLongError": Meaning(Usage, "shorten the prefix in repository.url"),
    "InvalidBucketName": Meaning(Usage, "correct the bucket in repository.url"),
    "InvalidStorageClass": Meaning(Usage, "correct repository.storage_class"),
    "NotImplemented": _UNSUPPORTED,
    "MethodNotAllowed": _UNSUPPORTED,
    "405": _UNSUPPORTED,
    "501": _UNSUPPORTED,
    "BadDigest": _IN_TRANSIT,
    "InvalidDigest": _IN_TRANSIT,
    "XAmzContentSHA256Mismatch": _IN_TRANSIT,
    "IncompleteBody": _IN_TRANSIT,
    "SlowDown": _OVERLOADED,
    "ServiceUnavailable": _OVERLOADED,
    "Throttling": _OVERLOADED,
    "ThrottlingException": _OVERLOADED,
    "RequestLimitExceeded": _OVERLOADED,
    "TooManyRequests": _OVERLOADED,
    "BandwidthLimitExceeded": _OVERLOADED,
    "ServerBusy": _OVERLOADED,
    "InternalError": _OVERLOADED,
    "RequestTimeout": _OVERLOADED,
    "429": _OVERLOADED,
    "408": _OVERLOADED,
}

_LOCKED = Meaning(
    Refused, "Object Lock holds it; it can go when its retention ends (docs/storage.md)"
)
_NO_LOCK = Meaning(Usage, "turn on Object Lock for the bucket, or remove repository.object_lock")
_NO_CREDENTIALS = Meaning(
    Denied,
    "set repository.access_key_id and secret_access_key, AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, repository.profile, or give this machine a role",
)
_NO_LOGIN = Meaning(Denied, "log in again (aws sso login), or check the role of this machine")
_PROFILE = Meaning(Usage, "correct repository.profile (aws configure list-profiles)")
_ENDPOINT = Meaning(Usage, "correct repository.endpoint_url and region")
_TLS = Meaning(
    Failed,
    "name the authority in repository.ca_file; an http:// endpoint does not speak TLS at all",
)
_NETWORK = Meaning(Unreachable, "check repository.endpoint_url, DNS, firewall and proxy", True)
_TIMEOUT = Meaning(Unreachable, "the store is too slow; raise repository.read_timeout", True)
_CUT = Meaning(Unreachable, "the connection was cut on its way", True)
_NOT_S3 = Meaning(
    Unreachable, "is repository.endpoint_url the S3 API, not a web console or a proxy?", True
)

# Most specific first.
_CLIENT_SIDE: tuple[tuple[tuple[type[Exception], ...], Meaning], ...] = (
    ((boto.NoCredentialsError, boto.PartialCredentialsError), _NO_CREDENTIALS),
    ((boto.ProfileNotFound, boto.ConfigParseError, boto.ConfigNotFound), _PROFILE),
    (
        (
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.NoAuthTokenError,
            boto.MetadataRetrievalError,
            boto.SSOError,
        ),
        _NO_LOGIN,
    ),
    ((boto.SSLError,), _TLS),
    ((boto.ConnectTimeoutError, boto.ReadTimeoutError), _TIMEOUT),
    ((boto.ProxyConnectionError, boto.EndpointConnectionError), _NETWORK),
    ((boto.ConnectionClosedError, boto.ResponseStreamingError, boto.IncompleteReadError), _CUT),
    ((boto.FlexibleChecksumError,), _IN_TRANSIT),
    (
        (
            boto.NoRegionError,
            boto.InvalidRegionError,
            boto.EndpointProviderError,
            boto.ParamValidationError,
            boto.InvalidDNSNameError,
            boto.UnsupportedS3ConfigurationError,
        ),
        _ENDPOINT,
    ),
    ((ResponseParserError,), _NOT_S3),
    ((TimeoutError, HTTPTimeout), _TIMEOUT),
    ((HTTPError, boto.HTTPClientError, boto.ConnectionError, OSError), _CUT),
)


def translate(error: Exception, verb: str, what: str) -> VbackupError:
    """The vbackup error for a driver's; one line, without secrets.

    `verb` and `what` name what failed: "write", "s3://bucket/packs/ab/cd".
    """
    inner = getattr(error, "kwargs", {}).get("error")
    if isinstance(inner, VbackupError):  # raised by our own body reader, below botocore
        return inner
    if isinstance(error, boto.ClientError):
        meaning, reason = _from_answer(error)
    else:
        meaning, reason = _from_client(error), str(error).strip() or type(error).__name__
    message = scrub(" ".join(f"cannot {verb} {what}: {reason}".split()))
    return meaning.kind(message, hint=meaning.hint, retryable=meaning.retryable)


def answer_code(error: boto.ClientError) -> str:
    """S3's error code, or the HTTP status as text where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def answer_status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def meaning_of(code: str, status: int = 0, message: str = "") -> Meaning:
    """What an error code says; an unknown one by its HTTP status."""
    said = message.lower().replace(" ", "")
    if code == "AccessDenied" and ("objectlock" in said or "worm" in said):
        return _LOCKED
    if code == "InvalidRequest" and "objectlockconfiguration" in said:
        return _NO_LOCK
    known = MEANINGS.get(code)
    if known is not None:
        return known
    if status >= 500 and status not in {501, 507}:
        return _OVERLOADED
    return MEANINGS.get(str(status), Meaning(Failed))


def _from_answer(error: boto.ClientError) -> tuple[Meaning, str]:
    code, message = answer_code(error), str(error.response.get("Error", {}).get("Message", ""))
    meaning = meaning_of(code, answer_status(error), message)
    if meaning is _NO_ACTION:
        needed = f"s3:{_ACTIONS.get(error.operation_name, error.operation_name)}"
        meaning = Meaning(Denied, f"the key needs {needed}; {_NO_ACTION.hint}")
    return meaning, f"{code}: {message}" if message and message != code else code


_ACTIONS = {
    "HeadObject": "GetObject (and s3:ListBucket, or absent objects look forbidden)",
    "GetObject": "GetObject (and s3:ListBucket, or absent objects look forbidden)",
    "ListObjectsV2": "ListBucket",
    "DeleteObjects": "DeleteObject",
}


def _from_client(error: Exception) -> Meaning:
    for kinds, meaning in _CLIENT_SIDE:
        if isinstance(error, kinds):
            return meaning
    return Meaning(Failed)
