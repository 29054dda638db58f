"""Looks at one link for `check`: can its rows be found by key, do sampled points have a row?"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from vbackup.engine.lag import LagReport
    from vbackup.engine.links import Target
    from vbackup.ports import CandidateWatermark, PointReader
    from vbackup.postgres.feed_costs import FeedCost
    from vbackup.postgres.probe import SourceProbe
    from vbackup.postgres.vector_probe import VectorProbe

Block = TypeVar("Block")
SAMPLE = 1000
"""Points of a link whose rows are looked up."""


class Attention(Exception):
    """Raised by a probe whose finding does not stop a backup, but somebody should know."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.advice = advice


def described(probes: Sequence[SourceProbe]) -> str:
    """What the row sources are. Raises Attention for what makes a backup slow or wrong."""
    text = "; ".join(map(_source, probes))
    problems = [problem for probe in probes for problem in probe.problems]
    if problems:
        raise Attention(text, "; ".join(problems))
    slow = [probe.name for probe in probes if probe.kind == "table" and not probe.indexed]
    if slow:
        raise Attention(text, f"no index begins with the key of {', '.join(slow)}: add one")
    return text


def changes_described(costs: Sequence[FeedCost], asked: str, tick: float) -> str:
    """What each change feed costs. Raises Attention when another one is needed: the configured
    one cannot be had, or takes longer than a tick where another takes at most half of that."""
    text = ", ".join(map(_feed, costs))
    measured: dict[str, float] = {
        cost.feed: cost.milliseconds for cost in costs if cost.milliseconds is not None
    }
    wanted = "xmin" if asked == "auto" else asked
    mine = measured.get(wanted)
    if mine is None and wanted != "xmin":
        raise Attention(text, f"watermark.feed is {asked}, but changes are found by xmin")
    if not measured or (mine is not None and mine <= tick * 1000):
        return text
    best = min(measured, key=lambda feed: measured[feed])
    if best != wanted and (mine is None or measured[best] * 2 <= mine):
        raise Attention(text, f'the cheapest that fits: watermark.feed = "{best}"')
    return text


def _feed(cost: FeedCost) -> str:
    if cost.milliseconds is None:
        return f"{cost.feed}: no ({cost.why_not})"
    return f"{cost.feed}: {cost.milliseconds:.1f} ms"


def seen(report: LagReport, seconds: float) -> str:
    """What watching a link for so long showed."""
    if not report.changed:
        return f"no row changed in {seconds:g} s"
    text = f"{report.changed:,} rows changed in {seconds:g} s"
    if report.lags:
        half, most = report.quantile(0.5), report.quantile(0.95)
        text += f"; points follow in {half:.1f} s (95 %: {most:.1f}, longest {report.longest:.1f})"
    if report.waiting:
        text += f"; {len(report.waiting):,} still waiting"
    if report.ahead:
        text += f"; {report.ahead:,} points ran ahead"
    return text


def _source(probe: SourceProbe) -> str:
    types = ", ".join(probe.key_types)
    if probe.kind == "query":
        return f"query, key {types}"
    unique = "unique" if probe.unique else "not unique"
    return f"{probe.kind} {probe.name}, key {types} ({unique}), about {probe.rows_estimate:,} rows"


def vectors_described(probes: Sequence[VectorProbe]) -> str:
    """Where vectors are and how they are searched. Raises Attention."""
    text = "; ".join(map(_vectors, probes))
    problems = [problem for probe in probes for problem in probe.problems]
    if problems:
        raise Attention(text, "; ".join(problems))
    return text


def _vectors(probe: VectorProbe) -> str:
    size = f"({probe.declared})" if probe.declared else ""
    index = ", ".join(probe.indexes) or "none"
    extension = f", pgvector {probe.extension}" if probe.extension else ""
    return f"{probe.table}.{probe.column}, {probe.type}{size}, index: {index}{extension}"


def _unversioned(target: Target) -> str:
    if target.link.vectors:
        return "set rows.version and vectors.version: without them stale vectors are not found"
    if any(source.sql for source in target.link.rows):
        return (
            "set rows.version and point.version, or immutable where a key's text never changes:"
            " of a query's rows without a version a restore keeps no point"
        )
    return "set rows.version and point.version: without them a backup is best effort"


def matched(target: Target, rows: CandidateWatermark, points: PointReader) -> str:
    """How many of a sample of points have their row. Raises Attention."""
    link = target.link
    with _first(rows.rows(link)) as block:
        count = len(block) if block else 0
    sampled, refs = _sample(target, points)
    if not sampled:
        return f"{count:,} rows or more, no points yet" if count else "no rows and no points yet"
    if not refs:
        where = ", ".join(f"payload:{path}" for path in link.ref)
        raise Attention(f"none of {sampled:,} points has {where}", "correct point.ref of the link")
    found = len(rows.lookup(link, refs))
    other = "vectors.key" if link.vectors else "point.ref"
    text = f"{found:,} of {len(refs):,} sampled references have their row"
    if not found:
        raise Attention(text, f"correct rows.key or {other} of the link")
    if not link.exact:
        raise Attention(f"{text}; no version on both sides", _unversioned(target))
    return text


def _sample(target: Target, points: PointReader) -> tuple[int, list[str]]:
    """How many points were looked at, and the keys they refer to."""
    sampled, refs = 0, set[str]()
    for collection in target.collections:
        with _first(points.points(target.link, collection)) as block:
            if block is None:
                continue
            sampled += min(SAMPLE, len(block))
            refs.update(ref for ref in islice(block.refs, SAMPLE) if ref is not None)
    return sampled, sorted(refs)[:SAMPLE]


@contextmanager
def _first(blocks: Iterator[Block]) -> Iterator[Block | None]:
    """The first block of a reader, which is closed afterwards."""
    try:
        yield next(blocks, None)
    finally:
        if isinstance(blocks, Generator):
            blocks.close()
