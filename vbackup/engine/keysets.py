"""Sets of keys that may be as many as there are rows: on disk, so that memory stays flat."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vbackup.model.link import Link
from vbackup.ports import CandidateWatermark


def scratch_database(path: Path | None = None) -> sqlite3.Connection:
    """A SQLite database that nobody needs after a crash: no journal, no sync. Without a path it
    is a file of SQLite's own, in memory while it is small and gone when it is closed."""
    database = sqlite3.connect(path or "", isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=OFF")
    database.execute("PRAGMA synchronous=OFF")
    return database


class KeySets:
    """Keys by link. One thread writes; then any may read."""

    def __init__(self, path: Path | None = None) -> None:
        self._db = scratch_database(path)
        self._db.execute(
            "CREATE TABLE member (link TEXT, key TEXT, PRIMARY KEY (link, key)) WITHOUT ROWID"
        )
        self.close = weakref.finalize(self, self._db.close)

    def add(self, link: str, keys: Iterable[str]) -> None:
        """Add keys; those that are there already are not added twice."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR IGNORE INTO member VALUES (?, ?)", ((link, key) for key in keys)
        )
        self._db.execute("COMMIT")

    def has(self, link: str, key: str) -> bool:
        found = self._db.execute("SELECT 1 FROM member WHERE link = ? AND key = ?", (link, key))
        return found.fetchone() is not None

    def keys(self, link: str) -> Iterator[str]:
        """In order."""
        rows = self._db.execute("SELECT key FROM member WHERE link = ? ORDER BY key", (link,))
        return (key for (key,) in rows)

    def count(self, link: str) -> int:
        found = self._db.execute("SELECT count(*) FROM member WHERE link = ?", (link,))
        return int(found.fetchone()[0])

    def by_link(self) -> dict[str, Collection[str]]:
        """Each link's keys as a set of its own."""
        rows = self._db.execute("SELECT DISTINCT link FROM member")
        return {link: LinkKeys(self, link) for (link,) in rows}


@dataclass(frozen=True, slots=True)
class LinkKeys(Collection[str]):
    """The keys of one link."""

    sets: KeySets
    link: str

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.sets.has(self.link, key)

    def __iter__(self) -> Iterator[str]:
        return self.sets.keys(self.link)

    def __len__(self) -> int:
        return self.sets.count(self.link)


class ChangedKeys:
    """The keys that changed between a change base and a watermark; a link's are read when they are
    first asked for. Without a watermark nothing has changed."""

    def __init__(self, watermark: CandidateWatermark | None, base: str, path: Path) -> None:
        self._watermark = watermark
        self._base = base
        self._sets = KeySets(path)
        self._read: set[str] = set()

    def has(self, link: Link, key: str) -> bool:
        return self._of(link).has(link.name, key)

    def keys(self, link: Link) -> Iterator[str]:
        """In order."""
        return self._of(link).keys(link.name)

    def _of(self, link: Link) -> KeySets:
        if self._watermark and link.name not in self._read:
            for block in self._watermark.changed(link, self._base):
                self._sets.add(link.name, block.keys)
            self._read.add(link.name)
        return self._sets
