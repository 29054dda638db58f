"""A botocore S3 client out of the repository's configuration.

botocore alone, without boto3: the same credential chain (keys, environment, profile, SSO, web
identity, container and instance roles), and no transfer manager (s3transfer can deadlock).
Its own retries are off: `vbackup.storage.retrying` is the one policy.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import botocore.session
import urllib3
from botocore.awsrequest import AWSRequest
from botocore.config import Config as ClientConfig
from pydantic import SecretStr
from urllib3.exceptions import InsecureRequestWarning

from vbackup.config import RepositoryConfig
from vbackup.errors import Usage
from vbackup.redact import safe_url
from vbackup.storage.s3_errors import DRIVER_ERRORS, translate

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_METADATA_TIMEOUT = 2
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Addressing = Literal["path", "virtual"]


def endpoint_of(config: RepositoryConfig) -> str | None:
    """The endpoint that is not AWS: from the configuration, else from the environment."""
    if config.endpoint_url:
        return config.endpoint_url
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return next(filter(None, map(os.environ.get, _ENDPOINT_VARIABLES)), None)


def connect(config: RepositoryConfig, bucket: str) -> S3Client:
    """A client for `bucket`. Nothing is sent yet. Raises Usage, Denied."""
    if (config.access_key_id is None) != (config.secret_access_key is None):
        raise Usage("repository.access_key_id and repository.secret_access_key go together")
    endpoint = endpoint_of(config)
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise Usage(
            f"repository.endpoint_url is not a URL: {safe_url(endpoint)}",
            hint=f"write https://{safe_url(endpoint)}",
        )
    try:
        session = botocore.session.Session(profile=config.profile)
        # An absent metadata service must not cost a minute when there are no credentials.
        session.set_config_variable("metadata_service_timeout", _METADATA_TIMEOUT)
        region = config.region or session.get_config_variable("region") or "us-east-1"
        client = session.create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            verify=_verify(config),
            config=_client_config(config, bucket, endpoint),
            aws_access_key_id=_plain(config.access_key_id),
            aws_secret_access_key=_plain(config.secret_access_key),
            aws_session_token=_plain(config.session_token),
        )
    except (*DRIVER_ERRORS, ValueError) as error:
        raise translate(error, "open", f"s3://{bucket}") from error
    _adapt(client, endpoint)
    return cast("S3Client", client)


def _verify(config: RepositoryConfig) -> bool | str | None:
    if not config.verify_tls:
        urllib3.disable_warnings(InsecureRequestWarning)  # the user asked for it
        return False
    return str(config.ca_file) if config.ca_file else None


def _plain(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


def _client_config(config: RepositoryConfig, bucket: str, endpoint: str | None) -> ClientConfig:
    return ClientConfig(
        signature_version="s3v4",
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        max_pool_connections=2 * config.upload_jobs + 8,
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
        # Checksums are sent by S3Store itself: botocore's trailers are unknown to many servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": _addressing(config, bucket, endpoint),
            "payload_signing_enabled": _signs_payload(config, endpoint),
        },
        user_agent_extra="vbackup",
        # A proxy of this machine's environment does not know what listens on this machine.
        proxies={} if endpoint and urlsplit(endpoint).hostname in LOOPBACK else None,
    )


def _addressing(config: RepositoryConfig, bucket: str, endpoint: str | None) -> Addressing:
    if config.path_style != "auto":
        return "path" if config.path_style == "always" else "virtual"
    # A dot in the name breaks the wildcard certificate of virtual hosts.
    return "path" if endpoint or "." in bucket else "virtual"


def _signs_payload(config: RepositoryConfig, endpoint: str | None) -> bool:
    """Hashing each upload costs most of the client's CPU; over TLS it protects nothing more."""
    if config.payload_signing != "auto":
        return config.payload_signing == "always"
    return bool(endpoint and endpoint.startswith("http://"))


def _adapt(client: Any, endpoint: str | None) -> None:  # Any: botocore ships no types
    events = client.meta.events
    if endpoint is not None:
        # AWS says no before the body is sent; other servers ignore the question, 1 s each time.
        events.register("before-sign.s3.PutObject", _without_expect)
    # Required by older servers, whatever newer checksum is sent as well.
    events.register("before-call.s3.DeleteObjects", _with_md5)


def _without_expect(request: AWSRequest, **_: object) -> None:
    del request.headers["Expect"]  # a mail header block: absent is fine


def _with_md5(params: dict[str, Any], **_: object) -> None:
    params["headers"].setdefault("Content-MD5", content_md5(params["body"]))


def content_md5(data: bytes | bytearray | memoryview) -> str:
    """The value of a Content-MD5 header."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
