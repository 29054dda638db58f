"""When two versions are equal, and which is newer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.engine.fingerprints import INT, NONE, TEXT, UUID
from vbackup.engine.versions import TIME, encode, later, microseconds, same

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
# hypothesis wants the bounds without a zone.
FIRST, LAST = (datetime(year, 6, 1) for year in (2, 9998))  # noqa: DTZ001
TIMES = st.datetimes(timezones=ZONES, min_value=FIRST, max_value=LAST)


def postgres_text(at: datetime) -> str:
    """As PostgreSQL prints a timestamptz: no trailing zeros, short offsets."""
    text = at.strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0")
    text += f".{at.microsecond:06}".rstrip("0") if at.microsecond else ""
    minutes = int((at.utcoffset() or timedelta()).total_seconds() // 60)
    sign, minutes = ("-", -minutes) if minutes < 0 else ("+", minutes)
    return text + f"{sign}{minutes // 60:02}" + (f":{minutes % 60:02}" if minutes % 60 else "")


@given(TIMES)
def test_every_spelling_of_an_instant_is_one_version(at: datetime) -> None:
    exact = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    utc = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    spellings = [at.isoformat(), postgres_text(at), f"{utc}Z", f"{utc}+00:00", utc]
    assert {microseconds(text) for text in spellings} == {exact}
    assert set(encode(spellings).value.tolist()) == {exact}


@given(TIMES, TIMES)
def test_instants_have_an_order(one: datetime, two: datetime) -> None:
    assert later(one.isoformat(), postgres_text(two)) == (one > two)
    assert same(one.isoformat(), postgres_text(two)) == (one == two)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01",
        "2026-01-01T00:00",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T00:00:00.0000001Z",
        "2026-01-01X00:00:00",
        "2026-01-01T00:00:00Zulu",
        "٢٠٢٦-01-01T00:00:00Z",
        "2026-01-01T00:00:00.٣",
        "xxxx-01-01T00:00:00Z",
    ],
)
def test_other_text_is_no_instant(text: str) -> None:
    assert microseconds(text) is None
    assert encode([text]).kind.tolist() == [TEXT]


def test_zeros_beyond_microseconds_are_no_difference() -> None:
    assert same("2026-01-01T00:00:00.123456000Z", "2026-01-01 00:00:00.123456+00")


def test_kinds() -> None:
    kinds = encode(
        [None, "7", "07", "0ef1a1b1-c1d1-e1f1-a1b1-c1d1e1f1a1b1", "2026-01-01T00:00:00Z", "v1"]
    )
    assert kinds.kind.tolist() == [NONE, INT, TEXT, UUID, TIME, TEXT]


@pytest.mark.parametrize(
    ("one", "other", "equal", "newer"),
    [
        ("10", "9", False, True),
        ("-1", "-2", False, True),
        ("9", "10", False, False),
        ("9", "9", True, False),
        ("v2", "v1", False, False),
        ("v1", "v1", True, False),
        ("7", "2026-01-01T00:00:00Z", False, False),
        (str(2**63), str(2**63 - 1), False, False),
        (str(2**63 - 1), str(-(2**63)), False, True),
    ],
)
def test_order(one: str, other: str, equal: bool, newer: bool) -> None:
    assert same(one, other) is equal
    assert later(one, other) is newer


def test_no_version_is_equal_to_none_only() -> None:
    assert same(None, None)
    assert not same(None, "1")
    assert not same("1", None)


@given(st.lists(st.none() | st.text() | st.integers().map(str) | st.uuids().map(str)))
def test_a_block_encodes_as_its_parts_do(versions: list[str | None]) -> None:
    block = encode(versions)
    single = [encode([version]) for version in versions]
    assert block.kind.tolist() == [int(one.kind[0]) for one in single]
    assert block.value.tolist() == [int(one.value[0]) for one in single]
