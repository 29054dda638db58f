"""Keys as numbers: exact where a key is a number or a UUID, never confused between kinds."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.engine.fingerprints import (
    INT,
    NONE,
    TEXT,
    UUID,
    fingerprint,
    integers,
    key_text,
    scramble,
    spread,
    uuids,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
KEYS = (
    INTEGERS.map(str)
    | st.uuids().map(str)
    | st.text(max_size=40)
    | st.sampled_from(
        ["-0", "00", "+1", "1 ", "1\n2", "", "-", "٣", str(2**63), str(-(2**63) - 1), "1e3", "-01"]
    )
    | st.uuids().map(lambda u: str(u).upper())
)


def slots(keys: list[str | None]) -> list[tuple[int, int, int]]:
    found = fingerprint(keys)
    return list(zip(found.kind.tolist(), found.hi.tolist(), found.lo.tolist(), strict=True))


@given(st.lists(KEYS | st.none()))
def test_fingerprints_are_equal_exactly_when_keys_are(keys: list[str | None]) -> None:
    found = slots(keys)
    assert len(set(found)) == len(set(keys))
    assert dict(zip(keys, found, strict=True)) == {key: slots([key])[0] for key in keys}


@given(st.lists(INTEGERS, min_size=1))
def test_integers_are_exact(values: list[int]) -> None:
    found = slots([str(value) for value in values])
    assert {kind for kind, _, _ in found} == {INT}
    assert [key_text(*slot) for slot in found] == [str(value) for value in values]


@given(st.lists(st.uuids(), min_size=1))
def test_uuids_are_exact(values: list[uuid.UUID]) -> None:
    found = slots([str(value) for value in values])
    assert {kind for kind, _, _ in found} == {UUID}
    assert [key_text(*slot) for slot in found] == [str(value) for value in values]


@pytest.mark.parametrize(
    "text", ["-0", "00", "+1", " 1", "1 ", "1\n2", "", "-", "٣", str(2**63), "1_0", "1.0"]
)
def test_what_is_no_canonical_integer_is_text(text: str) -> None:
    assert slots([text, "5"])[0][0] == TEXT
    assert key_text(*slots([text])[0]) is None


def test_two_keys_of_one_line_are_not_mistaken_for_one() -> None:
    assert integers(["1\n2", "3"]) is None
    assert integers(["1", "2", "3"]) is not None


def test_uuids_of_shifted_length_are_not_mistaken() -> None:
    one = str(uuid.UUID(int=1))
    assert uuids([one + "0", one[1:]]) is None
    assert uuids([one[:-1], one + "1"]) is None


def test_null_is_its_own_kind() -> None:
    assert slots([None, "1"]) == [(NONE, 0, 0), (INT, 0, 1)]
    assert slots([]) == []
    assert slots([None]) == [(NONE, 0, 0)]
    assert key_text(NONE, 0, 0) is None


def test_sequential_keys_spread_over_all_partitions() -> None:
    numbers = fingerprint([str(number) for number in range(20_000)])
    ordered = fingerprint([str(uuid.UUID(int=number)) for number in range(20_000)])
    for prints in (numbers, ordered):
        counts = np.bincount(spread(prints.kind, prints.hi, prints.lo) >> np.uint64(56))
        assert len(counts) == 256
        assert counts.min() > 40
        assert counts.max() < 130


@given(st.lists(st.integers(0, 2**64 - 1), unique=True))
def test_scrambling_loses_nothing(values: list[int]) -> None:
    assert len(set(scramble(np.array(values, np.uint64)).tolist())) == len(values)
