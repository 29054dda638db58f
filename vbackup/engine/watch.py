"""Reconcile again and again: between complete comparisons only what is in doubt is read.

The first round is a complete, confirmed reconcile. Later rounds read again what was found
before, and the rows that the change feed says have changed since; every `complete_every` a round
compares everything, as only that finds what no feed tells: points that went or came by
themselves, and points of rows that were deleted. Nobody waits for the index in these rounds.
What is found for the first time is *in doubt*; it is drift once a look that began at least
`max_index_lag` later finds it wrong in the same way (engine.confirm), and forgotten as soon as
one look finds it right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from vbackup.engine.compare import tally
from vbackup.engine.confirm import BATCH, batches, identity
from vbackup.engine.links import Target
from vbackup.engine.reconcile import Reconcile
from vbackup.engine.reread import Reread
from vbackup.errors import NotFound, VbackupError
from vbackup.model.blocks import RowBlock
from vbackup.model.finding import Finding, LinkReport
from vbackup.model.link import Link
from vbackup.ports import Clock

FOLLOWED = 100_000
"""Findings of a link that are followed from round to round; a link with more is only looked at
in complete rounds."""

WHOLE_SHARE = 0.2
"""When more than this share of a link's rows changed, comparing everything costs less."""

Identity = tuple[object, ...]


class Changes(Protocol):
    """What a change feed tells (`ports.RecordSource`)."""

    def change_base(self, links: Sequence[Link] = ()) -> str: ...

    def changed(
        self, links: Sequence[Link], base: str, *, most: int | None = None
    ) -> tuple[dict[str, RowBlock], str]: ...


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Seconds from the end of a round to the start of the next one, and between complete rounds;
    `rounds` None goes on until somebody stops it."""

    interval: float = 60.0
    complete_every: float = 3600.0
    rounds: int | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One look. `reports` count drift; their `rows` and `points` are those of the link's last
    complete comparison. `appeared` and `gone` tell what is different from the round before.
    `error` is set when a server failed: then everything else is as it was."""

    number: int
    compared: tuple[str, ...]
    """The links that were compared as a whole."""
    looked_at: int
    """Rows that had changed, and findings, that were read again."""
    in_doubt: int
    reports: tuple[LinkReport, ...]
    appeared: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    error: VbackupError | None = None

    @property
    def clean(self) -> bool:
        """Whether there is no drift; what is in doubt is none yet."""
        return self.error is None and all(report.clean for report in self.reports)


@dataclass(slots=True)
class Followed:
    """What is known of one link."""

    target: Target
    report: LinkReport
    drift: dict[Identity, Finding] = field(default_factory=dict)
    doubt: dict[Identity, tuple[Finding, float]] = field(default_factory=dict)
    too_many: bool = False

    @property
    def few(self) -> int:
        """Up to so many changed rows are looked at one by one."""
        return max(BATCH, int(WHOLE_SHARE * self.report.rows))

    def known(self) -> list[Finding]:
        """Findings to read again; those of one key side by side."""
        found = [*self.drift.values(), *(finding for finding, _ in self.doubt.values())]
        return sorted(found, key=lambda finding: (finding.key is None, finding.key or ""))

    def seen(self, found: Iterable[Finding], began: float, ended: float, lag: float) -> None:
        """Take what one look found wrong of all that is known (and of anything else); it began
        and ended at these monotonic times."""
        by_identity = {identity(finding): finding for finding in found}
        drift: dict[Identity, Finding] = {}
        doubt: dict[Identity, tuple[Finding, float]] = {}
        for key, finding in by_identity.items():
            first = self.doubt[key][1] if key in self.doubt else ended
            if key in self.drift or began >= first + lag:
                drift[key] = finding
            else:
                doubt[key] = (finding, first)
        self.drift, self.doubt = drift, doubt


@dataclass(slots=True)
class Watch:
    """Watches a live pair. `pair` opens it anew for a complete comparison: collections may have
    come and gone. `changes` tells which rows have changed."""

    pair: Callable[[], Reconcile]
    changes: Changes
    options: WatchOptions
    clock: Clock
    _pair: Reconcile | None = None
    _links: dict[str, Followed] = field(default_factory=dict)
    _warnings: tuple[str, ...] = ()
    _base: str = ""
    _complete_at: float = 0.0
    _number: int = 0

    def rounds(self) -> Iterator[Round]:
        """The rounds, with the pauses between them. A failure that may pass (a server that is
        restarted) is a round of its own; the one after it compares everything.

        Raises what the first round raises, and failures that trying again does not help."""
        while True:
            self._number += 1
            yield self._round()
            if self.options.rounds is not None and self._number >= self.options.rounds:
                return
            self.clock.sleep(self.options.interval)

    def findings(self) -> Iterator[Finding]:
        """The drift that is known now."""
        for followed in self._links.values():
            yield from followed.drift.values()

    def _round(self) -> Round:
        began = self.clock.monotonic()
        before = self._drift()
        try:
            compared, looked_at = self._look(began)
        except VbackupError as error:
            if not self._links or not error.retryable:
                raise
            self._complete_at = began
            return self._told((), 0, self._drift(), began, error)
        return self._told(compared, looked_at, before, began)

    def _look(self, now: float) -> tuple[tuple[str, ...], int]:
        """The links that were compared as a whole, and how much else was read again."""
        if self._pair is None or now >= self._complete_at:
            return self._complete(), 0
        try:
            return self._quick(self._pair)
        except NotFound:  # a collection that was there; another may have come in its place
            return self._complete(), 0

    def _drift(self) -> dict[Identity, Finding]:
        return {
            (name, *key): finding
            for name, followed in self._links.items()
            if not followed.too_many
            for key, finding in followed.drift.items()
        }

    def _told(
        self,
        compared: tuple[str, ...],
        looked_at: int,
        before: Mapping[Identity, Finding],
        began: float,
        error: VbackupError | None = None,
    ) -> Round:
        links, now = list(self._links.values()), self._drift()
        return Round(
            number=self._number,
            compared=compared,
            looked_at=looked_at,
            in_doubt=sum(len(followed.doubt) for followed in links),
            reports=tuple(_report(followed) for followed in links),
            appeared=tuple(finding for key, finding in now.items() if key not in before),
            gone=tuple(finding for key, finding in before.items() if key not in now),
            warnings=self._warnings,
            seconds=self.clock.monotonic() - began,
            error=error,
        )

    # ------------------------------------------------------------ complete rounds

    def _complete(self) -> tuple[str, ...]:
        pair = self.pair()
        # Taken first: what changes while everything is compared is looked at again.
        base = self.changes.change_base(pair.links)
        found, warnings = self._compare(pair, confirm=not self._links)
        self._pair, self._links, self._warnings, self._base = pair, found, warnings, base
        self._complete_at = self.clock.monotonic() + self.options.complete_every
        return tuple(found)

    def _compare(
        self, pair: Reconcile, *, confirm: bool
    ) -> tuple[dict[str, Followed], tuple[str, ...]]:
        """Compare links as a whole; with `confirm` what is found is drift. And the warnings."""
        found, warnings = self._compared(pair, confirm=confirm)
        crowded = tuple(name for name, followed in found.items() if followed.too_many)
        if crowded and not confirm:
            again, _ = self._compared(_only(pair, crowded), confirm=True)
            found |= again
        return found, warnings

    def _compared(
        self, pair: Reconcile, *, confirm: bool
    ) -> tuple[dict[str, Followed], tuple[str, ...]]:
        wanted = replace(pair.options, confirm=confirm)
        kept: dict[str, list[Finding]] = {}

        def sink(finding: Finding) -> None:
            mine = kept.setdefault(finding.link, [])
            if len(mine) <= FOLLOWED:
                mine.append(finding)

        began = self.clock.monotonic()
        result = replace(pair, options=wanted).run(sink)
        ended = self.clock.monotonic()
        found: dict[str, Followed] = {}
        for target, report in zip(result.targets, result.reports, strict=True):
            name = target.link.name
            findings = kept.get(name, [])
            followed = Followed(target, report, too_many=len(findings) > FOLLOWED)
            if confirm:
                followed.drift = {identity(finding): finding for finding in findings[:FOLLOWED]}
            else:
                if name in self._links:
                    followed.drift = self._links[name].drift
                    followed.doubt = self._links[name].doubt
                followed.seen(findings, began, ended, pair.options.max_index_lag)
            found[name] = followed
        return found, tuple(result.warnings)

    # ------------------------------------------------------------ between them

    def _quick(self, pair: Reconcile) -> tuple[tuple[str, ...], int]:
        links = [followed.target.link for followed in self._links.values()]
        # Of a query all rows may come: no more are kept than tell that everything is compared.
        most = 1 + max((followed.few for followed in self._links.values()), default=0)
        changed, following = self.changes.changed(links, self._base, most=most)
        whole = tuple(
            name
            for name, followed in self._links.items()
            if not followed.too_many and len(changed[name]) > followed.few
        )
        looked_at = sum(
            self._again(pair, followed, changed[name].keys)
            for name, followed in self._links.items()
            if name not in whole and not followed.too_many
        )
        if whole:
            found, _ = self._compare(_only(pair, whole), confirm=False)
            self._links |= found
        self._base = following
        return whole, looked_at

    def _again(self, pair: Reconcile, followed: Followed, changed: Sequence[str]) -> int:
        """Look at what is known of a link, and at its rows that have changed."""
        known = followed.known()
        keys = {finding.key for finding in known}
        name = followed.target.link.name
        new = [Finding("missing", name, "", key) for key in changed if key not in keys]
        began = self.clock.monotonic()
        with pair.rereading() as reread:
            found = list(_reread(reread, followed.target, [*new, *known], pair.options.tenant))
        ended = self.clock.monotonic()
        followed.seen(found, began, ended, pair.options.max_index_lag)
        return len(known) + len(new)


def _only(pair: Reconcile, names: tuple[str, ...]) -> Reconcile:
    """The same pair, of these links only."""
    return replace(pair, options=replace(pair.options, only=names))


def _reread(
    reread: Reread, target: Target, asked: Sequence[Finding], tenant: str | None
) -> Iterator[Finding]:
    for batch in batches(asked, BATCH):
        yield from reread.findings(target, batch, tenant=tenant)


def _report(followed: Followed) -> LinkReport:
    """The counts of what is drift now."""
    report = replace(followed.report, healed=0, warnings=[])
    if followed.too_many:
        report.warnings.append(
            f"more than {FOLLOWED:,} findings: looked at again in complete rounds only"
        )
    else:
        tally(report, followed.drift.values())
    return report
