"""What may be an object key, the same for every store."""

from __future__ import annotations

from vbackup.errors import Refused, Usage

MAX_KEY_BYTES = 1024
"""S3's limit for a whole key, prefix included."""


def check_key(key: str) -> str:
    """The key itself. Raises Refused for one that could leave the prefix or that no store takes.

    Keys can come out of a manifest that somebody else wrote, so they are never trusted.
    """
    parts = key.split("/")
    bad = "\0" in key or any(part in {"", ".", ".."} for part in parts)
    if bad or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise Refused(
            f"not an object key: {key[:120]!r}",
            hint="a manifest or an index names an object outside the repository; do not trust it",
        )
    return key


def check_range(start: int, length: int | None) -> None:
    """Raises Usage for a negative offset or length."""
    if start < 0 or (length is not None and length < 0):
        raise Usage(f"not a byte range: start {start}, length {length}")
