"""The watermark: one PostgreSQL snapshot at which the restored pair is exact.

Order matters and is the same for every strategy: all shards are cut first, then the snapshot
is exported. What the strategies differ in is how few rows are left without a captured image
(docs/guarantees.md):

capture  no writer ever waits; several candidate snapshots, the first complete one wins
fence    writers that take the advisory lock wait while shards are cut
lock     writers of the linked tables wait, after the cut, until their points have arrived
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vbackup.engine.candidates import POLL_SECONDS, Candidate, Race
from vbackup.engine.capture import Capturer
from vbackup.engine.cuts import ShardCuts
from vbackup.engine.keysets import ChangedKeys
from vbackup.engine.rowfence import RowFence
from vbackup.model.manifest import Strategy
from vbackup.ports import CandidateWatermark, Clock, RecordSource, Reporter


@dataclass(frozen=True, slots=True)
class WatermarkOptions:
    """How to look for the watermark; seconds throughout (config section `[watermark]`).

    `max_pause` is the longest that writers are kept waiting: with 0, `capture` holds no rows, and
    `fence` and `lock` last no longer than the budget."""

    strategy: Strategy = "capture"
    lead_in: float = 2.0
    max_index_lag: float = 300.0
    tick: float = 0.15
    budget: float = 12.0
    candidates: int = 8
    lock_timeout: float = 5.0
    max_pause: float = 0.0
    restore_point: bool = False


@dataclass(slots=True)
class Chosen:
    """The winning snapshot, still open, and how it was found. `settled` says that whatever
    changed before the watermark was in the shards when they were cut."""

    watermark: CandidateWatermark
    strategy: Strategy
    base: str
    lead_in: float = 0.0
    paused_ms: int = 0
    candidates: int = 1
    lost: int = 0
    settled: bool = False
    notes: tuple[str, ...] = ()
    restore_point: str = ""

    def changed(self, path: Path) -> ChangedKeys:
        """The keys that changed between the base and the watermark, kept in a file there."""
        return ChangedKeys(None if self.settled else self.watermark, self.base, path)


class WatermarkSearch:
    """Finds the watermark for one set of cuts."""

    def __init__(
        self,
        records: RecordSource,
        capturer: Capturer,
        cuts: ShardCuts,
        options: WatermarkOptions,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self._records = records
        self._capturer = capturer
        self._cuts = cuts
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._links = [target.link for target in capturer.targets]
        # A row that says no version is suspect for as long as its point may be late.
        self._unkeyed = any(not link.exact for link in self._links)
        patience = options.max_index_lag if self._unkeyed else 0.0
        self._lead_in = max(options.lead_in, patience)
        budget = options.budget + 2.5 * patience
        self._longest_pause = options.max_pause or options.budget
        self._rows = RowFence(records, capturer, options.max_pause, reporter, clock)
        self._race = Race(
            records,
            capturer,
            self._links,
            capturer.base,
            options.tick,
            budget,
            options.candidates,
            self._rows,
            reporter,
            clock,
        )

    def run(self) -> Chosen:
        """Cut all shards and return the open winner. The caller closes it."""
        if self._options.strategy == "fence":
            return self._fenced()
        if self._options.strategy == "lock":
            return self._locked()
        return self._captured()

    # ------------------------------------------------------------ strategies

    def _captured(self, *notes: str) -> Chosen:
        self._lead()
        self._cuts.request()
        self._follow_cuts()
        return self._raced(0.0, *notes)

    def _fenced(self) -> Chosen:
        asked = self._clock.monotonic()
        with self._records.fence():
            self._cuts.request()
            candidate = self._race.open() if self._cut_before(asked + self._longest_pause) else None
        paused = self._clock.monotonic() - asked
        if candidate is None:
            self._reporter.warn("the shards were not cut in time; falling back to capture")
            self._follow_cuts()
            return self._raced(paused, "shards not cut under the fence: fell back to capture")
        # What changed before the fence closed is in the shards: nothing is waited for.
        chosen = self._chosen(Candidate(candidate.watermark, asked), "fence", paused)
        chosen.settled = True
        return chosen

    def _locked(self) -> Chosen:
        if self._unkeyed:
            # A writer that waits at the lock with its point written makes its row look unchanged.
            note = "lock needs versions in rows and points: fell back to capture"
            self._reporter.warn(note)
            return self._captured(note)
        self._lead()
        self._cuts.request()
        self._follow_cuts()
        asked = self._clock.monotonic()
        timeout = min(self._options.lock_timeout, self._longest_pause)
        with self._records.lock(self._links, timeout) as locked:
            candidate = self._race.converge(asked + self._longest_pause) if locked else None
        paused = self._clock.monotonic() - asked
        if candidate is None:
            self._reporter.warn(
                "the tables could not be locked in time; falling back to capture",
                timeout=f"{timeout:g}s",
            )
            return self._raced(paused, "lock not obtained: fell back to capture")
        return self._chosen(candidate, "lock", paused)

    def _raced(self, paused: float = 0.0, *notes: str) -> Chosen:
        """The first complete candidate. Writers were paused by the row fence, and by another
        strategy before it gave up."""
        winner = self._race.run()
        if self._rows.held:
            notes = (*notes, f"{self._rows.held} hot rows were held")
        return self._chosen(winner, "capture", paused + self._rows.paused, notes)

    # ------------------------------------------------------------ cuts

    def _lead(self) -> None:
        """Let the points of rows that changed before the base arrive."""
        until = self._clock.monotonic() + self._lead_in
        if self._unkeyed:
            self._reporter.note(
                "a link says no version: waiting out max_index_lag before and after the cuts",
                links=",".join(link.name for link in self._links if not link.exact),
                each=f"{self._lead_in:g}s",
            )
        while self._unkeyed and self._clock.monotonic() < until:
            self._tick()
        if self._links and not self._unkeyed:
            self._clock.sleep(self._lead_in)

    def _cut_before(self, deadline: float) -> bool:
        """Wait for all cuts, but not with writers standing at the fence for ever."""
        while not (cut := self._cuts.all_cut()) and self._clock.monotonic() < deadline:
            self._clock.sleep(POLL_SECONDS)
        return cut

    def _follow_cuts(self) -> None:
        """Capture until every shard has cut, and for a lead-in more."""
        while not self._cuts.all_cut():
            started = self._clock.monotonic()
            self._capturer.tick()
            self._rest(started)
        self._settle()

    def _rest(self, started: float) -> None:
        until = started + self._race.tick_length(started)
        while not self._cuts.all_cut() and self._clock.monotonic() < until:
            self._capturer.poll()
            self._clock.sleep(POLL_SECONDS)

    def _settle(self) -> None:
        """Capture for one more lead-in after the last cut when anything changes at all.

        An application that writes the point first, or inside the row's transaction, may have
        had its point in the cut before its row is visible: a watermark taken at once would
        see the older row, whose point no longer exists anywhere. Without a version nobody would
        notice; after a lag that row is one that changed."""
        until = self._clock.monotonic() + self._lead_in
        while (self._unkeyed or self._capturer.changes) and self._clock.monotonic() < until:
            self._tick()

    def _tick(self) -> None:
        started = self._clock.monotonic()
        self._capturer.tick()
        self._clock.sleep(self._race.tick_length(started))

    def _chosen(
        self,
        candidate: Candidate,
        strategy: Strategy,
        paused: float = 0.0,
        notes: tuple[str, ...] = (),
    ) -> Chosen:
        return Chosen(
            watermark=candidate.watermark,
            strategy=strategy,
            base=self._race.base,
            lead_in=self._lead_in if self._links and strategy != "fence" else 0.0,
            paused_ms=round(paused * 1000),
            candidates=self._race.opened,
            lost=candidate.gaps,
            notes=notes,
        )
