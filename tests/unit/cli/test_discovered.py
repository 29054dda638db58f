"""What `init --discover` says of the links that it proposes."""

from __future__ import annotations

import tomllib

import pytest

from vbackup.cli.discovered import toml
from vbackup.engine.discover import Discovery, Proposal


def proposal(match_rate: float) -> Proposal:
    return Proposal(
        name="docs",
        collection="docs",
        table="public.docs",
        key="id",
        ref="id",
        keys=("id",),
        refs=("id",),
        match_rate=match_rate,
        row_rate=1.0,
        sampled=500,
        cardinality="one",
        unique=True,
    )


@pytest.mark.parametrize(("match_rate", "warned"), [(0.584, True), (0.96, False)])
def test_points_that_a_restore_would_delete_are_told(match_rate: float, warned: bool) -> None:
    text = toml(Discovery((proposal(match_rate),)))
    assert ("CAREFUL: 41.6 % of the sampled points have no row" in text) == warned
    assert ("restore would delete" in text) == warned
    assert tomllib.loads(text)["link"][0]["name"] == "docs"
