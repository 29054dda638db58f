"""What may be an object key, the same for every store."""

from __future__ import annotations

from vbackup.errors import Refused, Usage

MAX_KEY_BYTES = 1024
"""S3's limit for a whole key, prefix included."""


def check_key(key: str) -> str:
    """The key itself. Raises Refused for one that could leave the prefix or that no store takes.

    Keys can come out of a manifest that somebody else wrote, so they are never trusted.
    """
    if not is_key(key):
        raise Refused(
            f"not an object key: {key[:120]!r}",
            hint="a manifest or an index names an object outside the repository; do not trust it",
        )
    return key


def is_key(key: str) -> bool:
    """Whether an object of ours can have this key."""
    bad = "\0" in key or any(part in {"", ".", ".."} for part in key.split("/"))
    return not bad and len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES


def check_range(start: int, length: int | None) -> None:
    """Raises Usage for a negative offset or length."""
    if start < 0 or (length is not None and length < 0):
        raise Usage(f"not a byte range: start {start}, length {length}")
