"""Object Lock over many objects: what a backup uses again is retained as long as what is new."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from vbackup.ports import LockingStore, ObjectStore

_JOBS = 16


def prolong(store: ObjectStore, keys: Iterable[str]) -> None:
    """Retain these objects as if they were written now, where the store locks at all."""
    if isinstance(store, LockingStore) and store.locks:
        with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-lock") as pool:
            for _ in pool.map(store.prolong, keys):
                pass


def locked(store: ObjectStore, keys: Iterable[str]) -> dict[str, datetime]:
    """Those that nobody can remove yet, and until when."""
    if not (isinstance(store, LockingStore) and store.locks):
        return {}
    asked = list(keys)
    with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-lock") as pool:
        found = zip(asked, pool.map(store.locked_until, asked), strict=True)
        return {key: until for key, until in found if until is not None}
