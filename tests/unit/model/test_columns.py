"""Columns of numbers read like the lists of texts that they stand for."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import compress
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.model.columns import Integers, Numbers, Uuids, picked


def integers(values: list[int]) -> tuple[Sequence[object], list[object]]:
    return Integers(np.array(values, np.int64)), [str(value) for value in values]


def numbers(values: list[int]) -> tuple[Sequence[object], list[object]]:
    return Numbers(np.array(values, np.uint64)), list(values)


def uuids(values: list[uuid.UUID]) -> tuple[Sequence[object], list[object]]:
    raw = b"".join(value.bytes for value in values)
    return Uuids.of_bytes(raw), [str(value) for value in values]


COLUMNS = (
    st.lists(st.integers(-(2**63), 2**63 - 1)).map(integers)
    | st.lists(st.integers(0, 2**64 - 1)).map(numbers)
    | st.lists(st.uuids()).map(uuids)
)


@given(COLUMNS, st.slices(10))
def test_they_read_like_lists(both: tuple[Sequence[object], list[object]], part: slice) -> None:
    column, expected = both
    assert len(column) == len(expected)
    assert list(column) == expected
    assert [column[n] for n in range(-len(expected), len(expected))] == expected * 2
    assert column[part] == expected[part]
    assert type(column[part]) is type(column)
    assert column == expected
    assert expected == column
    assert column != [*expected, "more"]
    with pytest.raises(IndexError):
        column[len(expected)]


@given(COLUMNS, st.randoms())
def test_some_items_of_them(both: tuple[Sequence[object], list[object]], rng: Random) -> None:
    column, listed = both
    mask = np.array([rng.random() < 0.5 for _ in listed], np.bool_)
    expected = list(compress(listed, mask.tolist()))
    assert picked(column, mask) == expected
    assert picked(listed, mask) == expected
    assert type(picked(column, mask)) is type(column)


def test_what_they_are_not_equal_to() -> None:
    column = Integers(np.array([1, 2]))
    assert column != ["1", "3"]
    assert column != "12"
    assert column != 12
    assert repr(column) == "Integers([1, 2])"
    assert repr(Numbers(np.array([7], np.uint64))) == "Numbers([7])"
    assert repr(Uuids.of_bytes(bytes(16))) == "Uuids(['00000000-0000-0000-0000-000000000000'])"
