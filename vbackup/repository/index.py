"""Which chunk is in which pack: compact in memory, and as objects that packs can rebuild.

A chunk costs 33 bytes of memory here, a million chunks (100 GB and more) some 33 MB.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3

from vbackup.errors import Damaged
from vbackup.ports import ObjectStore
from vbackup.repository import sealed
from vbackup.repository.codec import Seal
from vbackup.repository.packs import ENTRY, MAX_PACK, Entries, Location, parse_entries

PREFIX = "index/"
MERGE_AT = 16_384
_LIMIT = 256 * 1024**2
_PACK = struct.Struct("<32sQI")

PackEntries = tuple[bytes, int, Entries]
"""Pack id, pack size in bytes, its entries."""

# Half a keyed 256-bit id tells chunks apart; readers verify the whole id against the content.
_COLUMNS = np.dtype(
    [
        ("low", "<u8"),
        ("pack", "<u4"),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("length", "<u4"),
        ("codec", "u1"),
    ]
)
_Rows = np.ndarray[tuple[int], np.dtype[np.void]]
_Keys = np.ndarray[tuple[int], np.dtype[np.uint64]]
_Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
_Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class ChunkIndex:
    """Thread-safe map from chunk ids to pack ranges. A chunk may be in several packs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._packs: list[bytes] = []
        self._sizes: list[int] = []
        self._numbers: dict[bytes, int] = {}
        self._avoided: set[int] = set()
        # Sorted by the first eight bytes of the id; apart, because a search wants them dense.
        self._high: _Keys = np.empty(0, dtype=np.uint64)
        self._rows: _Rows = np.empty(0, dtype=_COLUMNS)
        self._recent: list[tuple[_Keys, _Rows]] = []
        self._recent_ids: dict[bytes, list[Location]] = {}

    def add(self, pack: bytes, size: int, entries: Entries) -> None:
        """Learn one pack; a pack known already is left as it is."""
        with self._lock:
            if pack in self._numbers:
                return
            number = self._numbers[pack] = len(self._packs)
            self._packs.append(pack)
            self._sizes.append(size)
            self._recent.append(_rows(entries, number))
            for entry in entries:
                found = self._recent_ids.setdefault(bytes(entry["id"])[:16], [])
                found.append(_location(pack, entry))
            if len(self._recent_ids) >= MERGE_AT:
                self._merge()

    def learn(self, packs: Iterable[PackEntries]) -> None:
        """Add many packs without the detour that single ones take; end with `settle`."""
        with self._lock:
            for pack, size, entries in packs:
                if pack in self._numbers:
                    continue
                number = self._numbers[pack] = len(self._packs)
                self._packs.append(pack)
                self._sizes.append(size)
                self._recent.append(_rows(entries, number))

    def settle(self) -> None:
        """Make everything learnt searchable."""
        with self._lock:
            self._merge()

    def _merge(self) -> None:
        high = np.concatenate([self._high, *(keys for keys, _ in self._recent)])
        rows = np.concatenate([self._rows, *(rows for _, rows in self._recent)])
        self._recent.clear()
        self._recent_ids.clear()
        order = np.argsort(high, kind="stable")
        self._high, self._rows = high[order], rows[order]

    def avoid(self, pack: bytes) -> None:
        """Do not offer this pack to writers, and to readers only as a last resort."""
        with self._lock:
            if pack in self._numbers:
                self._avoided.add(self._numbers[pack])

    def find(self, chunk: bytes) -> Location | None:
        """Where a writer may rely on the chunk to be."""
        with self._lock:
            for location in self._locations(chunk):
                if self._numbers[location.pack] not in self._avoided:
                    return location
        return None

    def find_all(self, chunk: bytes) -> list[Location]:
        """Everywhere the chunk may be, the good places first."""
        with self._lock:
            found = self._locations(chunk)
            return sorted(found, key=lambda at: self._numbers[at.pack] in self._avoided)

    def _locations(self, chunk: bytes) -> list[Location]:
        high, low = _halves(chunk)
        found = list(self._recent_ids.get(chunk[:16], ()))
        row = int(np.searchsorted(self._high, np.uint64(high)))
        while row < len(self._high) and int(self._high[row]) == high:
            entry = self._rows[row]
            if int(entry["low"]) == low:
                found.append(_location(self._packs[int(entry["pack"])], entry))
            row += 1
        return found

    def rows_of(self, chunks: Sequence[bytes]) -> _Numbers:
        """The row of the best copy of each chunk, -1 where there is none. Needs `settle`."""
        with self._lock:
            keys = np.frombuffer(b"".join(chunks), dtype="<u8").reshape(-1, 4)
            best = np.full(len(keys), -1, dtype=np.int64)
            good = np.zeros(len(keys), dtype=bool)
            avoided = np.array(sorted(self._avoided), dtype=np.uint32)
            rows = np.searchsorted(self._high, keys[:, 0])
            open_ = np.arange(len(keys))
            while True:  # One round a copy: chunks have few.
                open_ = open_[rows[open_] < len(self._high)]
                open_ = open_[self._high[rows[open_]] == keys[open_, 0]]
                if not len(open_):
                    return best
                at = rows[open_]
                match = self._rows["low"][at] == keys[open_, 1]
                usable = match & ~np.isin(self._rows["pack"][at], avoided)
                take = (usable & ~good[open_]) | (match & (best[open_] < 0))
                best[open_[take]] = at[take]
                good[open_[usable]] = True
                rows[open_] += 1

    def row_bytes(self, rows: _Flags) -> dict[bytes, int]:
        """Stored bytes of the flagged rows, by pack."""
        with self._lock:
            chosen = self._rows[rows]
            sums = np.bincount(chosen["pack"], weights=chosen["stored"], minlength=len(self._packs))
            return {pack: int(total) for pack, total in zip(self._packs, sums, strict=True)}

    def row_offsets(self, rows: _Flags, pack: bytes) -> set[int]:
        """Offsets in this pack of the flagged rows."""
        with self._lock:
            chosen = self._rows[rows & (self._rows["pack"] == self._numbers[pack])]
            return set(chosen["offset"].tolist())

    @property
    def packs(self) -> dict[bytes, int]:
        """All known packs with their sizes in bytes."""
        with self._lock:
            return dict(zip(self._packs, self._sizes, strict=True))

    def __len__(self) -> int:
        with self._lock:
            return len(self._rows) + sum(len(rows) for _, rows in self._recent)


def _halves(chunk: bytes) -> tuple[int, int]:
    return int.from_bytes(chunk[:8], "little"), int.from_bytes(chunk[8:16], "little")


def _rows(entries: Entries, number: int) -> tuple[_Keys, _Rows]:
    rows = np.empty(len(entries), dtype=_COLUMNS)
    halves = np.frombuffer(entries["id"].tobytes(), dtype="<u8")
    rows["low"], rows["pack"] = halves[1::4], number
    for name in ("offset", "stored", "length", "codec"):
        rows[name] = entries[name]
    return halves[0::4].astype(np.uint64), rows


def _location(pack: bytes, entry: np.void) -> Location:
    return Location(
        pack,
        int(entry["offset"]),
        int(entry["stored"]),
        int(entry["length"]),
        int(entry["codec"]),
    )


# ---------------------------------------------------------------- objects


def write(store: ObjectStore, seal: Seal, packs: Sequence[PackEntries]) -> tuple[str, int]:
    """Store one index object for these packs; its key and size in bytes."""
    raw = bytearray()
    for pack, size, entries in packs:
        raw += _PACK.pack(pack, size, len(entries))
        raw += entries.tobytes()
    data = sealed.encode(seal, sealed.INDEX, "index", raw)
    key = PREFIX + blake3(data).hexdigest()
    store.put(key, data)
    return key, len(data)


def read(store: ObjectStore, seal: Seal, key: str) -> list[PackEntries]:
    """The packs that one index object describes. Raises NotFound, Damaged."""
    data = store.get(key)
    if PREFIX + blake3(data).hexdigest() != key:
        raise Damaged(f"{key}: content does not match its name")
    return _parse(sealed.decode(seal, sealed.INDEX, "index", data, limit=_LIMIT))


def _parse(raw: bytes) -> list[PackEntries]:
    packs: list[PackEntries] = []
    position = 0
    while position < len(raw):
        if len(raw) - position < _PACK.size:
            raise Damaged("an index object ends in the middle")
        pack, size, count = _PACK.unpack_from(raw, position)
        position += _PACK.size
        end = position + count * ENTRY.itemsize
        if end > len(raw) or size > MAX_PACK:
            raise Damaged("an index object holds impossible values")
        packs.append((pack, size, parse_entries(raw[position:end], size)))
        position = end
    return packs
