"""The oracle tells each kind of difference, and sees a vector that is not the row's."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import pytest

from vbackup.demo.content import Change, points, revised
from vbackup.demo.corpus import Passage
from vbackup.demo.oracle import Comparison, StoredRow, judge
from vbackup.demo.scenario import Scenario

MANY = Scenario(keys="int", link="payload", points="many")
PASSAGE = Passage("title", "section", "lorem " * 120)
TEXT = revised(PASSAGE, Random(1))
ROW = StoredRow(5, TEXT, 7, live=True)


def held(version: int = 7, text: str = TEXT, scenario: Scenario = MANY) -> list[dict[str, Any]]:
    return deepcopy(points(Change(5, version, text, PASSAGE), scenario))


def test_points_that_are_the_rows_agree() -> None:
    assert judge(ROW, held(), MANY) == ""


def test_points_in_another_order_agree() -> None:
    assert judge(ROW, held()[::-1], MANY) == ""


@pytest.mark.parametrize(
    ("row", "found", "kind"),
    [
        (None, held(), "orphans"),
        (StoredRow(5, TEXT, 7, live=False), held(), "not_live"),
        (StoredRow(5, TEXT, 7, live=False), [], ""),
        (ROW, [], "missing"),
        (ROW, held(6), "stale"),
        (ROW, held(8), "ahead"),
        (ROW, held()[:-1] + held(6)[-1:], "stale"),
        (ROW, held()[:-1], "incomplete"),
        (ROW, [*held(), {**held()[0], "id": "another"}], "wrong_parts"),
        (ROW, held(text=revised(PASSAGE, Random(2))), "wrong_vector"),
    ],
)
def test_each_kind_of_difference_has_its_name(
    row: StoredRow | None, found: list[dict[str, Any]], kind: str
) -> None:
    assert judge(row, found, MANY) == kind


def test_one_component_of_one_vector_is_enough() -> None:
    found = held()
    found[-1]["vector"][3] += 0.001

    assert judge(ROW, found, MANY) == "wrong_vector"


def test_what_qdrant_rounds_is_not_a_difference() -> None:
    found = held()
    for point in found:
        point["vector"] = [value * (1 + 1e-7) for value in point["vector"]]

    assert judge(ROW, found, MANY) == ""


def test_missing_rows_are_not_wrong_points() -> None:
    found = Comparison(
        missing={"1"}, stale={"2"}, orphans={"3"}, wrong_parts={"4"}, incomplete={"5"}
    )

    assert found.wrong == {"2", "3", "4"}
    assert found.unfinished == {"1", "5"}
