"""Records and texts that outgrow memory: one file each, written in order, read by partition.

A record's partition is the top bits of its key's hash. A full buffer is sorted by partition
and appended as one run, so that writing is sequential and a partition is read back as one
slice a run. Nothing touches the disk while the buffer suffices.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vbackup.engine.fingerprints import I64, U64, Bools, Records
from vbackup.errors import Failed

BITS = 9
PARTITIONS = 1 << BITS
_LENGTH_BITS = 24
_TEXT_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Extents:
    """Where one partition lies in a spill file: (first record, number of records) a run."""

    path: Path
    slices: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        return sum(count for _, count in self.slices)

    def load(
        self, dtype: np.dtype[np.void], select: Callable[[Records], Bools] | None = None
    ) -> Records:
        """All records of the partition, or those that `select` marks in each slice.

        Raises Failed when the file is shorter than what was written."""
        found: list[Records] = []
        if not self.slices:
            return joined(found, dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                for first, count in self.slices:
                    file.seek(first * dtype.itemsize)
                    records = self._slice(file, dtype, count)
                    found.append(records if select is None else records.compress(select(records)))
        except OSError as error:
            raise spill_failed(self.path, error) from error
        return joined(found, dtype)

    def _slice(self, file: FileIO, dtype: np.dtype[np.void], count: int) -> Records:
        records: Records = np.empty(count, dtype)
        view, done = records.view(np.uint8).data, 0
        while done < len(view):
            if not (got := file.readinto(view[done:])):
                raise Failed(f"the work file {self.path} is shorter than what was written")
            done += got
        return records


def spill_failed(path: Path, error: OSError) -> Failed:
    """The error of a work directory that cannot be written or read."""
    return Failed(
        f"cannot use the work directory {path.parent}: {error.strerror or error}",
        hint="set watermark.work_dir to a directory with free space",
    )


class RecordSpill:
    """Records of one side of a comparison. `add` may be called from several threads."""

    def __init__(
        self,
        dtype: np.dtype[np.void],
        path: Path,
        memory: int,
        spread: Callable[[Records], U64],
    ) -> None:
        self.dtype = dtype
        self._path = path
        self._limit = max(1, memory // dtype.itemsize)
        self._spread = spread
        self._lock = threading.Lock()
        self._pending: list[Records] = []
        self._buffered = 0
        self._written = 0
        self._runs: list[tuple[int, I64]] = []

    @property
    def spilled(self) -> bool:
        return bool(self._runs)

    def add(self, records: Records) -> None:
        with self._lock:
            self._pending.append(records)
            self._buffered += len(records)
            if self._buffered >= self._limit:
                self.flush()

    def flush(self) -> None:
        """Write what is buffered as one run."""
        if not self._buffered:
            return
        records = self.buffered()
        self._pending, self._buffered = [], 0
        partition = (self._spread(records) >> np.uint64(64 - BITS)).astype(np.uint16)
        records = records.take(np.argsort(partition, kind="stable"))
        _append(self._path, records)
        counts = np.bincount(partition, minlength=PARTITIONS)
        self._runs.append((self._written, np.concatenate(([0], np.cumsum(counts)))))
        self._written += len(records)

    def buffered(self) -> Records:
        """What is in memory, as one array."""
        return joined(self._pending, self.dtype)

    def counts(self) -> I64:
        """How many records each partition has; only after a last `flush`."""
        total = np.zeros(PARTITIONS, np.int64)
        for _, starts in self._runs:
            total += np.diff(starts)
        return total

    def extents(self, first: int, last: int) -> Extents:
        """Where the partitions from `first` to before `last` lie; only after a last `flush`."""
        slices = [
            (written + int(starts[first]), int(starts[last] - starts[first]))
            for written, starts in self._runs
        ]
        return Extents(self._path, tuple(part for part in slices if part[1]))


def joined(arrays: Sequence[Records], dtype: np.dtype[np.void]) -> Records:
    """One array out of several; as bytes, because numpy copies records field by field."""
    if len(arrays) == 1:
        return arrays[0]
    if not arrays:
        return np.empty(0, dtype)
    return np.concatenate([records.view(np.uint8) for records in arrays]).view(dtype)


class ArraySpill:
    """Arrays of records, kept in order; for one thread."""

    def __init__(self, dtype: np.dtype[np.void], path: Path, memory: int) -> None:
        self._dtype = dtype
        self._path = path
        self._limit = memory
        self._pending: list[Records] = []
        self._spilled = 0

    def add(self, records: Records) -> None:
        if len(records):
            self._pending.append(records)
        if sum(found.nbytes for found in self._pending) > self._limit:
            self._flush()

    def blocks(self) -> Iterator[Records]:
        """Everything added so far, in blocks of up to 1 MiB, or as it was added."""
        rows = max(1, 2**20 // self._dtype.itemsize)
        for first in range(0, self._spilled, rows):
            yield Extents(self._path, ((first, min(rows, self._spilled - first)),)).load(
                self._dtype
            )
        yield from self._pending

    def _flush(self) -> None:
        _append(self._path, *self._pending)
        self._spilled += sum(map(len, self._pending))
        self._pending = []


def _append(path: Path, *arrays: Records) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            for records in arrays:
                file.write(records.view(np.uint8).data)
    except OSError as error:
        raise spill_failed(path, error) from error


class TextSpill:
    """Texts by reference (offset and length in one number), for evidence only.

    `add` may be called from several threads; `read` at any time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._written = 0
        self._file: BinaryIO | None = None

    def add(self, texts: list[str]) -> U64:
        """Keep the texts; their references. Raises Failed for a text of 16 MiB or more."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        if len(lengths) and int(lengths.max()) >> _LENGTH_BITS:
            raise Failed("a key, version or tenant is longer than 16 MiB")
        blob = b"".join(encoded)
        with self._lock:
            base = self._written + len(self._buffer)
            self._buffer += blob
            if len(self._buffer) > _TEXT_BUFFER:
                self._flush()
        offsets = base + np.cumsum(lengths) - lengths
        references: U64 = ((offsets << _LENGTH_BITS) | lengths).astype(np.uint64)
        return references

    def read(self, reference: int) -> str:
        offset, length = reference >> _LENGTH_BITS, reference & ((1 << _LENGTH_BITS) - 1)
        with self._lock:
            if offset >= self._written:
                start = offset - self._written
                data = bytes(self._buffer[start : start + length])
            else:
                data = self._pread(offset, length)
        return data.decode("utf-8", "surrogatepass")

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        # One flush holds whole texts, so no text lies half in the file, half in the buffer.
        try:
            if not self._file:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w+b")
            self._file.write(self._buffer)
            self._file.flush()
        except OSError as error:
            raise spill_failed(self._path, error) from error
        self._written += len(self._buffer)
        self._buffer.clear()

    def _pread(self, offset: int, length: int) -> bytes:
        if not self._file:
            raise Failed("the comparison's work files are already removed")
        return os.pread(self._file.fileno(), length, offset)
