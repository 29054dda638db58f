"""From the configured URL to an object store that retries."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vbackup.config import RepositoryConfig
from vbackup.errors import Usage
from vbackup.ports import Clock, ObjectStore
from vbackup.redact import register, safe_url
from vbackup.storage.directory import DirectoryStore
from vbackup.storage.retrying import Retry, RetryingStore, RetryPolicy

_EXAMPLES = "write s3://bucket/prefix or file:///var/backups/vbackup"
_ELSEWHERE = {
    "gs": "write s3://bucket/prefix with endpoint_url = https://storage.googleapis.com",
    "gcs": "write s3://bucket/prefix with endpoint_url = https://storage.googleapis.com",
    "http": "write s3://bucket/prefix and put this address into repository.endpoint_url",
    "https": "write s3://bucket/prefix and put this address into repository.endpoint_url",
    "sftp": "mount it (sshfs) and write file:///the/mount/point",
    "smb": "mount it and write file:///the/mount/point",
}


def open_store(
    config: RepositoryConfig, clock: Clock, *, on_retry: Callable[[Retry], None] | None = None
) -> ObjectStore:
    """The repository's store. Nothing is read or written yet. Raises Usage, Denied.

    botocore is imported only here and only for `s3://`: it costs a third of a second.
    """
    for secret in (config.secret_access_key, config.session_token):
        register(secret.get_secret_value() if secret else None)
    inner = _open(config, clock)
    return RetryingStore(inner, clock, RetryPolicy(retries=config.retries), on_retry=on_retry)


def _open(config: RepositoryConfig, clock: Clock) -> ObjectStore:
    url = config.url.strip()
    scheme = url.split(":", 1)[0].lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url) else ""
    if scheme == "s3":
        bucket, prefix = parse_s3_url(url)
        return _open_s3(config, bucket, prefix, clock)
    if scheme in {"", "file"}:
        return DirectoryStore(parse_path(url), clock)
    raise Usage(
        f"repository.url: {scheme}:// is not a store that vbackup knows",
        hint=_ELSEWHERE.get(scheme, _EXAMPLES),
    )


def parse_path(url: str) -> Path:
    """The directory of `file:///path` or of a plain absolute path. Raises Usage."""
    if not url.lower().startswith("file:"):
        if not url.startswith("/"):
            raise Usage(f"repository.url: not an absolute path: {safe_url(url)}", hint=_EXAMPLES)
        return Path(url)
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise Usage(
            f"repository.url: {safe_url(url)} names a host, not a path",
            hint="a file URL has three slashes: file:///var/backups/vbackup",
        )
    return Path(unquote(parts.path))


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes at its ends) of `s3://bucket/prefix`. Raises Usage."""
    rest = url.split(":", 1)[1]
    if not rest.startswith("//"):
        raise Usage(f"repository.url: not an S3 URL: {safe_url(url)}", hint=_EXAMPLES)
    bucket, _, prefix = rest[2:].partition("/")
    prefix = prefix.strip("/")
    if "@" in bucket:
        raise Usage(
            "repository.url: credentials do not belong into the URL",
            hint="use repository.access_key_id and repository.secret_access_key",
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket) or re.search(r"[?#]", prefix):
        raise Usage(f"repository.url: not an S3 URL: {safe_url(url)}", hint=_EXAMPLES)
    if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
        raise Usage(f"repository.url: not a prefix: {prefix}", hint=_EXAMPLES)
    return bucket, prefix


def _open_s3(config: RepositoryConfig, bucket: str, prefix: str, clock: Clock) -> ObjectStore:
    from vbackup.storage.s3 import S3Store, Upkeep
    from vbackup.storage.s3_client import connect, endpoint_of

    checksums = config.checksums == "always" or (
        config.checksums == "auto" and endpoint_of(config) is None
    )
    upkeep = Upkeep(
        storage_class=config.storage_class,
        encryption=config.server_side_encryption,
        kms_key_id=config.kms_key_id,
        lock=config.object_lock,
        lock_mode="COMPLIANCE" if config.object_lock_mode == "compliance" else "GOVERNANCE",
        checksums=checksums,
    )
    client = connect(config, bucket)
    return S3Store(client, bucket, prefix, clock, upkeep=upkeep, stall_window=config.read_timeout)
