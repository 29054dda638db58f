"""One spelling per key, whatever type it comes as."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.model.keys import canonical, composite

KNOWN = uuid.UUID("0ef1a1b1-c1d1-e1f1-a1b1-c1d1e1f1a1b1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (7, "7"),
        (-7, "-7"),
        (2**70, str(2**70)),
        (7.0, "7"),
        (-0.0, "0"),
        (7.5, "7.5"),
        (float("inf"), "inf"),
        (True, "true"),
        (False, "false"),
        ("007", "007"),
        ("7", "7"),
        ("", ""),
        (Decimal("3.00"), "3"),
        (Decimal("1E+3"), "1000"),
        (Decimal("3.10"), "3.10"),
        (Decimal("NaN"), "NaN"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC), "2026-01-02T03:04:05.000600+00:00"),
        (b"\x01\xff", "01ff"),
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        (KNOWN, str(KNOWN)),
    ],
)
def test_canonical_text(value: object, text: str | None) -> None:
    assert canonical(value) == text


@given(st.uuids())
def test_every_uuid_spelling_is_one_key(value: uuid.UUID) -> None:
    spellings = [str(value), str(value).upper(), value.hex, f"{{{value}}}", value.urn]
    assert {canonical(spelling) for spelling in spellings} == {str(value)}


@pytest.mark.parametrize(
    "text",
    [
        "0ef1a1b1c1d1e1f1a1b1c1d1e1f1a1bg",
        "0ef1a1b1c1d1e1f1a1b1c1d1e1f1a1b1ab",
        "0ef1a1b1_c1d1_e1f1_a1b1_c1d1e1f1a1b1",
        "x" * 40,
    ],
)
def test_what_only_looks_like_a_uuid_stays(text: str) -> None:
    assert canonical(text) == text


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.decimals() | st.binary())
def test_canonical_text_is_a_fixed_point(value: object) -> None:
    text = canonical(value)
    assert text is not None
    assert canonical(text) == text


@given(st.lists(st.text(), min_size=2), st.lists(st.text(), min_size=2))
def test_composites_are_equal_only_when_their_parts_are(one: list[str], two: list[str]) -> None:
    assert (composite(one) == composite(two)) == (one == two)
    assert json.loads(composite(one) or "") == one


def test_composites_of_one_part_and_of_null() -> None:
    assert composite(["a"]) == "a"
    assert composite(["a", None]) is None
    assert composite([None]) is None
