"""What `check` says of a link."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from vbackup.cli.linkcheck import SAMPLE, Attention, changes_described, described, matched
from vbackup.engine.links import Target
from vbackup.model.blocks import PointBlock, RowBlock
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.postgres.probe import SourceProbe

KEYED = Link(
    name="documents",
    collection="documents",
    rows=(RowSource(table="public.documents", key=("id",), version="version"),),
    ref=(PayloadPath.parse("pg_id"),),
    version=PayloadPath.parse("version"),
)


@dataclass
class Rows:
    """Rows in blocks; notes whether its reader was closed."""

    blocks: list[list[str]]
    closed: bool = False

    def rows(self, _: Link) -> Iterator[RowBlock]:
        try:
            for keys in self.blocks:
                yield RowBlock(keys)
        finally:
            self.closed = True

    def lookup(self, _: Link, keys: Sequence[str]) -> RowBlock:
        known = {key for block in self.blocks for key in block}
        return RowBlock([key for key in keys if key in known])


@dataclass
class Points:
    refs: dict[str, list[list[str | None]]] = field(default_factory=dict)

    def points(self, _: Link, collection: str) -> Iterator[PointBlock]:
        for block in self.refs.get(collection, []):
            yield PointBlock(list(range(len(block))), block)


def check(rows: Rows, points: Points, link: Link = KEYED, *collections: str) -> str:
    target = Target(link, collections or ("documents",))
    return matched(target, cast(Any, rows), cast(Any, points))


def test_points_that_have_their_rows() -> None:
    rows = Rows([["1", "2"], ["3"]])
    said = check(rows, Points({"documents": [["1", "2", None], ["never read"]]}))
    assert said == "2 of 2 sampled references have their row"
    assert rows.closed


def test_several_collections_are_sampled_together() -> None:
    points = Points({"a": [["1"]], "b": [["9"]]})
    assert check(Rows([["1"]]), points, KEYED, "a", "b", "empty").startswith("1 of 2 ")


def test_the_sample_is_bounded() -> None:
    many: list[str | None] = [str(n) for n in range(5 * SAMPLE)]
    rows = Rows([[str(n) for n in range(5 * SAMPLE)]])
    assert check(rows, Points({"documents": [many]})).startswith(f"{SAMPLE:,} of {SAMPLE:,} ")


@pytest.mark.parametrize(
    ("blocks", "said"),
    [([["1"]], "1 rows or more, no points yet"), ([], "no rows and no points yet")],
)
def test_no_points_yet(blocks: list[list[str]], said: str) -> None:
    assert check(Rows(blocks), Points()) == said


def test_points_without_the_reference_are_a_warning() -> None:
    with pytest.raises(Attention, match="none of 2 points has payload:pg_id") as caught:
        check(Rows([["1"]]), Points({"documents": [[None, None]]}))
    assert "point.ref" in caught.value.advice


def test_points_of_other_rows_are_a_warning() -> None:
    with pytest.raises(Attention, match="0 of 1 sampled") as caught:
        check(Rows([["1"]]), Points({"documents": [["x"]]}))
    assert "rows.key" in caught.value.advice


def test_a_link_without_versions_is_a_warning() -> None:
    unkeyed = Link(name="a", collection="a", rows=(RowSource(table="a", key=("id",)),))
    with pytest.raises(Attention, match="no version on both sides"):
        check(Rows([["1"]]), Points({"documents": [["1"]]}), unkeyed)


# ---------------------------------------------------------------- row sources


def probe(**changes: Any) -> SourceProbe:
    values: dict[str, Any] = {
        "name": "public.documents", "kind": "table", "key_types": ("uuid",),
        "unique": True, "indexed": True, "rows_estimate": 1_500,
    }  # fmt: skip
    return SourceProbe(**(values | changes))


def test_row_sources_are_described() -> None:
    query = SourceProbe("sql", "query", ("bigint", "text"))
    assert described([probe(), query]) == (
        "table public.documents, key uuid (unique), about 1,500 rows; query, key bigint, text"
    )


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"indexed": False, "unique": False}, "no index begins with the key of public.documents"),
        ({"problems": ("documents is foreign: its rows are not in the snapshot",)}, "is foreign"),
    ],
)
def test_what_makes_a_backup_slow_or_wrong(changes: dict[str, Any], advice: str) -> None:
    with pytest.raises(Attention) as caught:
        described([probe(**changes)])
    assert advice in caught.value.advice


def feeds(*costs: Any) -> list[Any]:
    from vbackup.postgres.feed_costs import FeedCost

    return [FeedCost(feed, cost, why) for feed, cost, why in costs]


SLOW = [("xmin", 480.0, ""), ("column", 1.25, ""), ("slot", None, "wal_level is replica")]


def test_every_feed_is_shown_with_its_cost() -> None:
    fast = feeds(("xmin", 12.0, ""), *SLOW[1:])
    text = "xmin: 12.0 ms, column: 1.2 ms, slot: no (wal_level is replica)"
    assert changes_described(fast, "auto", 0.15) == text
    assert changes_described(feeds(*SLOW), "column", 0.15).startswith("xmin: 480.0 ms")


def test_the_cheapest_feed_is_proposed_when_the_configured_one_takes_longer_than_a_tick() -> None:
    with pytest.raises(Attention) as found:
        changes_described(feeds(*SLOW), "auto", 0.15)
    assert found.value.advice == 'the cheapest that fits: watermark.feed = "column"'
    with pytest.raises(Attention) as found:
        changes_described(feeds(*SLOW), "slot", 0.15)
    assert "by xmin" in found.value.advice
    near = feeds(("xmin", 480.0, ""), ("column", 300.0, ""))
    assert changes_described(near, "xmin", 0.15)
