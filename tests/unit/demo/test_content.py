"""Points are a function of the row, and what their scenario says."""

from __future__ import annotations

from random import Random

import pytest

from vbackup.demo.content import Change, parts, points, revised
from vbackup.demo.corpus import Passage
from vbackup.demo.scenario import Lag, Mix, Scenario

PASSAGE = Passage("title", "section", "lorem " * 120)


def change(version: int = 7, key: int | str = 5) -> Change:
    return Change(key, version, revised(PASSAGE, Random(version)), PASSAGE)


def test_a_point_carries_key_version_and_vector_together() -> None:
    (point,) = points(change(), Scenario(keys="int"))

    assert point["id"] == 5
    assert isinstance(point["vector"], list)
    assert len(point["vector"]) == Scenario().dimensions
    payload = point["payload"]
    assert isinstance(payload, dict)
    assert (payload["chunk_id"], payload["version"]) == (5, 7)


def test_the_same_row_gives_the_same_points() -> None:
    scenario = Scenario(keys="int", link="payload", points="many")

    assert points(change(), scenario) == points(change(), scenario)


def test_every_part_of_another_revision_has_another_vector() -> None:
    scenario = Scenario(keys="int", link="payload", points="many")

    before, after = points(change(1), scenario), points(change(2), scenario)

    assert len(before) == len(after) > 1
    assert [p["id"] for p in before] == [p["id"] for p in after]
    assert not {tuple(p["vector"]) for p in before} & {tuple(p["vector"]) for p in after}  # type: ignore[arg-type]


def test_a_row_has_one_to_four_parts() -> None:
    scenario = Scenario(link="payload", points="many")
    lengths = {
        len(parts(revised(Passage("", "", "x" * size), Random(1)), scenario))
        for size in range(10, 2_000, 50)
    }

    assert lengths == {1, 2, 3, 4}


def test_without_a_version_the_link_has_nothing_to_compare() -> None:
    (point,) = points(change(), Scenario(keys="int", versioned=False))

    payload = point["payload"]
    assert isinstance(payload, dict)
    assert "version" not in payload
    assert payload["oracle_revision"] == 7


def test_a_removed_row_has_no_points() -> None:
    assert points(Change(5, 8, None, PASSAGE), Scenario()) == []


@pytest.mark.parametrize(
    "wrong", [{"points": "many", "link": "id"}, {"fenced": True, "order": "row-first"}]
)
def test_a_scenario_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs|transaction"):
        Scenario(**wrong)  # type: ignore[arg-type]


def test_lags_are_mostly_fast_and_sometimes_slow() -> None:
    lag, rng = Lag(fast=0.05, slow=2.0, slow_share=0.05), Random(3)

    drawn = [lag.draw(rng) for _ in range(4_000)]

    assert 0.02 < sum(value > 0.05 for value in drawn) / len(drawn) < 0.08
    assert max(drawn) <= 2.0
    assert lag.mean == pytest.approx(sum(drawn) / len(drawn), rel=0.25)


def test_the_mix_never_draws_what_has_no_weight() -> None:
    mix, rng = Mix(insert=0, reinsert=0, update=1, touch=0, toggle=0, delete=1), Random(3)

    assert {mix.draw(rng) for _ in range(200)} == {"update", "delete"}


def test_a_scenario_says_its_seed_and_what_is_special() -> None:
    said = str(Scenario(seed=42, coalesce=True, versioned=False, hot_rows=3, hot_share=0.5))

    assert "seed=42" in said
    assert "coalesce" in said
    assert "no-version" in said
    assert "hot=3@50%" in said
