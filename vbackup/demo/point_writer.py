"""Writes the points of changed rows: whole points in one upsert, what is surplus deleted after."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from random import Random

from vbackup.demo.content import Change, Key, point_id, points
from vbackup.demo.point_store import PointStore
from vbackup.demo.scenario import Scenario


class PointWriter:
    """Knows how many points each key has now. The caller keeps the changes of one key in order
    and never writes the same key from two threads."""

    def __init__(self, store: PointStore, scenario: Scenario) -> None:
        self._store = store
        self._scenario = scenario
        self._mutex = threading.Lock()
        self._held: dict[Key, int] = {}
        self.written = 0

    def write(self, changes: Sequence[Change], rng: Random) -> None:
        """Make the points of these keys what the changes say; one change a key."""
        new: list[dict[str, object]] = []
        surplus: list[Key] = []
        for change in changes:
            wanted = points(change, self._scenario)
            new += wanted
            surplus += self._surplus(change.key, len(wanted))
        self._store.upsert(new, wait=self._waits(rng))
        self._store.delete(surplus, wait=self._waits(rng))
        with self._mutex:
            self.written += len(new) + len(surplus)

    def load(self, changes: Iterable[Change], batch: int = 256) -> int:
        """Write the first points in large batches; returns how many."""
        waiting: list[dict[str, object]] = []
        total = 0
        for change in changes:
            found = points(change, self._scenario)
            self._surplus(change.key, len(found))
            waiting += found
            total += len(found)
            if len(waiting) >= batch:
                self._store.upsert(waiting, wait=True)
                waiting = []
        self._store.upsert(waiting, wait=True)
        return total

    def _surplus(self, key: Key, count: int) -> list[Key]:
        """Ids that the key has now and will not need; remembers the new count."""
        with self._mutex:
            held = self._held.pop(key, 0)
            if count:
                self._held[key] = count
        return [point_id(key, part, self._scenario) for part in range(count, held)]

    def _waits(self, rng: Random) -> bool:
        return rng.random() >= self._scenario.unwaited
