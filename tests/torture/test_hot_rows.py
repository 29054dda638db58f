"""Rows that change faster than anybody can look: the row fence holds just these, for a moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vbackup.config import Config
from vbackup.demo.scenario import Lag, Scenario

pytestmark = [pytest.mark.integration, pytest.mark.torture, pytest.mark.timeout(300)]

# Five rows take half of all writes, and the indexer skips to the newest version of a row: most
# versions never get a point.
VERY_HOT = Scenario(
    rows=500,
    keys="int",
    writes_per_second=300,
    lag=Lag(fast=0.3, slow=0.5),
    hot_rows=5,
    hot_share=0.5,
    coalesce=True,
)
MAX_PAUSE = 3.0


def patient(config: Config, max_pause: float) -> Config:
    """Little time to find a candidate by luck."""
    watermark = config.watermark.model_copy(update={"budget": 4.0, "max_pause": max_pause})
    return config.model_copy(update={"watermark": watermark})


@pytest.mark.parametrize(
    "scenario",
    [
        replace(VERY_HOT, seed=501),
        replace(VERY_HOT, seed=502, keys="uuid", link="payload", points="many", shards=4),
        replace(VERY_HOT, seed=503, order="point-first", writes_per_second=150),
    ],
    ids=lambda scenario: scenario.order if scenario.points == "one" else "many",
)
def test_very_hot_rows_are_held_until_their_points_are_in(scenario: Scenario, torture: Any) -> None:
    app, config = torture.begin(scenario)
    outcome = torture.judge(app, config, torture.back_up(patient(config, MAX_PAUSE)))

    outcome.prove()
    record = outcome.backup.manifest.watermark
    held = [note for note in record.notes if note.endswith("hot rows were held")]
    # Who is lucky finds a candidate without; who is not, holds.
    assert held or not outcome.backup.manifest.patch.reasons.get("overtaken")
    assert (record.writers_paused_ms > 0) == bool(held)
    assert record.writers_paused_ms <= MAX_PAUSE * 1000


def test_without_a_pause_the_hot_rows_are_on_the_list(torture: Any) -> None:
    app, config = torture.begin(replace(VERY_HOT, seed=501))
    outcome = torture.judge(app, config, torture.back_up(patient(config, 0.0)))

    outcome.prove()
    assert outcome.backup.manifest.watermark.writers_paused_ms == 0
    assert outcome.backup.manifest.watermark.notes == ()
