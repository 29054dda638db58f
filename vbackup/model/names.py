"""Names of what vbackup creates beside a live pair, and how to recognise them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from fnmatch import fnmatchcase

DATABASE_NAME_BYTES = 63
COLLECTION_NAME_BYTES = 200
"""Of a copy. Qdrant takes 255, but then cannot snapshot a shard: the file's name has the
collection's, the shard's and a time in it, and file systems end at 255 bytes."""

COPIES = (
    f"*_restored_{'[0-9a-f]' * 6}",
    f"*_restored_{'[0-9a-f]' * 6}_[0-9]",
    f"*_before_{'[0-9]' * 14}",
)
"""Globs of restored collections and of those that a switch keeps. One that an alias stands for is
no copy any more: it is live."""


def restored_suffix(backup_id: str, number: int = 1) -> str:
    """What a restored database or collection gets behind its name: the end of the backup's id,
    and a number from the second restore on."""
    again = f"_{number}" if number > 1 else ""
    return f"_restored_{backup_id.rpartition('-')[2]}{again}"


def kept_suffix(at: datetime) -> str:
    """What a switch puts behind the name of what it keeps."""
    return f"_before_{at:%Y%m%d%H%M%S}"


def database_copy(name: str, suffix: str) -> str:
    """A database's name with a suffix, cut to what PostgreSQL keeps of a name: it would cut
    the suffix off itself, and the copy would have the name of another one."""
    return _cut(name, DATABASE_NAME_BYTES - len(suffix.encode())) + suffix


def collection_copy(name: str, suffix: str) -> str:
    """A collection's name with a suffix, short enough to be read again. One that has to be cut
    gets a mark of its own: two long names may begin alike."""
    room = COLLECTION_NAME_BYTES - len(suffix.encode())
    if len(name.encode()) <= room:
        return name + suffix
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{_cut(name, room - len(mark) - 1)}~{mark}{suffix}"


def is_copy(name: str) -> bool:
    """Whether a name looks like one that vbackup gave."""
    return any(fnmatchcase(name, pattern) for pattern in COPIES)


def _cut(name: str, room: int) -> str:
    return name.encode()[:room].decode(errors="ignore")
