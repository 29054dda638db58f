"""Whole packs kept at hand while streams are read: each pack is fetched once, and checked then.

A full verification wants every byte of every pack, and every artifact from its first byte to its
last. Chunks lie in packs about in the order in which streams need them, so a few packs at hand
serve both; what comes up again after its pack was let go is read again, by itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress

from vbackup.errors import Damaged, NotFound
from vbackup.ports import Buffer, ObjectStore
from vbackup.repository.codec import Seal
from vbackup.repository.packcheck import PackCheck
from vbackup.repository.packs import HEADER, entries_of, pack_id, pack_of

AT_HAND = 128 * 1024**2
"""Bytes of packs that are kept, beside those that are being read."""


class Shelf:
    """The part of an object store that a `ChunkReader` needs, over packs that are kept.

    `sizes` are the packs to keep, with their bytes. `checked` holds every one that was fetched;
    `examine` finds out what is wrong with one that does not look right. Thread-safe."""

    def __init__(
        self,
        store: ObjectStore,
        seal: Seal,
        sizes: Mapping[bytes, int],
        examine: Callable[[bytes], PackCheck],
        *,
        at_hand: int = AT_HAND,
    ) -> None:
        self.checked: dict[bytes, PackCheck] = {}
        self.fetched: Callable[[bytes], None] = lambda _: None
        self._store = store
        self._seal = seal
        self._sizes = sizes
        self._examine = examine
        self._limit = at_hand
        self._kept: OrderedDict[bytes, memoryview] = OrderedDict()
        self._size = 0
        self._loading: dict[bytes, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        """As `ObjectStore.get`. Raises NotFound."""
        pack = pack_of(key)
        data = self._at_hand(pack, key) if pack and pack in self._sizes else None
        if data is None:
            return self._store.get(key, start, length)
        return data[start:] if length is None else data[start : start + length]

    def check(self, pack: bytes, key: str) -> PackCheck:
        """What is wrong with a pack, fetched now unless it was before."""
        self._at_hand(pack, key)
        return self.checked[pack]

    def _at_hand(self, pack: bytes, key: str) -> memoryview | None:
        """The whole pack, None when it was let go, or is not fit to be read from."""
        with self._lock:
            turn = self._loading.setdefault(pack, threading.Lock())
        with turn:  # Several readers want the same pack at once.
            with self._lock:
                if pack in self._kept:
                    self._kept.move_to_end(pack)
                    return self._kept[pack]
                if pack in self.checked:
                    return None
            return self._fetch(pack, key)

    def _fetch(self, pack: bytes, key: str) -> memoryview | None:
        data: memoryview | None = None
        with suppress(NotFound):
            data = memoryview(self._store.get(key, 0, self._sizes[pack] + 1))
        found = PackCheck(pack)
        if data is None or not self._looks_right(pack, data):
            found, data = self._examine(pack), None
        with self._lock:
            self.checked[pack] = found
            if data is not None:
                self._keep(pack, data)
        self.fetched(pack)
        return data

    def _looks_right(self, pack: bytes, data: memoryview) -> bool:
        """Its hash is its name, and its index opens. The chunks themselves are opened by whoever
        reads them."""
        if pack_id(data) != pack or data[: len(HEADER)] != HEADER:
            return False
        try:
            entries_of(self._seal, data, len(data))
        except Damaged:
            return False
        return True

    def _keep(self, pack: bytes, data: memoryview) -> None:
        self._kept[pack] = data
        self._size += len(data)
        while self._size > self._limit and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._size -= len(gone)
