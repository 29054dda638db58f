"""Objects in an S3-compatible bucket, below a prefix: single PUTs, ranged GETs, plain lists.

No multipart: packs are small, and several servers ignore conditions on its completion. What a
store says of itself is not believed: `conditional` is probed, lengths and ranges are checked.
"""

from __future__ import annotations

import base64
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import ClientError

from vbackup.errors import AlreadyExists, Failed, NotFound
from vbackup.ports import Buffer, Clock, ObjectStat
from vbackup.storage.keys import check_key, check_range, is_key
from vbackup.storage.s3_client import content_md5
from vbackup.storage.s3_conditions import PROBE_PREFIX, Conditions, probe
from vbackup.storage.s3_delete import BulkDelete
from vbackup.storage.s3_errors import DRIVER_ERRORS, answer_code, answer_status, translate
from vbackup.storage.s3_lock import ObjectLock
from vbackup.storage.s3_ranges import ByteRange, read_checked
from vbackup.storage.stall import StallGuard, Upload

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import (
        GetObjectRequestTypeDef,
        ListObjectsV2OutputTypeDef,
        ListObjectsV2RequestTypeDef,
        PutObjectRequestTypeDef,
    )

NEVER_LOCKED = ("leases/", PROBE_PREFIX, "doomed/", "unused/", "checks/")
"""Objects that are rewritten all the time: retention would keep every heartbeat for weeks."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What every stored object is given, from the configuration. `lock` is in seconds."""

    storage_class: str | None = None
    encryption: str | None = None
    kms_key_id: str | None = None
    lock: float | None = None
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE"
    checksums: bool = False


class S3Store:
    """`vbackup.ports.ObjectStore` on a bucket. Thread-safe; does not retry by itself.

    `stall_window`: seconds in which at least some KiB must move (see `stall`).
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str,
        clock: Clock,
        *,
        upkeep: Upkeep | None = None,
        stall_window: float = 60.0,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._clock = clock
        self._upkeep = upkeep or Upkeep()
        self._stall_window = stall_window
        self._bulk = BulkDelete(client, bucket)
        keep = self._upkeep
        self._lock = (
            ObjectLock(client, bucket, clock, keep.lock, keep.lock_mode)
            if keep.lock is not None
            else None
        )
        self._conditions: Conditions | None = None
        self._probing = threading.Lock()

    @property
    def location(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def conditional(self) -> bool:
        """Probed once, see `s3_conditions`. Raises what a put raises."""
        return self._known_conditions() is Conditions.ENFORCED

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        """Where conditions do not hold, `if_absent` looks first as well: best effort."""
        check_key(key)
        conditions = self._known_conditions() if if_absent else Conditions.REFUSED
        if if_absent and conditions is not Conditions.ENFORCED and self.stat(key) is not None:
            raise AlreadyExists(f"{self._name(key)} is there already")
        self._put(key, data, only_new=conditions is not Conditions.REFUSED)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        if length == 0:
            return self._nothing_of(key)
        wanted, what = ByteRange(start, length), self._name(key)
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key(key)}
        if not wanted.whole:
            request["Range"] = wanted.header
        with self._translated("read", what):
            try:
                answer = self._client.get_object(**request)
            except ClientError as error:
                if answer_status(error) == 416:  # the range starts beyond the end
                    return b""
                raise
            return read_checked(answer, wanted, self._guard(what), what)

    def stat(self, key: str) -> ObjectStat | None:
        with self._translated("look up", self._name(key)):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
            except ClientError as error:
                if answer_status(error) == 404 and answer_code(error) != "NoSuchBucket":
                    return None
                raise
            modified = answer["LastModified"].astimezone(UTC)
            return ObjectStat(key, answer["ContentLength"], modified)

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        """Raises Failed when the store lists out of order: what is skipped would look deleted."""
        last = ""
        for page in self._pages(self._prefix + prefix):
            for each in page.get("Contents", []):
                key = each["Key"].removeprefix(self._prefix)
                if key <= last and last:
                    raise Failed(
                        f"{self.location} lists its objects out of order",
                        hint="directory buckets (S3 Express) cannot hold a repository",
                    )
                last = key or last
                if is_key(key):  # consoles make objects for folders; nobody can ask for others
                    yield ObjectStat(key, each["Size"], each["LastModified"].astimezone(UTC))

    def delete(self, keys: Iterable[str]) -> None:
        self._bulk.delete(self._key(key) for key in keys)

    @property
    def locks(self) -> bool:
        """See `ports.LockingStore`."""
        return self._lock is not None

    def prolong(self, key: str) -> None:
        if self._lock is not None:
            with self._translated("prolong the retention of", self._name(key)):
                self._lock.prolong(self._key(key))

    def locked_until(self, key: str) -> datetime | None:
        if self._lock is None:
            return None
        with self._translated("look up", self._name(key)):
            return self._lock.locked_until(self._key(key))

    def _known_conditions(self) -> Conditions:
        with self._probing:
            if self._conditions is None:
                self._conditions = probe(
                    lambda key, data: self._put(key, data, only_new=True),
                    lambda key: self.delete([key]),
                )
            return self._conditions

    def _put(self, key: str, data: Buffer, *, only_new: bool) -> None:
        what = self._name(key)
        with self._translated("write", what):
            request = self._request(key, data)
            if only_new:
                request["IfNoneMatch"] = "*"
            # botocore asks a file-like body for nothing but read, seek, tell and len.
            request["Body"] = Upload(data, self._guard(what)) if data else b""  # type: ignore[typeddict-item]
            self._client.put_object(**request)

    def _request(self, key: str, data: Buffer) -> PutObjectRequestTypeDef:
        keep = self._upkeep
        request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key(key)}
        if keep.storage_class:
            request["StorageClass"] = keep.storage_class  # type: ignore[typeddict-item]
        if keep.encryption:
            request["ServerSideEncryption"] = keep.encryption  # type: ignore[typeddict-item]
        if keep.kms_key_id:
            request["SSEKMSKeyId"] = keep.kms_key_id
        if keep.checksums:
            request["ChecksumCRC32"] = base64.b64encode(
                zlib.crc32(data).to_bytes(4, "big")
            ).decode()
        if self._lock is not None and not key.startswith(NEVER_LOCKED):
            request["ObjectLockMode"] = keep.lock_mode
            request["ObjectLockRetainUntilDate"] = self._lock.until
            request["ContentMD5"] = content_md5(data)  # S3 wants a checksum beside a retention
        return request

    def _nothing_of(self, key: str) -> bytes:
        """A range cannot say "no bytes"; the object has to be there all the same."""
        if self.stat(key) is None:
            raise NotFound(f"no object {self._name(key)}")
        return b""

    def _pages(self, prefix: str) -> Iterator[ListObjectsV2OutputTypeDef]:
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            with self._translated("list", f"s3://{self._bucket}/{prefix}"):
                page = self._client.list_objects_v2(**request)
            yield page
            if not page.get("IsTruncated"):
                return
            following = page.get("NextContinuationToken", "")
            if not following or following == request.get("ContinuationToken"):
                raise Failed(f"{self.location}: the store cut its list and names no next page")
            request["ContinuationToken"] = following

    def _guard(self, what: str) -> StallGuard:
        return StallGuard(self._clock, self._stall_window, what)

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    @contextmanager
    def _translated(self, verb: str, what: str) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            raise translate(error, verb, what) from error
