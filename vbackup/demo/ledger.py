"""Which keys exist, which are drafts, which are gone, and who is writing one of them now."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from vbackup.demo.content import Key
from vbackup.demo.corpus import Passage

State = Literal["published", "draft", "deleted"]


@dataclass(slots=True)
class _Bag:
    """A set that a random member can be drawn from in constant time."""

    items: list[Key] = field(default_factory=list)
    places: dict[Key, int] = field(default_factory=dict)

    def add(self, key: Key) -> None:
        if key not in self.places:
            self.places[key] = len(self.items)
            self.items.append(key)

    def discard(self, key: Key) -> None:
        place = self.places.pop(key, None)
        if place is None:
            return
        last = self.items.pop()
        if last != key:
            self.items[place] = last
            self.places[last] = place


class Ledger:
    """Keys by state. A key that is being written is in no bag: one writer a key. Thread-safe."""

    def __init__(self, kind: Literal["int", "uuid"]) -> None:
        self._kind = kind
        self._mutex = threading.Lock()
        self._bags: dict[State, _Bag] = {s: _Bag() for s in ("published", "draft", "deleted")}
        self._hot_keys: frozenset[Key] = frozenset()
        self._hot = _Bag()
        self._passages: dict[Key, Passage] = {}
        self._next = 0

    def fresh(self, rng: Random, passage: Passage) -> Key:
        """A key that was never used, taken at once."""
        with self._mutex:
            self._next += 1
            key: Key = self._next
            if self._kind == "uuid":
                key = str(uuid.UUID(int=rng.getrandbits(128), version=4))
            self._passages[key] = passage
            return key

    def take(self, rng: Random, state: State, *, hot: bool = False) -> Key | None:
        """A random key of this state, now the caller's alone; None when there is none free."""
        with self._mutex:
            bag = self._hot if hot else self._bags[state]
            if not bag.items:
                return None
            key = bag.items[rng.randrange(len(bag.items))]
            bag.discard(key)
            return key

    def release(self, key: Key, state: State) -> None:
        with self._mutex:
            (self._hot if key in self._hot_keys else self._bags[state]).add(key)

    def heat(self, keys: Iterable[Key]) -> None:
        """Make published keys hot: from now on they are edited more often, and only edited."""
        with self._mutex:
            self._hot_keys = frozenset(keys)
            for key in self._hot_keys:
                self._bags["published"].discard(key)
                self._hot.add(key)

    def passage(self, key: Key) -> Passage:
        with self._mutex:
            return self._passages[key]
