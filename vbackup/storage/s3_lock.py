"""Object Lock: how long an object is retained, and for longer. Retention only ever grows here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import ClientError

from vbackup.ports import Clock
from vbackup.storage.s3_errors import answer_status

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SLACK = 1.25
"""What is prolonged gets a quarter more than it needs: else every backup would have to prolong
every object that it uses again, at the price of a write request each."""

_ROUNDING = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ObjectLock:
    """The retention that objects of one bucket are given; `seconds` from now on, at least."""

    client: S3Client
    bucket: str
    clock: Clock
    seconds: float
    mode: Literal["GOVERNANCE", "COMPLIANCE"]

    @property
    def until(self) -> datetime:
        """For an object that is written now."""
        return self.clock.now() + timedelta(seconds=self.seconds)

    def prolong(self, key: str) -> None:
        """Retain an object as if it were written now. Raises what the driver does."""
        found = self._head(key)
        if found is not None and found >= self.until - _ROUNDING:
            return
        wanted = self.clock.now() + timedelta(seconds=self.seconds * SLACK)
        self.client.put_object_retention(
            Bucket=self.bucket, Key=key, Retention={"Mode": self.mode, "RetainUntilDate": wanted}
        )

    def locked_until(self, key: str) -> datetime | None:
        """Until when nobody can remove this version; None when it is not locked, not there, or
        the key may not ask."""
        try:
            return self._head(key)
        except ClientError as error:
            if answer_status(error) == 404:
                return None
            raise

    def _head(self, key: str) -> datetime | None:
        answer = self.client.head_object(Bucket=self.bucket, Key=key)
        found: datetime | None = answer.get("ObjectLockRetainUntilDate")
        return None if found is None else found.astimezone(UTC)
