"""Chunk boundaries: the same for ever, on every machine, in whatever pieces a stream comes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc.py import FastCDC as PurePython

from vbackup.errors import Usage
from vbackup.ports import StreamShape
from vbackup.repository.chunker import Chunker, ChunkerParameters, Chunkers, fitting_average

SMALL = Chunker(ChunkerParameters.for_average(1024), 7)

# average, seed, data, number of chunks, digest of their lengths: never to be changed, since
# another boundary would make every repository store everything anew.
GOLDEN = [
    (131072, 1311768467463790321, "noise", 18, "85512427b03fe655"),
    (131072, 1311768467463790321, "zeros", 3, "e369dde8d30ffe97"),
    (131072, 1311768467463790321, "rows", 21, "36191369634701cb"),
    (131072, 7, "noise", 15, "69a44be674401167"),
    (131072, 7, "rows", 20, "f9bdb779fac308a8"),
    (1024, 1311768467463790321, "noise", 2406, "8fb9eb683675e1a7"),
    (1024, 1311768467463790321, "zeros", 367, "7625652d9fe87f1e"),
    (1024, 7, "rows", 2412, "56634c8d940c1111"),
]


def sample(kind: str) -> bytes:
    if kind == "noise":
        return random.Random(1).randbytes(3_000_000)
    if kind == "zeros":
        return bytes(3_000_000)
    rng = random.Random(2)
    return b"\n".join(b"%d\trow %d" % (n, rng.getrandbits(30)) for n in range(150_000))


def lengths(chunker: Chunker, stream: Iterable[bytes]) -> list[int]:
    return [len(chunk) for window in chunker.windows(stream) for chunk in window.chunks()]


@pytest.mark.parametrize(("average", "seed", "kind", "count", "expected"), GOLDEN)
def test_boundaries_are_golden(
    average: int, seed: int, kind: str, count: int, expected: str
) -> None:
    chunker = Chunker(ChunkerParameters.for_average(average), seed)
    found = lengths(chunker, [sample(kind)])
    assert len(found) == count
    assert hashlib.sha256(",".join(map(str, found)).encode()).hexdigest()[:16] == expected


def test_the_compiled_chunker_cuts_as_the_plain_one() -> None:
    data = sample("noise")[:400_000]
    plain = PurePython(1024, min_size=256, max_size=8192, normalized_chunking=1, seed=7)
    assert lengths(SMALL, [data]) == [chunk.length for chunk in plain.cut_buf(data)]


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 200_000), min_size=1, max_size=6),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_boundaries_do_not_depend_on_the_buffers(seed: int, cuts: list[int], dull: bool) -> None:
    rng = random.Random(seed)
    data = bytes(5_000_000) if dull else rng.randbytes(rng.randrange(1, 5_000_000))
    ends = sorted({min(cut * 25, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(ends)]
    found = lengths(SMALL, [b"", *pieces])
    assert found == lengths(SMALL, [data])
    assert sum(found) == len(data)
    assert max(found) <= 8192
    assert min(found[:-1], default=256) >= 256


def test_windows_hold_the_stream() -> None:
    data = sample("rows")
    joined = b"".join(bytes(window.data) for window in SMALL.windows([data]))
    assert joined == data


def test_an_empty_stream_has_no_windows() -> None:
    assert list(SMALL.windows([])) == []
    assert list(SMALL.windows([b"", b""])) == []


def test_an_insertion_moves_few_boundaries() -> None:
    data = sample("noise")[:1_000_000]
    changed = data[:500_000] + b"!" + data[500_000:]

    def chunks(content: bytes) -> set[bytes]:
        return {bytes(chunk) for window in SMALL.windows([content]) for chunk in window.chunks()}

    assert len(chunks(changed) - chunks(data)) <= 4


@pytest.mark.parametrize("average", [0, 100, 2**22])
def test_sizes_out_of_range(average: int) -> None:
    with pytest.raises(Usage):
        ChunkerParameters.for_average(average)


# ---------------------------------------------------------------- sizes for streams


@pytest.mark.parametrize(
    ("record", "length", "before", "average"),
    [
        (0, 0, 0, 16384),  # nothing is known
        (1500, 2**31, 0, 8192),  # five rows and more
        (100, 2**31, 0, 4096),  # never less
        (50_000, 2**31, 0, 131072),  # never more than the repository's own
        (100, 2**37, 0, 65536),  # a table so long that the index would grow
        (100, 2**60, 0, 131072),
        (1500, 100_000, 0, 4096),  # a short stream
        (1500, 0, 0, 8192),
        (1500, 2**31, 32768, 32768),  # what the last backup had
        (1500, 2**31, 2048, 2048),
        (1500, 2**31, 65536, 8192),  # unless that is far off
        (1500, 2**31, 1024, 8192),
        (1500, 2**31, -5, 8192),
        (20_000, 2**31, 2**40, 131072),
    ],
)
def test_chunks_fit_the_records(record: int, length: int, before: int, average: int) -> None:
    assert fitting_average(StreamShape(record, length), 131072, before) == average


def test_no_stream_is_cut_coarser_than_the_repository() -> None:
    assert fitting_average(StreamShape(1500, 2**31), 1024, 8192) == 1024
    assert fitting_average(StreamShape(1500, 2**31), 1024, 300) == 1024


def test_chunkers_go_on_as_the_last_backup_did() -> None:
    chunkers = Chunkers(131072, 7, {"a": 16384})
    assert chunkers.of("a", StreamShape(record=1000)).average == 16384
    assert chunkers.of("b", StreamShape(record=1000)).average == 4096
    data = sample("rows")
    fresh = Chunker(ChunkerParameters.for_average(16384), 7)
    assert lengths(chunkers.of("a", StreamShape()), [data]) == lengths(fresh, [data])


def test_random_changes_leave_most_bytes_alone() -> None:
    """One row in a hundred, anywhere: an eighth is new, not nearly all."""
    rng = random.Random(5)
    rows = [b"%d\t%s\n" % (n, rng.randbytes(700).hex().encode()) for n in range(3000)]
    chunker = Chunkers(131072, 7, {}).of("t", StreamShape(1408, 2**31))

    def chunks() -> dict[bytes, int]:
        found = [chunk for window in chunker.windows([b"".join(rows)]) for chunk in window.chunks()]
        return {bytes(chunk): len(chunk) for chunk in found}

    before = chunks()
    for at in rng.sample(range(len(rows)), 30):
        rows[at] = b"%d\t%s\n" % (at, rng.randbytes(700).hex().encode())
    new = {chunk: length for chunk, length in chunks().items() if chunk not in before}
    assert 0 < sum(new.values()) < 0.15 * sum(before.values())
