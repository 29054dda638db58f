"""Watch an application write for a few seconds: how late points follow rows, and in which order.

Read-only: the change feed says which rows changed, and the live points say when they caught up.
A point that is ahead was fetched *before* a snapshot in which its row still is older: that is an
application that writes the point first, or inside the row's transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vbackup.engine.capture import newer, normal
from vbackup.engine.links import Target
from vbackup.model.blocks import RowBlock
from vbackup.ports import Clock, PointSource, RecordSource

WATCHED = 2_000
"""Rows that are watched at once; more say nothing new."""

TICK = 0.1


@dataclass(slots=True)
class LagReport:
    """What was seen of one link. Lags in seconds, measured to about a tenth; `waiting` holds
    the ages of row versions whose point had not come when watching ended."""

    link: str
    keyed: bool
    lags: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    changed: int = 0
    ahead: int = 0
    immutable: bool = False

    def quantile(self, share: float) -> float:
        """A quantile of the lags; 0 when none was seen."""
        ordered = sorted(self.lags)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    @property
    def longest(self) -> float:
        """The longest lag known of, those still waiting included."""
        return max([*self.lags, *self.waiting], default=0.0)


@dataclass(slots=True)
class _Awaited:
    version: str
    since: float


class LagWatch:
    """Watches all keyed links at once."""

    def __init__(
        self,
        records: RecordSource,
        points: PointSource,
        targets: Sequence[Target],
        clock: Clock,
    ) -> None:
        self._records = records
        self._points = points
        self._targets = targets
        self._clock = clock
        links = [target.link for target in targets]
        self._reports = {
            one.name: LagReport(one.name, one.keyed, immutable=one.immutable) for one in links
        }
        self._awaited: dict[tuple[str, str], _Awaited] = {}
        self._suspects: dict[tuple[str, str], str] = {}
        self._known: dict[tuple[str, str], str] = {}

    def run(self, seconds: float) -> list[LagReport]:
        """Watch for so long. Raises what the readers raise."""
        links = [target.link for target in self._targets]
        base = self._records.change_base(links)
        ends = self._clock.monotonic() + seconds
        while self._clock.monotonic() < ends:
            started = self._clock.monotonic()
            changed, base = self._records.changed(links, base)
            for link in links:
                versions = dict(_live_versions(changed[link.name]))
                self._judge(link.name, versions)
                self._await(link.name, versions)
            for target in self._targets:
                if target.link.keyed:
                    self._look(target)
            self._clock.sleep(max(0.0, TICK - (self._clock.monotonic() - started)))
        now = self._clock.monotonic()
        for (name, _), awaited in self._awaited.items():
            self._reports[name].waiting.append(now - awaited.since)
        return list(self._reports.values())

    def _judge(self, name: str, versions: dict[str, str]) -> None:
        """This snapshot came after the last fetch: a point newer than its row was ahead."""
        for slot, version in list(self._suspects.items()):
            if slot[0] != name:
                continue
            del self._suspects[slot]
            row = versions.get(slot[1], self._known.get(slot))
            if row is not None and newer(version, row):
                self._reports[name].ahead += 1

    def _await(self, name: str, versions: dict[str, str]) -> None:
        report, now = self._reports[name], self._clock.monotonic()
        for key, version in versions.items():
            slot = (name, key)
            if self._known.get(slot) == version:
                continue
            self._known[slot] = version
            report.changed += 1
            if report.keyed and (slot in self._awaited or len(self._awaited) < WATCHED):
                self._awaited[slot] = _Awaited(version, now)

    def _look(self, target: Target) -> None:
        name = target.link.name
        keys = [key for link, key in self._awaited if link == name]
        if not keys:
            return
        for collection in target.collections:
            block = self._points.owned(target.link, collection, keys)
            now = self._clock.monotonic()
            for key, said in zip(block.refs, block.versions or (), strict=True):
                version = normal(said)
                slot = (name, key or "")
                awaited = self._awaited.get(slot)
                if awaited is None or version is None:
                    continue
                if version == awaited.version:
                    self._reports[name].lags.append(now - awaited.since)
                    del self._awaited[slot]
                elif newer(version, awaited.version):
                    self._suspects[slot] = version


def advice(report: LagReport, max_index_lag: float, lead_in: float) -> str:
    """What to do about what was seen; empty when the settings fit."""
    if report.immutable and not report.keyed:
        return ""
    if not report.keyed:
        return (
            "rows and points say no common version: the pair is best effort; mirror a version"
            " into the payload, or use the strategy fence"
        )
    if report.longest > max_index_lag:
        return (
            f"a point was {report.longest:.1f} s late: raise watermark.max_index_lag"
            f" above {max_index_lag:g} s"
        )
    if report.ahead:
        return (
            f"{report.ahead} points ran ahead of their rows: the application writes the point"
            " first or inside the transaction; capture stays exact, the strategy fence also"
            " empties the re-embed list"
        )
    if report.lags and report.quantile(0.95) > lead_in:
        return (
            f"95 % of points follow within {report.quantile(0.95):.1f} s: a watermark.lead_in of"
            " that length keeps the re-embed list short"
        )
    return ""


def _live_versions(block: RowBlock) -> Iterator[tuple[str, str]]:
    """(key, version) of the live rows of a block that say their version."""
    if block.versions is None:
        return
    for at, (key, said) in enumerate(zip(block.keys, block.versions, strict=True)):
        version = normal(said)
        if version is not None and (block.live is None or block.live[at]):
            yield key, version
