"""Names of what vbackup creates beside a live pair, and how to recognise them."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase

DATABASE_NAME_BYTES = 63

COPIES = (f"*_restored_{'[0-9a-f]' * 6}", f"*_before_{'[0-9]' * 14}")
"""Globs of restored collections and of those that a switch keeps."""


def restored_suffix(backup_id: str) -> str:
    """What a restored database or collection gets behind its name: the end of the backup's id."""
    return f"_restored_{backup_id.rpartition('-')[2]}"


def kept_suffix(at: datetime) -> str:
    """What a switch puts behind the name of what it keeps."""
    return f"_before_{at:%Y%m%d%H%M%S}"


def database_copy(name: str, suffix: str) -> str:
    """A database's name with a suffix, cut to what PostgreSQL keeps of a name: it would cut
    the suffix off itself, and the copy would have the name of another one."""
    room = DATABASE_NAME_BYTES - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix


def is_copy(name: str) -> bool:
    """Whether a name looks like one that vbackup gave."""
    return any(fnmatchcase(name, pattern) for pattern in COPIES)
