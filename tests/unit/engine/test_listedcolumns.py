"""Columns of a row listing are the JSON arrays that an encoder would write and a decoder read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.engine.listedcolumns import said, whole, written
from vbackup.model.columns import Integers, Uuids

INTEGERS = st.integers(-(10**20), 10**20).map(str)
UUIDS = st.uuids().map(str)
NEARLY = st.sampled_from(
    ["", "-", "-0", "00", "1,2", '1","2', '"', "\\", "1\\", "é", "A" * 36, "-" * 36, "12 "]
) | st.uuids().map(lambda one: str(one).upper())
COLUMNS = st.one_of(
    *(st.lists(texts) for texts in (INTEGERS, UUIDS)),
    st.lists(INTEGERS | UUIDS | NEARLY | st.text()),
)


@given(COLUMNS)
def test_what_is_read_is_what_json_says(texts: list[str]) -> None:
    raw = msgspec.json.encode(texts)
    assert list(whole(raw)) == texts
    assert list(said(raw) or ()) == texts


@given(st.lists(INTEGERS | UUIDS | NEARLY | st.none()))
def test_versions_may_be_null(texts: list[str | None]) -> None:
    assert list(said(msgspec.json.encode(texts)) or ()) == texts
    assert said(b"null") is None


@given(COLUMNS)
def test_any_spelling_of_json_is_read(texts: list[str]) -> None:
    assert list(whole(json.dumps(texts, indent=1).encode())) == texts


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=1))
def test_integers_become_a_column(values: list[int]) -> None:
    column = whole(msgspec.json.encode(list(map(str, values))))
    assert isinstance(column, Integers)
    assert column.values.tolist() == values


@given(st.lists(st.uuids()))
def test_uuids_are_written_as_texts_and_become_a_column(ids: list[UUID]) -> None:
    column = Uuids.of_bytes(b"".join(one.bytes for one in ids))
    raw = msgspec.json.encode(written(column))
    assert raw == msgspec.json.encode(list(map(str, ids)))
    assert whole(raw) == column
    assert isinstance(whole(raw), Uuids) == bool(ids)


@given(st.lists(st.uuids() | st.integers(0, 10**12), min_size=1), st.data())
def test_damage_is_refused_or_is_what_json_makes_of_it(
    values: list[UUID | int], data: st.DataObject
) -> None:
    """No byte may be wrong without a decoder's complaint, or be read otherwise than it would."""
    raw = bytearray(msgspec.json.encode(list(map(str, values))))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    wanted = _decoded(bytes(raw))
    if wanted is None:
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            whole(bytes(raw))
    else:
        assert list(whole(bytes(raw))) == wanted


def _decoded(raw: bytes) -> list[str] | None:
    try:
        return msgspec.json.decode(raw, type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


@pytest.mark.parametrize("column", [["a", "b"], Integers(np.array([1, -2]))])
def test_other_columns_are_lists(column: Sequence[str]) -> None:
    assert written(column) == list(column)
