"""Names of what vbackup creates beside a live pair, and how to recognise them."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase

COPIES = (f"*_restored_{'[0-9a-f]' * 6}", f"*_before_{'[0-9]' * 14}")
"""Globs of restored collections and of those that a switch keeps."""


def restored_suffix(backup_id: str) -> str:
    """What a restored database or collection gets behind its name: the end of the backup's id."""
    return f"_restored_{backup_id.rpartition('-')[2]}"


def kept_suffix(at: datetime) -> str:
    """What a switch puts behind the name of what it keeps."""
    return f"_before_{at:%Y%m%d%H%M%S}"


def is_copy(name: str) -> bool:
    """Whether a name looks like one that vbackup gave."""
    return any(fnmatchcase(name, pattern) for pattern in COPIES)
