"""Which chunk is in which pack: compact in memory, and as objects that packs can rebuild.

A chunk costs 28 bytes of memory here and a blob 21: a million chunks some 30 MB.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, starmap
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from vbackup.errors import Damaged
from vbackup.ports import ObjectStore
from vbackup.repository import sealed
from vbackup.repository.codec import Seal
from vbackup.repository.packs import MAX_PACK, Entries, Location, dump_entries, parse_entries

PREFIX = "index/"
_LIMIT = 256 * 1024**2
_PACK = struct.Struct("<32sQI")

PackEntries = tuple[bytes, int, Entries]
"""Pack id, pack size in bytes, its entries."""

_ROW = np.dtype([("low", "<u8"), ("blob", "<u4"), ("start", "<u4"), ("length", "<u4")])
_BLOB = np.dtype(
    [("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"), ("content", "<u4"), ("codec", "u1")]
)
_Rows = np.ndarray[tuple[int], np.dtype[np.void]]
_Keys = np.ndarray[tuple[int], np.dtype[np.uint64]]
_Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
_Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Parts(NamedTuple):
    """Chunks that come out of one blob: their ids, and where in its content they are."""

    blob: Location
    chunks: Sequence[bytes]
    starts: Sequence[int]
    lengths: Sequence[int]


# Sorted by the first half of the ids, which stands apart because a search wants it dense.
_Run = tuple[_Keys, _Rows]


class ChunkIndex:
    """Thread-safe map from chunk ids to places in packs. A chunk may be in several packs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._packs: list[bytes] = []
        self._sizes: list[int] = []
        self._numbers: dict[bytes, int] = {}
        self._avoided: set[int] = set()
        self._blobs: _Rows = np.empty(1024, dtype=_BLOB)
        self._blob_count = 0
        # The largest first; each at least twice as long as the next once they are merged.
        self._runs: list[_Run] = [(np.empty(0, dtype=np.uint64), np.empty(0, dtype=_ROW))]
        self._unsorted: list[_Run] = []

    def add(self, pack: bytes, size: int, entries: Entries) -> None:
        """Learn one pack; a pack known already is left as it is."""
        with self._lock:
            self.learn([(pack, size, entries)])
            self._sort()
            while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
                self._runs[-2:] = [_merged(self._runs[-2:])]

    def learn(self, packs: Iterable[PackEntries]) -> None:
        """Add many packs at once; end with `settle`."""
        with self._lock:
            for pack, size, entries in packs:
                if pack not in self._numbers:
                    self._numbers[pack] = len(self._packs)
                    self._packs.append(pack)
                    self._sizes.append(size)
                    self._unsorted.append(self._rows(entries, self._numbers[pack]))

    def settle(self) -> None:
        """Make everything learnt searchable, in one sorted run: rows get their final numbers."""
        with self._lock:
            if self._unsorted or len(self._runs) > 1:
                self._runs = [_merged([*self._runs, *self._unsorted])]
                self._unsorted.clear()

    def _sort(self) -> None:
        if self._unsorted:
            self._runs.append(_merged(self._unsorted))
            self._unsorted.clear()

    def _rows(self, entries: Entries, pack: int) -> _Run:
        first = entries["start"] == 0
        found = np.empty(int(first.sum()), dtype=_BLOB)
        found["pack"] = pack
        for name in ("offset", "stored", "content", "codec"):
            found[name] = entries[name][first]
        begin, self._blob_count = self._blob_count, self._blob_count + len(found)
        if self._blob_count > len(self._blobs):
            self._blobs = np.resize(self._blobs, self._blob_count * 5 // 4)
        self._blobs[begin : self._blob_count] = found
        rows = np.empty(len(entries), dtype=_ROW)
        halves = _halves(entries["id"].tobytes())
        rows["low"], rows["blob"] = halves[:, 1], begin + np.cumsum(first) - 1
        rows["start"], rows["length"] = entries["start"], entries["length"]
        return halves[:, 0].copy(), rows

    # ------------------------------------------------------------ finding

    def avoid(self, pack: bytes) -> None:
        """Do not offer this pack to writers, and to readers only as a last resort."""
        with self._lock:
            if pack in self._numbers:
                self._avoided.add(self._numbers[pack])

    def known(self, chunks: Sequence[bytes]) -> tuple[list[bool], set[bytes]]:
        """Which of the chunks a writer may rely on, and the packs that hold these."""
        with self._lock:
            found = np.zeros(len(chunks), dtype=np.bool_)
            packs: set[int] = set()
            for run in self._runs:
                at, best = self._search(run, chunks)
                good = best & ~found
                packs.update(np.unique(self._blobs["pack"][run[1]["blob"][at[good]]]).tolist())
                found |= good
            return found.tolist(), {self._packs[number] for number in packs}

    def find(self, chunk: bytes) -> Location | None:
        """Where a writer may rely on the chunk to be."""
        with self._lock:
            found = self.find_all(chunk)
            good = (at for at in found if self._numbers[at.pack] not in self._avoided)
            return next(good, None)

    def find_all(self, chunk: bytes) -> list[Location]:
        """Everywhere the chunk may be, the good places first."""
        high, low = (int(half) for half in _halves(chunk)[0])
        found: list[Location] = []
        with self._lock:
            for keys, rows in self._runs:
                row = int(np.searchsorted(keys, np.uint64(high)))
                while row < len(keys) and int(keys[row]) == high:
                    if int(rows["low"][row]) == low:
                        found += self._locations(rows[row : row + 1])
                    row += 1
            return sorted(found, key=lambda at: self._numbers[at.pack] in self._avoided)

    def parts(self, chunks: Sequence[bytes]) -> list[Parts]:
        """The chunks at their best places, by blob, in the order of the blobs' places. Those that
        are nowhere are left out."""
        with self._lock:
            rows, there = self._best(chunks)
            known = np.flatnonzero(there)
            known = known[np.argsort(rows["blob"][known], kind="stable")]
            rows = rows[known]
            ends = np.flatnonzero(np.diff(rows["blob"].astype(np.int64), prepend=-1, append=-1))
            blobs = self._locations(rows[ends[:-1]])
        ids = [chunks[at] for at in known.tolist()]
        starts, lengths = rows["start"].tolist(), rows["length"].tolist()
        found = [
            Parts(blob, ids[part], starts[part], lengths[part])
            for blob, part in zip(blobs, starmap(slice, pairwise(ends.tolist())), strict=True)
        ]
        return sorted(found, key=lambda parts: parts.blob[:2])

    def _best(self, chunks: Sequence[bytes]) -> tuple[_Rows, _Flags]:
        """The row of the best copy of each chunk, and whether there is one."""
        found = np.zeros(len(chunks), dtype=_ROW)
        there, sure = np.zeros((2, len(chunks)), dtype=np.bool_)
        for run in self._runs:
            at, good = self._search(run, chunks)
            better = (at >= 0) & (~there | (good & ~sure))
            found[better] = run[1][at[better]]
            there |= at >= 0
            sure |= good
        return found, there

    def _locations(self, rows: _Rows) -> Iterator[Location]:
        blobs = self._blobs[rows["blob"]]
        packs = [self._packs[number] for number in blobs["pack"].tolist()]
        names = ("offset", "stored", "content", "codec")
        columns = [blobs[name].tolist() for name in names]
        return map(Location, packs, *columns, rows["start"].tolist(), rows["length"].tolist())

    def _search(self, run: _Run, chunks: Sequence[bytes]) -> tuple[_Numbers, _Flags]:
        """For each chunk the row of its best copy in a run, and whether that copy may be relied
        on; a row of -1 where there is none."""
        keys, rows = run
        wanted = _halves(b"".join(chunks))
        best = np.full(len(wanted), -1, dtype=np.int64)
        good = np.zeros(len(wanted), dtype=np.bool_)
        avoided = np.array(sorted(self._avoided), dtype=np.uint32)
        at = np.searchsorted(keys, wanted[:, 0])
        left = np.arange(len(wanted))
        while True:  # One round a copy: chunks have few.
            left = left[at[left] < len(keys)]
            left = left[keys[at[left]] == wanted[left, 0]]
            if not len(left):
                return best, good
            here = at[left]
            match = rows["low"][here] == wanted[left, 1]
            usable = match & ~np.isin(self._blobs["pack"][rows["blob"][here]], avoided)
            take = (usable & ~good[left]) | (match & (best[left] < 0))
            best[left[take]] = here[take]
            good[left[usable]] = True
            at[left] += 1

    # ------------------------------------------------------------ rows, for marking

    def rows_of(self, chunks: Sequence[bytes]) -> _Numbers:
        """The row of the best copy of each chunk, -1 where there is none. Needs `settle`."""
        with self._lock:
            return self._search(self._runs[0], chunks)[0]

    def row_bytes(self, rows: _Flags) -> dict[bytes, int]:
        """What the flagged rows cost in each pack: their share of what it holds, of its size."""
        with self._lock:
            all_rows = self._runs[0][1]
            blobs = self._blobs[all_rows["blob"]]
            costs = blobs["stored"] * (all_rows["length"] / blobs["content"])
            used, held = (
                np.bincount(blobs["pack"], weights=weights, minlength=len(self._packs))
                for weights in (costs * rows, costs)
            )
            shares = (used / np.maximum(held, 1)).tolist()
            return {
                pack: round(share * size)
                for pack, share, size in zip(self._packs, shares, self._sizes, strict=True)
            }

    def row_ids(self, rows: _Flags, pack: bytes) -> set[bytes]:
        """Ids of the flagged rows in this pack."""
        with self._lock:
            keys, all_rows = self._runs[0]
            number = self._numbers[pack]
            chosen = np.flatnonzero(rows & (self._blobs["pack"][all_rows["blob"]] == number))
            halves = np.stack([keys[chosen], all_rows["low"][chosen]], axis=1)
            raw = halves.astype("<u8").tobytes()
            return {raw[at : at + 16] for at in range(0, len(raw), 16)}

    @property
    def packs(self) -> dict[bytes, int]:
        """All known packs with their sizes in bytes."""
        with self._lock:
            return dict(zip(self._packs, self._sizes, strict=True))

    def __len__(self) -> int:
        with self._lock:
            return sum(len(rows) for _, rows in (*self._runs, *self._unsorted))


def _halves(chunks: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """The two halves of ids that follow each other, one row an id."""
    return np.frombuffer(chunks, dtype="<u8").reshape(-1, 2).astype(np.uint64, copy=False)


def _merged(runs: Sequence[_Run]) -> _Run:
    keys = np.concatenate([keys for keys, _ in runs])
    rows = np.concatenate([rows for _, rows in runs])
    # Stable, so that runs which are sorted already are only merged.
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]


# ---------------------------------------------------------------- objects


def write(store: ObjectStore, seal: Seal, packs: Sequence[PackEntries]) -> tuple[str, int]:
    """Store one index object for these packs; its key and size in bytes."""
    raw = bytearray()
    for pack, size, entries in packs:
        table = dump_entries(entries)
        raw += _PACK.pack(pack, size, len(table))
        raw += table
    data = sealed.encode(seal, sealed.INDEX, "index", raw)
    key = PREFIX + blake3(data).hexdigest()
    store.put(key, data)
    return key, len(data)


def read(store: ObjectStore, seal: Seal, key: str) -> list[PackEntries]:
    """The packs that one index object describes. Raises NotFound, Damaged."""
    return parse(seal, key, fetch(store, key))


def fetch(store: ObjectStore, key: str, *, listed: int | None = None) -> bytes:
    """The bytes of one index object, which was `listed` with so many. Raises NotFound, Damaged."""
    return sealed.fetch(store, key, _LIMIT, listed=listed)


def parse(seal: Seal, key: str, data: bytes) -> list[PackEntries]:
    """What `fetch` gave. Raises Damaged."""
    if PREFIX + blake3(data).hexdigest() != key:
        raise Damaged(f"{key}: content does not match its name")
    return _parse(sealed.decode(seal, sealed.INDEX, "index", data, limit=_LIMIT))


def _parse(raw: bytes) -> list[PackEntries]:
    packs: list[PackEntries] = []
    position = 0
    while position < len(raw):
        if len(raw) - position < _PACK.size:
            raise Damaged("an index object ends in the middle")
        pack, size, length = _PACK.unpack_from(raw, position)
        position += _PACK.size
        end = position + length
        if end > len(raw) or size > MAX_PACK:
            raise Damaged("an index object holds impossible values")
        packs.append((pack, size, parse_entries(raw[position:end], size)))
        position = end
    return packs
