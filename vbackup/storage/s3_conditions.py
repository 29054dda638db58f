"""Does this store honour `If-None-Match: *`? Asked by trying, as servers differ in silence.

Seen in the wild: servers that refuse the header, that take it and overwrite (s3rver, rclone), and
that check it before they write, so that one of two writers at the same time is lost (Swift).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum

from botocore.exceptions import ClientError

from vbackup.errors import AlreadyExists, VbackupError
from vbackup.storage.s3_errors import answer_status

PROBE_PREFIX = "probes/"
RACERS = 8

_HEADER_REFUSED = {400, 405, 501}


class Conditions(Enum):
    """ENFORCED: exactly one writer creates an object. UNRELIABLE: the header is accepted, but
    does not always hold. REFUSED: the header is an error."""

    ENFORCED = "enforced"
    UNRELIABLE = "unreliable"
    REFUSED = "refused"


def probe(create: Callable[[str, bytes], None], delete: Callable[[str], None]) -> Conditions:
    """Find out with two throw-away objects: one written twice, one by several at once.

    `create` puts with the header. Raises what `create` raises on the first object; a race that
    shows nothing proves nothing, so ENFORCED means: as far as could be seen.
    """
    twice, raced = (f"{PROBE_PREFIX}{secrets.token_hex(16)}" for _ in range(2))
    try:
        if (found := _write_twice(twice, create)) is not Conditions.ENFORCED:
            return found
        with ThreadPoolExecutor(RACERS, thread_name_prefix="vbackup-probe") as pool:
            won = list(pool.map(lambda each: _wins(create, raced, each), range(RACERS)))
        return Conditions.UNRELIABLE if sum(won) > 1 else Conditions.ENFORCED
    finally:
        for key in (twice, raced):
            with suppress(VbackupError):  # a writer may not delete; it is one byte
                delete(key)


def _write_twice(key: str, create: Callable[[str, bytes], None]) -> Conditions:
    try:
        create(key, b"1")
        create(key, b"2")
    except AlreadyExists:
        return Conditions.ENFORCED
    except VbackupError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and answer_status(cause) in _HEADER_REFUSED:
            return Conditions.REFUSED
        raise
    return Conditions.UNRELIABLE


def _wins(create: Callable[[str, bytes], None], key: str, racer: int) -> bool:
    """A racer that a busy store turns away has not won either."""
    try:
        create(key, b"%d" % racer)
    except VbackupError:
        return False
    return True
