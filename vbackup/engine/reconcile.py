"""Reconcile: do rows and points agree, for every link, live or out of a backup?

Each link is compared as a whole (`engine.compare`), rows and points being read at the same
time; on a live pair every finding is then confirmed (`engine.confirm`) before it counts.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vbackup.engine.compare import DEFAULT_MEMORY, Comparison, ComparisonResult, tally
from vbackup.engine.confirm import Confirmation
from vbackup.engine.links import Target, by_alias, resolve
from vbackup.engine.reread import OpenRows, Reread
from vbackup.errors import NotFound
from vbackup.model.finding import Finding, LinkReport
from vbackup.model.link import Link
from vbackup.model.patch import named
from vbackup.ports import Clock, PointReader, RecordSource, Reporter, RowReader, Step

EXPECTABLE = ("missing", "wrong_count")
VECTORS_EXPECTABLE = (*EXPECTABLE, "stale", "ahead")
"""No patch takes vectors out of a database: they stay as they were at the watermark."""
Sink = Callable[[Finding], None]


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """How to reconcile. `max_index_lag` is seconds, `memory` bytes; `confirm` False is for
    pairs that nobody writes to. `limit` bounds the findings that are handed out, never the
    counts. `only` names links, all when empty."""

    confirm: bool = True
    max_index_lag: float = 300.0
    tenant: str | None = None
    limit: int | None = None
    only: tuple[str, ...] = ()
    work_dir: Path | None = None
    memory: int = DEFAULT_MEMORY
    jobs: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))


@dataclass(slots=True)
class ReconcileResult:
    """Reports by link in the order of the configuration; digests by link name."""

    reports: list[LinkReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    seconds: float = 0.0
    truncated: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing was found that nobody expected."""
        return all(report.clean for report in self.reports)


@dataclass(frozen=True, slots=True)
class Reconcile:
    """One reconcile of the collections in `names` (each with its aliases). `expected` holds, by
    link, rows already known to need re-embedding (`Reembed.named`); `noticed` says what reading a
    link's points brought up."""

    links: Sequence[Link]
    ignore: Collection[str]
    open_rows: OpenRows
    points: PointReader
    names: Mapping[str, Collection[str]]
    options: ReconcileOptions
    reporter: Reporter
    clock: Clock
    expected: Mapping[str, Collection[str]] = field(default_factory=dict)
    executor: Executor | None = None
    noticed: Callable[[Link], Sequence[str]] = lambda _: ()

    def run(self, sink: Sink | None = None) -> ReconcileResult:
        """Compare all links; `sink` gets each finding that counts, with its evidence.

        Raises NotFound for an unknown link name, Usage for a link that cannot be compared, and
        what the readers raise."""
        started = self.clock.monotonic()
        result = ReconcileResult()
        handed = _Handed(sink, self.options.limit)
        with self._scratch() as workdir, self._pool() as pool:
            result.targets = self._targets(result)
            for target in result.targets:
                report = self._link(target, workdir, pool, handed, result)
                result.reports.append(report)
        result.truncated = handed.truncated
        result.seconds = self.clock.monotonic() - started
        return result

    def _targets(self, result: ReconcileResult) -> list[Target]:
        resolution = resolve(self.links, self.ignore, self.names)
        only = set(self.options.only)
        unknown = only - {link.name for link in self.links}
        if unknown:
            raise NotFound(
                f"no link named {', '.join(sorted(unknown))}",
                hint=f"links: {', '.join(link.name for link in self.links) or 'none'}",
            )
        result.warnings += resolution.warnings
        return [t for t in resolution.targets if not only or t.link.name in only]

    def _link(
        self,
        target: Target,
        workdir: Path,
        pool: Executor,
        handed: _Handed,
        result: ReconcileResult,
    ) -> LinkReport:
        with self._comparison(target, workdir, pool) as comparison:
            since = self._read(target, comparison)
            compared = comparison.finish()
            report, findings = compared.report, compared.findings
            report.warnings += self.noticed(target.link)
            if self.options.confirm and report.drift:
                self._confirmed(target, workdir, compared, since, handed)
            else:
                handed.all(self._marked(target, report, findings))
        result.digests[target.link.name] = compared.digest
        result.warnings += [f"link {report.name!r}: {text}" for text in report.warnings]
        return report

    def _comparison(self, target: Target, workdir: Path, pool: Executor) -> Comparison:
        return Comparison(
            target.link,
            workdir,
            pool,
            self.options.memory,
            tenant=self.options.tenant,
            aliases=self._aliases,
        )

    def _read(self, target: Target, comparison: Comparison) -> float:
        """Both sides; the monotonic time when they were read."""
        with (
            self.reporter.step(f"compare {target.link.name}", unit="records") as step,
            self.open_rows() as view,
        ):
            feed(comparison, view, self.points, target, step)
        return self.clock.monotonic()

    def _confirmed(
        self,
        target: Target,
        workdir: Path,
        compared: ComparisonResult,
        since: float,
        handed: _Handed,
    ) -> None:
        """Replace the counts of the first look by those of what stayed wrong."""
        report = compared.report
        suspected = report.drift
        reread = Reread(self.open_rows, self.points, workdir, self._aliases)
        confirmation = Confirmation(
            reread,
            self.clock,
            self.reporter,
            workdir,
            self.options.max_index_lag,
            self.options.tenant,
        )
        with closing(confirmation.confirm(target, compared.findings, since)) as confirmed:
            tally(report, confirmed)
            report.healed = suspected - report.drift
            handed.all(self._marked(target, report, confirmed))

    def _marked(
        self, target: Target, report: LinkReport, findings: Iterable[Finding]
    ) -> Iterator[Finding]:
        """The findings, those that the re-embed list accounts for being counted as such."""
        expected = self.expected.get(target.link.name, ())
        kinds = VECTORS_EXPECTABLE if target.link.vectors else EXPECTABLE
        for finding in findings:
            if finding.kind in kinds and finding.key and _listed(finding, expected):
                report.expected_reembed += 1
                yield replace(finding, detail="on the re-embed list")
            else:
                yield finding

    @contextmanager
    def rereading(self) -> Iterator[Reread]:
        """Reads both sides again, for a few keys."""
        with self._scratch() as workdir:
            yield Reread(self.open_rows, self.points, workdir, self._aliases)

    @property
    def _aliases(self) -> dict[str, str]:
        return by_alias(self.names)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        parent = self.options.work_dir
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="vbackup-reconcile-", dir=parent) as directory:
            yield Path(directory)

    @contextmanager
    def _pool(self) -> Iterator[Executor]:
        if self.executor:
            yield self.executor
            return
        with ThreadPoolExecutor(self.options.jobs, "compare") as pool:
            yield pool


class _Handed:
    """Hands findings to the sink, up to the limit."""

    def __init__(self, sink: Sink | None, limit: int | None) -> None:
        self._sink = sink
        self._left = limit
        self.truncated = False

    def all(self, findings: Iterable[Finding]) -> None:
        """Takes every finding, so that a stream that counts on the way is counted to its end."""
        for finding in findings:
            if self._sink is None:
                continue
            if self._left == 0:
                self.truncated = True
                continue
            if self._left is not None:
                self._left -= 1
            self._sink(finding)


def feed(
    comparison: Comparison, rows: RowReader, points: PointReader, target: Target, step: Step
) -> None:
    """Read rows and points of a link into a comparison, both sides at the same time.

    When one side fails, the other stops at its next block and the failure is raised here."""
    stop = threading.Event()

    def read_rows() -> None:
        for block in rows.rows(target.link):
            if stop.is_set():
                return
            comparison.add_rows(block)
            step.advance(len(block))

    def read_points() -> None:
        for collection in target.collections:
            for block in points.points(target.link, collection):
                if stop.is_set():
                    return
                comparison.add_points(collection, block)
                step.advance(len(block))

    with ThreadPoolExecutor(1, "rows") as pool:
        future = pool.submit(_stopping, stop, read_rows)
        _stopping(stop, read_points)
        future.result()


def _stopping(stop: threading.Event, action: Callable[[], None]) -> None:
    try:
        action()
    except BaseException:
        stop.set()
        raise


def _listed(finding: Finding, expected: Collection[str]) -> bool:
    """Whether this row is on the re-embed list, in its collection where rows name one."""
    key = finding.key or ""
    return key in expected or named(key, finding.collection) in expected


def live_rows(records: RecordSource) -> OpenRows:
    """Fresh snapshots of a database, closed after use."""

    @contextmanager
    def opened() -> Iterator[RowReader]:
        view = records.view()
        try:
            yield view
        finally:
            view.close()

    return opened


def reconcile_restored(
    *,
    links: Sequence[Link],
    ignore: Collection[str],
    records: RecordSource,
    points: PointReader,
    aliases: Mapping[str, Collection[str]] | None = None,
    expected: Mapping[str, Collection[str]] | None = None,
    work_dir: Path | None = None,
    reporter: Reporter,
    clock: Clock,
    sink: Sink | None = None,
    noticed: Callable[[Link], Sequence[str]] = lambda _: (),
) -> ReconcileResult:
    """Reconcile a restored pair that nobody writes to yet: nothing is waited for.

    `aliases` are those that each collection had in the backup."""
    also = aliases or {}
    return Reconcile(
        links=links,
        ignore=ignore,
        open_rows=live_rows(records),
        points=points,
        names={name: also.get(name, ()) for name in points.collections()},
        options=ReconcileOptions(confirm=False, work_dir=work_dir),
        reporter=reporter,
        clock=clock,
        expected=expected or {},
        noticed=noticed,
    ).run(sink)
