"""Content-defined chunking: streams become windows of whole chunks.

Boundaries depend on the bytes and the repository's seed only, so equal runs of bytes become
equal chunks wherever they stand. FastCDC 2020 with normalisation level 1, by pyfastcdc.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pyfastcdc import FastCDC

from vbackup.errors import Usage
from vbackup.ports import Buffer, StreamShape

MAX_CHUNK = 16 * 1024**2
"""The longest chunk that any reader accepts, whatever a repository says (format limit)."""

_WINDOW = 2 * 1024**2

RECORDS = 8
"""So many records a chunk. A hundredth of all records changed anywhere then touches a tenth of
the chunks; with a hundred records in a chunk it would touch two thirds."""

LEAST = 1024
SMALLEST = 4096
UNKNOWN = 2048
"""Bytes of a record, where nobody says."""

_FEWEST = 256
_MOST = 2 * 1024**2
_STEADY = 4
_RECIPES = 16 * 1024


def fitting_average(shape: StreamShape, largest: int, before: int = 0) -> int:
    """The average chunk for a stream: a power of two with about RECORDS records in it; less in a
    short stream, and more in one so long that it would have more than two million chunks, so
    that the index stays small. `before` is what the stream's last backup had: kept unless it is
    far off, because with another one nothing would be found again."""
    wanted = (shape.record or UNKNOWN) * RECORDS
    if shape.length:
        wanted = max(min(wanted, shape.length // _FEWEST), shape.length // _MOST)
    wanted = min(1 << max(wanted, SMALLEST).bit_length() - 1, largest)
    near = wanted // _STEADY <= before <= wanted * _STEADY
    return max(min(before, largest), LEAST) if near else wanted


@dataclass(frozen=True, slots=True)
class ChunkerParameters:
    """Sizes in bytes; the mean chunk is about minimum + average."""

    minimum: int
    average: int
    maximum: int

    @classmethod
    def for_average(cls, average: int) -> ChunkerParameters:
        """The format's usual shape: a quarter and eight times the average. Raises Usage."""
        if not LEAST <= average <= 2 * 1024**2:
            raise Usage(
                f"chunk_size {average} is out of range", hint="choose between 1 KiB and 2 MiB"
            )
        return cls(average // 4, average, average * 8)

    def valid(self) -> bool:
        """Whether FastCDC and this format accept these sizes."""
        return (
            64 <= self.minimum <= 2**20
            and 256 <= self.average <= 2**22
            and 1024 <= self.maximum <= MAX_CHUNK
            and self.minimum <= self.average <= self.maximum
        )


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive whole chunks: `ends` are their end offsets in `data`, the last is its length."""

    data: memoryview
    ends: tuple[int, ...]

    def chunks(self) -> Iterator[memoryview]:
        """The chunks, as views that live as long as the window."""
        start = 0
        for end in self.ends:
            yield self.data[start:end]
            start = end


class Chunker:
    """Cuts streams. Holds no state between streams; safe to share among threads."""

    def __init__(self, parameters: ChunkerParameters, seed: int) -> None:
        self.average = parameters.average
        self._cdc = FastCDC(
            parameters.average,
            min_size=parameters.minimum,
            max_size=parameters.maximum,
            normalized_chunking=1,
            seed=seed,
        )
        # A window longer than the longest chunk always holds a cut that more bytes cannot move.
        self.window = max(_WINDOW, 2 * parameters.maximum)

    def windows(self, stream: Iterable[Buffer]) -> Iterator[Window]:
        """The stream in windows of about 2 MiB; the cuts do not depend on the buffers' sizes."""
        pending = bytearray()
        for buffer in stream:
            rest = memoryview(buffer).cast("B")
            while rest:
                taken = rest[: self.window - len(pending)]
                pending += taken
                rest = rest[len(taken) :]
                if len(pending) >= self.window:
                    # More bytes may still move the end of the last chunk: it goes round again.
                    ends = self.cuts(pending)[:-1]
                    yield Window(memoryview(pending)[: ends[-1]], ends)
                    pending = pending[ends[-1] :]
        if pending:
            yield Window(memoryview(pending), self.cuts(pending))

    def cuts(self, data: Buffer) -> tuple[int, ...]:
        """Where the chunks of these bytes end; the last one at the end of the data."""
        ends: list[int] = []
        position = 0
        for chunk in self._cdc.cut_buf(data):
            position += chunk.length
            ends.append(position)
        return tuple(ends)


class Chunkers:
    """The chunkers of one repository: one for each size of chunk, the same in every backup.

    `largest` is the average of long streams of long records; `before` are the averages that the
    artifacts of the last backup were cut with, by name."""

    def __init__(self, largest: int, seed: int, before: Mapping[str, int]) -> None:
        self._largest = largest
        self._seed = seed
        self._before = before
        self.recipes = self._sized(min(_RECIPES, largest))

    def of(self, name: str, shape: StreamShape) -> Chunker:
        """The chunker for an artifact."""
        return self._sized(fitting_average(shape, self._largest, self._before.get(name, 0)))

    def _sized(self, average: int) -> Chunker:
        return Chunker(ChunkerParameters.for_average(average), self._seed)
