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
from vbackup.repository.chunker import Chunker, ChunkerParameters

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
