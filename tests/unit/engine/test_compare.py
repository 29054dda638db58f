"""The comparison against a reference that anyone can read, on random pairs of any kind."""

from __future__ import annotations

import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbackup.engine.compare import Comparison, ComparisonResult
from vbackup.errors import Failed, Usage
from vbackup.model.blocks import PointBlock, PointId, RowBlock
from vbackup.model.columns import Integers, Uuids
from vbackup.model.finding import Finding
from vbackup.model.keys import composite
from vbackup.model.link import Link, PayloadPath, RowSource

COLLECTIONS = ("alpha", "beta")
T = TypeVar("T")
TINY, AMPLE = 4_000, 32 * 1024**2


@dataclass(frozen=True)
class Row:
    key: str
    version: str | None = None
    live: bool = True
    count: int | None = None
    tenant: str | None = None
    collection: str | None = None


@dataclass(frozen=True)
class Dot:
    id: PointId
    key: str | None
    version: str | None = None
    tenant: str | None = None
    collection: str = "alpha"


@dataclass(frozen=True)
class Pair:
    link: Link
    rows: tuple[Row, ...]
    dots: tuple[Dot, ...]
    per_collection: bool
    tenant: str | None
    arrays: bool = False


# ------------------------------------------------------------ the reference


def number(version: str | None) -> int | None:
    """Only the canonical spelling is a number."""
    return int(version) if version and version.isdigit() and str(int(version)) == version else None


def newer(point: str | None, row: str | None) -> bool:
    one, other = number(point), number(row)
    return one is not None and other is not None and one > other


def expected(pair: Pair) -> Counter[tuple[str, str | None, PointId | None, str | None]]:
    """(kind, key, point, collection of the point) of everything that is wrong."""
    many = pair.link.cardinality == "many"
    keyed = pair.link.version is not None
    rows: dict[tuple[str, str | None], Row] = {
        (row.key, row.collection if pair.per_collection else None): row for row in pair.rows
    }
    points: dict[tuple[str, str | None], list[Dot]] = defaultdict(list)
    found: Counter[tuple[str, str | None, PointId | None, str | None]] = Counter()
    for dot in pair.dots:
        if dot.key is None:
            if pair.tenant in (None, dot.tenant):
                found["no_reference", None, dot.id, dot.collection] += 1
        else:
            points[dot.key, dot.collection if pair.per_collection else None].append(dot)
    for slot in {*rows, *points}:
        row, own = rows.get(slot), points.get(slot, [])
        if pair.tenant is not None:
            if row is not None and row.tenant != pair.tenant:
                continue
            if row is None:
                own = [dot for dot in own if dot.tenant == pair.tenant]
        found.update(judge(slot[0], row, own, many, keyed))
    return found


def judge(
    key: str, row: Row | None, own: list[Dot], many: bool, keyed: bool
) -> Iterator[tuple[str, str | None, PointId | None, str | None]]:
    if row is None:
        yield from (("orphan", key, dot.id, dot.collection) for dot in own)
        return
    if not row.live:
        yield from (("not_live", key, dot.id, dot.collection) for dot in own)
        return
    right = [dot for dot in own if not keyed or dot.version == row.version]
    if not own:
        if row.count != 0:
            yield "missing", key, None, None
        return
    if many:
        if row.count is not None and len(right) != row.count:
            yield "wrong_count", key, None, None
    else:
        if row.count == 0:
            yield "wrong_count", key, None, None
        own = sorted(own, key=lambda d: (d not in right, COLLECTIONS.index(d.collection), order(d)))
        yield from (("duplicate", key, dot.id, dot.collection) for dot in own[1:])
        own = own[:1]
    for dot in own:
        if dot not in right:
            kind = "ahead" if newer(dot.version, row.version) else "stale"
            yield kind, key, dot.id, dot.collection


def order(dot: Dot) -> tuple[int, int]:
    """Integers first, then UUIDs by value."""
    return (0, dot.id) if isinstance(dot.id, int) else (1, uuid.UUID(dot.id).int)


# ------------------------------------------------------------ random pairs

NUMBERS = st.one_of(st.integers(-3, 30), st.integers(-(2**63), 2**64)).map(str)
UUIDS = st.one_of(
    st.integers(0, 30).map(lambda n: str(uuid.UUID(int=n))),
    st.uuids().map(str),
    st.integers(0, 30).map(lambda n: str(uuid.UUID(int=n << 64))),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["a", "A", "é", "007", "7", "-0", "0", "", " 7", "7\n8", "٣", "x" * 36, "\x00"]
    ),
    st.text(max_size=8),
)
COMPOSITES = st.tuples(st.integers(0, 5).map(str), TEXTS).map(lambda parts: composite(parts) or "")
KEYS = {"int": NUMBERS, "uuid": UUIDS, "text": TEXTS, "composite": COMPOSITES}
VERSIONS = st.one_of(
    st.none(),
    st.integers(0, 3).map(str),
    st.sampled_from(["v1", "v2", "0ef1a1b1c1d1e1f1a1b1c1d1e1f1a1b1", "01"]),
)
NUMBERED = st.integers(0, 3).map(str)
TENANTS = st.sampled_from([None, "red", "blue"])
POINT_IDS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1), UUIDS)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    keys = st.one_of(*draw(st.lists(st.sampled_from(list(KEYS.values())), min_size=1, max_size=2)))
    pool = draw(st.lists(keys, min_size=1, max_size=25, unique=True))
    keyed, counted, narrow, per_collection = (draw(st.booleans()) for _ in range(4))
    many, tenanted, by_id, arrays = (draw(st.booleans()) for _ in range(4))
    link = Link(
        name="documents",
        collection="*",
        rows=(RowSource(table="t", key=("id",), version="v" if keyed else None, tenant="tenant"),),
        ref=() if by_id else (PayloadPath.parse("key"),),
        version=PayloadPath.parse("version") if keyed else None,
        tenant=PayloadPath.parse("tenant"),
        cardinality="many" if many else "one",
    )
    version = draw(st.sampled_from([VERSIONS, NUMBERED])) if keyed else st.none()
    tenants = TENANTS if tenanted or narrow else st.none()
    rows = st.builds(
        Row,
        key=st.sampled_from(pool),
        version=version,
        live=st.booleans() | st.just(True),
        count=st.sampled_from([None, 0, 1, 2]) if counted else st.none(),
        tenant=tenants,
        collection=st.sampled_from([*COLLECTIONS, "gone", None]) if per_collection else st.none(),
    )
    dots = st.builds(
        Dot,
        id=POINT_IDS,
        key=st.sampled_from([*pool, None]) | st.sampled_from(pool),
        version=version,
        tenant=tenants,
        collection=st.sampled_from(COLLECTIONS),
    )
    if by_id:
        dots = dots.map(lambda dot: replace(dot, key=str(dot.id)))
    return Pair(
        link,
        tuple(draw(st.lists(rows, max_size=30, unique_by=lambda r: (r.key, r.collection)))),
        tuple(draw(st.lists(dots, max_size=40, unique_by=lambda d: (d.collection, d.id)))),
        per_collection,
        draw(TENANTS) if narrow else None,
        arrays,
    )


# ------------------------------------------------------------ running it


def column(texts: Sequence[str | None], pair: Pair) -> Sequence[str | None]:
    """As readers give it that take whole columns apart: as arrays, where that is possible."""
    if pair.arrays and all(text is not None and number(text) is not None for text in texts):
        values = [int(text or "") for text in texts]
        if all(value < 2**63 for value in values):
            return Integers(np.array(values, np.int64))
    if pair.arrays and all(text is not None and is_uuid(text) for text in texts):
        return Uuids.of_bytes(b"".join(uuid.UUID(text).bytes for text in texts))
    return texts


def is_uuid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4 and str(uuid.UUID(text)) == text


def row_block(rows: Sequence[Row], pair: Pair) -> RowBlock:
    """A block without the columns that would say nothing."""
    return RowBlock(
        keys=cast("Sequence[str]", column([row.key for row in rows], pair)),
        versions=column([row.version for row in rows], pair) if pair.link.version else None,
        live=None if all(row.live for row in rows) else [row.live for row in rows],
        counts=said([row.count for row in rows]),
        tenants=tenants([row.tenant for row in rows], pair),
        collections=[row.collection for row in rows] if pair.per_collection else None,
    )


def point_block(dots: Sequence[Dot], pair: Pair) -> PointBlock:
    return PointBlock(
        ids=[dot.id for dot in dots],
        refs=column([dot.key for dot in dots], pair),
        versions=column([dot.version for dot in dots], pair) if pair.link.version else None,
        tenants=tenants([dot.tenant for dot in dots], pair),
    )


def tenants(values: Sequence[str | None], pair: Pair) -> Sequence[str | None] | None:
    """Where one tenant is asked for, a row of none must be told from one that does not say."""
    return said(values) if pair.tenant is None else values


def said(values: Sequence[T | None]) -> Sequence[T | None] | None:
    return values if any(value is not None for value in values) else None


def feed(comparison: Comparison, pair: Pair, block: int) -> ComparisonResult:
    for at in range(0, len(pair.rows), block):
        comparison.add_rows(row_block(pair.rows[at : at + block], pair))
    for name in COLLECTIONS:
        dots = [dot for dot in pair.dots if dot.collection == name]
        for at in range(0, len(dots), block):
            comparison.add_points(name, point_block(dots[at : at + block], pair))
    return comparison.finish()


def compare(
    pair: Pair, *, block: int = 7, memory: int = AMPLE
) -> tuple[list[Finding], ComparisonResult]:
    with TemporaryDirectory() as directory:
        with Comparison(
            pair.link, Path(directory), memory=memory, tenant=pair.tenant
        ) as comparison:
            result = feed(comparison, pair, block)
            findings = list(result.findings)
        assert list(Path(directory).iterdir()) == []
    return findings, result


def summary(
    findings: Sequence[Finding],
) -> Counter[tuple[str, str | None, PointId | None, str | None]]:
    return Counter(
        (f.kind, f.key, f.point, f.collection if f.point is not None else None) for f in findings
    )


@settings(max_examples=150, deadline=None)
@given(pairs(), st.sampled_from([1, 3, 1000]), st.sampled_from([TINY, AMPLE, 300]))
def test_finds_what_the_reference_finds(pair: Pair, block: int, memory: int) -> None:
    findings, result = compare(pair, block=block, memory=memory)
    assert summary(findings) == expected(pair)
    assert sum(summary(findings).values()) == result.report.drift


@settings(max_examples=50, deadline=None)
@given(pairs(), st.randoms(use_true_random=False))
def test_order_blocks_and_memory_change_nothing(pair: Pair, chance: random.Random) -> None:
    rows, dots = list(pair.rows), list(pair.dots)
    chance.shuffle(rows)
    chance.shuffle(dots)
    shuffled = replace(pair, rows=tuple(rows), dots=tuple(dots))
    findings, result = compare(pair)
    other_findings, other = compare(shuffled, block=2, memory=300)
    assert Counter(findings) == Counter(other_findings)
    assert (result.report, result.digest, result.points_digest) == (
        other.report,
        other.digest,
        other.points_digest,
    )


# ------------------------------------------------------------ one thing at a time

LINK = Link(
    name="documents",
    collection="*",
    rows=(RowSource(table="t", key=("id",), version="v"),),
    version=PayloadPath.parse("version"),
)


@pytest.fixture
def comparison(tmp_path: Path) -> Iterator[Comparison]:
    with Comparison(LINK, tmp_path) as made:
        yield made


def test_evidence_of_a_finding(comparison: Comparison) -> None:
    comparison.add_rows(RowBlock(["7"], ["2026-01-01 00:00:00+00"], tenants=["red"]))
    comparison.add_points("alpha", PointBlock([7], ["7"], ["2025-12-31T00:00:00Z"]))
    result = comparison.finish()
    assert list(result.findings) == [
        Finding(
            kind="stale",
            link="documents",
            collection="alpha",
            key="7",
            point=7,
            row_version="2026-01-01 00:00:00+00",
            point_version="2025-12-31T00:00:00Z",
            tenant="red",
        )
    ]


@pytest.mark.parametrize(
    ("row", "point", "kind", "detail"),
    [
        ("2", "10", "ahead", ""),
        ("v1", "v2", "stale", "differs"),
        ("2", "2026-01-01T00:00:00Z", "stale", "differs"),
        (None, "1", "stale", "the row has no version"),
        ("1", None, "stale", "the point has no version"),
    ],
)
def test_what_differs_and_how(
    comparison: Comparison, row: str | None, point: str | None, kind: str, detail: str
) -> None:
    comparison.add_rows(RowBlock(["1"], [row]))
    comparison.add_points("alpha", PointBlock([1], ["1"], [point]))
    (finding,) = comparison.finish().findings
    assert (finding.kind, finding.detail) == (kind, detail)


@pytest.mark.parametrize(
    ("row", "point"), [(None, None), ("2026-01-01 01:00:00+01", "2026-01-01T00:00:00.000Z")]
)
def test_what_is_equal_in_another_spelling(
    comparison: Comparison, row: str | None, point: str | None
) -> None:
    comparison.add_rows(RowBlock(["1"], [row]))
    comparison.add_points("alpha", PointBlock([1], ["1"], [point]))
    assert comparison.finish().report.clean


def test_versions_that_only_one_side_says_are_not_compared(tmp_path: Path) -> None:
    for link in (replace(LINK, version=None), LINK):
        with Comparison(link, tmp_path) as comparison:
            comparison.add_rows(RowBlock(["1"], ["5"] if link.version is None else None))
            comparison.add_points("alpha", PointBlock([1], ["1"], ["6"]))
            assert comparison.finish().report.clean


def test_a_query_that_yields_no_version_is_told(tmp_path: Path) -> None:
    link = Link("docs", "docs", (RowSource(sql="SELECT 1 AS key"),), version=PayloadPath(("v",)))
    with Comparison(link, tmp_path) as comparison:
        comparison.add_rows(RowBlock(["1"]))
        comparison.add_points("docs", PointBlock([1], ["1"], versions=["7"]))
        report = comparison.finish().report
    assert report.warnings == ["rows say no version: those of their points are not compared"]


def test_a_row_that_sources_repeat_counts_once_live_and_newest(comparison: Comparison) -> None:
    comparison.add_rows(RowBlock(["1", "2", "3"], ["1", "1", "1"], [True, True, False]))
    comparison.add_rows(RowBlock(["1", "2", "3"], ["1", "2", "9"], [True, False, False]))
    comparison.add_points("alpha", PointBlock([1, 2, 3], ["1", "2", "3"], ["1", "1", "1"]))
    result = comparison.finish()
    assert result.report.rows == 3
    assert [(f.kind, f.key, f.row_version) for f in result.findings] == [("not_live", "3", "9")]
    assert result.report.warnings == [
        "2 rows repeat a key with another version or state:"
        " the live one with the newest version counts"
    ]


def test_of_two_live_versions_the_newest_counts(comparison: Comparison) -> None:
    comparison.add_rows(RowBlock(["1"] * 3, ["9", "10", None]))
    comparison.add_points("alpha", PointBlock([1], ["1"], ["9"]))
    assert [(f.kind, f.row_version) for f in comparison.finish().findings] == [("stale", "10")]


def test_rows_may_name_their_collection_by_an_alias(tmp_path: Path) -> None:
    with Comparison(LINK, tmp_path, aliases={"docs": "alpha"}) as comparison:
        comparison.add_rows(RowBlock(["1", "2"], ["1", "1"], collections=["docs", None]))
        comparison.add_points("alpha", PointBlock([1], ["1"], ["1"]))
        assert [(f.kind, f.key, f.collection) for f in comparison.finish().findings] == [
            ("missing", "2", "")
        ]


def test_a_key_may_live_in_two_collections(comparison: Comparison) -> None:
    comparison.add_rows(RowBlock(["1", "1"], ["1", "2"], collections=["alpha", "beta"]))
    comparison.add_points("alpha", PointBlock([1], ["1"], ["1"]))
    comparison.add_points("beta", PointBlock([1], ["1"], ["1"]))
    result = comparison.finish()
    assert [(f.kind, f.collection) for f in result.findings] == [("stale", "beta")]
    assert result.report.warnings == []


def test_either_all_sources_name_a_collection_or_none(comparison: Comparison) -> None:
    comparison.add_rows(RowBlock(["1"], collections=["alpha"]))
    comparison.add_rows(RowBlock(["2"]))
    with pytest.raises(Usage, match="others do not"):
        comparison.finish()


def test_sides_may_come_from_several_threads_and_partitions_from_an_executor(
    tmp_path: Path,
) -> None:
    keys = [str(number) for number in range(30_000)]
    with (
        ThreadPoolExecutor(3) as pool,
        Comparison(LINK, tmp_path, pool, memory=200_000) as comparison,
    ):

        def add(at: int) -> None:
            part = keys[at : at + 1_000]
            comparison.add_rows(RowBlock(part, ["1"] * len(part)))
            comparison.add_points(
                "alpha", PointBlock([int(k) for k in part[:-1]], part[:-1], ["1"] * (len(part) - 1))
            )

        list(pool.map(add, range(0, len(keys), 1_000)))
        result = comparison.finish()
        assert sorted(int(f.key or 0) for f in result.findings) == list(range(999, 30_000, 1_000))
        assert (result.report.rows, result.report.points) == (30_000, 29_970)
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failing_merge_is_raised_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(2) as pool,
        Comparison(LINK, tmp_path, pool, memory=1_000) as comparison,
    ):
        comparison.add_rows(RowBlock([str(n) for n in range(500)]))
        (rows,) = tmp_path.glob("*/rows")
        rows.write_bytes(b"")
        with pytest.raises(Failed, match="shorter than what was written"):
            comparison.finish()
    assert list(tmp_path.iterdir()) == []


def test_digests_agree_exactly_when_the_pair_does(tmp_path: Path) -> None:
    def digests(rows: dict[str, str], points: dict[str, str]) -> tuple[str, str]:
        with Comparison(LINK, tmp_path) as comparison:
            comparison.add_rows(RowBlock(list(rows), list(rows.values())))
            comparison.add_points(
                "alpha", PointBlock([int(k) for k in points], list(points), list(points.values()))
            )
            result = comparison.finish()
            return result.digest, result.points_digest

    one = {"1": "1", "2": "2"}
    same, swapped = digests(one, dict(reversed(one.items()))), digests(one, {"1": "2", "2": "1"})
    assert same[0] == same[1] == swapped[0]
    assert swapped[0] != swapped[1]
    assert digests({"1": "1"}, {})[1] == "0" * 32
    assert len({same[0], digests({"1": "1"}, {})[0], digests({"12": ""}, {})[0]}) == 3


def test_rows_that_are_not_live_do_not_enter_the_digest(tmp_path: Path) -> None:
    with Comparison(LINK, tmp_path) as comparison:
        comparison.add_rows(RowBlock(["1"], ["1"], [False]))
        assert comparison.finish().digest == "0" * 32
