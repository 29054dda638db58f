"""Deletes by the thousand, with every key's own error, on stores that can; else one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from vbackup.errors import VbackupError
from vbackup.redact import scrub
from vbackup.storage.s3_errors import (
    DRIVER_ERRORS,
    answer_code,
    answer_status,
    meaning_of,
    translate,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ErrorTypeDef

BATCH = 1000
"""S3's limit for one request."""

_NO_BULK_STATUS = {405, 501}
_NO_BULK_CODES = {"NotImplemented", "MethodNotAllowed", "MalformedXML", "MalformedPOSTRequest"}
_ABSENT = {"NoSuchKey", "NotFound"}


class BulkDelete:
    """Deletes full keys of one bucket. Remembers when the store has no bulk delete."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._bulk = True

    def delete(self, keys: Iterable[str]) -> None:
        """Missing keys are fine. Raises the first key's error after trying the whole batch."""
        for batch in batches(keys, BATCH):
            if not (self._bulk and len(batch) > 1 and self._many(batch)):
                self._singly(batch)

    def _many(self, keys: list[str]) -> bool:
        """False when the store does not know bulk deletes."""
        what = f"{len(keys)} objects of s3://{self._bucket}"
        try:
            answer = self._client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )
        except ClientError as error:
            if answer_status(error) in _NO_BULK_STATUS or answer_code(error) in _NO_BULK_CODES:
                self._bulk = False
                return False
            raise translate(error, "delete", what) from error
        except DRIVER_ERRORS as error:
            raise translate(error, "delete", what) from error
        failed = [each for each in answer.get("Errors", []) if each.get("Code") not in _ABSENT]
        if failed:
            raise self._first(failed, len(keys))
        return True

    def _first(self, failed: list[ErrorTypeDef], total: int) -> VbackupError:
        """One error for the batch: the first that no retry helps, else the first."""
        meanings = [
            meaning_of(each.get("Code", ""), message=each.get("Message", "")) for each in failed
        ]
        worst = next((at for at, each in enumerate(meanings) if not each.retryable), 0)
        error, meaning = failed[worst], meanings[worst]
        return meaning.kind(
            scrub(
                f"cannot delete {len(failed)} of {total} objects, first"
                f" s3://{self._bucket}/{error.get('Key', '?')}:"
                f" {error.get('Code', '?')} {error.get('Message', '')}".rstrip()
            ),
            hint=meaning.hint,
            retryable=meaning.retryable,
        )

    def _singly(self, keys: list[str]) -> None:
        first: VbackupError | None = None
        for key in keys:
            try:
                self._client.delete_object(Bucket=self._bucket, Key=key)
            except DRIVER_ERRORS as error:
                if isinstance(error, ClientError) and answer_code(error) in _ABSENT:
                    continue
                first = first or translate(error, "delete", f"s3://{self._bucket}/{key}")
                if first.retryable:
                    break  # an overloaded store is not asked a thousand times more
        if first is not None:
            raise first


def batches(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of up to `size` keys, taken as they come."""
    remaining = iter(keys)
    while batch := list(islice(remaining, size)):
        yield batch
