"""COPY's text, parsed into blocks; conditions that look keys up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from vbackup.errors import Usage
from vbackup.model.blocks import RowBlock
from vbackup.model.keys import canonical, composite
from vbackup.postgres.row_plan import Expression, RowPlan
from vbackup.postgres.rows import joined, parse

INT8, TEXT, UUID, FLOAT8 = 20, 25, 2950, 701
ESCAPES = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v", "\\": "\\"}


def copied(rows: list[tuple[str | None, ...]]) -> str:
    """What COPY TO STDOUT writes for these rows."""

    def cell(value: str | None) -> str:
        if value is None:
            return "\\N"
        return "".join(f"\\{ESCAPES[c]}" if c in ESCAPES else c for c in value)

    return "".join("\t".join(map(cell, row)) + "\n" for row in rows)


def plan(*types: int, version: int | None = None, live: bool = False) -> RowPlan:
    return RowPlan(
        origin=sql.SQL("t"),
        where=(),
        key=tuple(Expression(sql.Identifier(f"k{n}"), oid) for n, oid in enumerate(types)),
        version=Expression(sql.Identifier("v"), version) if version else None,
        live=sql.SQL("alive") if live else None,
        feeds=True,
    )


texts = st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=20))
def test_any_text_comes_back_and_null_keys_are_left_out(
    rows: list[tuple[str | None, str | None]],
) -> None:
    block = parse(copied(list(rows)), plan(TEXT, version=TEXT))
    expected = [row for row in rows if row[0] is not None]
    assert list(zip(block.keys, block.versions or (), strict=True)) == expected


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=20))
def test_composite_keys_are_spelled_as_the_model_says(
    rows: list[tuple[str | None, ...]],
) -> None:
    block = parse(copied(rows), plan(TEXT, TEXT, TEXT))
    spelled = [composite(map(canonical, row)) for row in rows]
    assert block.keys == [key for key in spelled if key is not None]


def test_columns_in_the_order_of_the_plan() -> None:
    block = parse("1\t1.5\tt\n2\t\\N\tf\n", plan(INT8, version=FLOAT8, live=True))
    assert block == RowBlock(["1", "2"], ["1.5", None], [True, False])


def test_uuids_in_text_columns_are_canonical() -> None:
    block = parse("ABCDEF00000000000000000000000001\n", plan(TEXT))
    assert block.keys == ["abcdef00-0000-0000-0000-000000000001"]


def spellings(value: object) -> list[str]:
    text = str(value)
    return [text, text.upper(), text.replace("-", ""), f"{{{text}}}", text[:-1], f"-{text[1:]}"]


@given(st.lists(st.uuids().flatmap(lambda u: st.sampled_from(spellings(u))), min_size=1))
def test_columns_of_uuids_in_any_spelling_are_canonical(column: list[str]) -> None:
    block = parse(copied([(value,) for value in column]), plan(TEXT))
    assert block.keys == [canonical(value) for value in column]


def test_joined_blocks_fill_in_what_a_missing_column_means() -> None:
    left = RowBlock(["1"], versions=["a"], live=[False])
    right = RowBlock(["2"], counts=[3])
    assert joined([left, right]) == RowBlock(
        ["1", "2"], versions=["a", None], live=[False, True], counts=[None, 3]
    )
    assert joined([]) == RowBlock([])
    assert joined([left]) is left


def text_of(condition: sql.Composable | None) -> str:
    return condition.as_string(None) if condition else ""


def test_keys_that_a_type_cannot_hold_are_not_asked_for() -> None:
    integers = plan(INT8)
    assert integers.having(["x", "1.0", "01", "-0", "", "9223372036854775808"]) is None
    found = text_of(integers.having(["x", "9223372036854775807", "-5"]))
    assert "9223372036854775807" in found
    assert "'x'" not in found
    assert plan(UUID).having(["5", "ABCDEF00-0000-0000-0000-000000000001"]) is None
    assert plan(FLOAT8).having(["1.0", "1_0", "1e999", " 1"]) is None
    assert "1e+22" not in text_of(plan(FLOAT8).having(["1", "10000000000000000000000"]))
    assert plan(TEXT).having(["nul\0"]) is None
    assert plan(INT8, TEXT).having(["1", "[1,2]", '["1"]', '["x","y"]', "{}"]) is None
    assert text_of(plan(INT8, TEXT).having(['["1","y"]', '["x","y"]'])).count("y") == 1


@given(st.lists(st.text(max_size=10), min_size=1, max_size=5))
def test_conditions_are_sql_whatever_the_keys_are(keys: list[str]) -> None:
    composed = json.dumps(keys[:2] if len(keys) > 1 else [keys[0], ""])
    for found in (plan(TEXT).having(keys), plan(TEXT, TEXT).having([composed])):
        # Keys only ever appear as literals: quotes are balanced.
        assert text_of(found).count("'") % 2 == 0


def test_a_base_that_is_no_transaction_is_refused() -> None:
    assert "'4294967295'" in text_of(plan(INT8).since("4294967295"))
    for base in ("4294967296", "-1", "", "1;", "٣"):
        with pytest.raises(Usage):
            plan(INT8).since(base)
