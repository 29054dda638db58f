"""The watermark: one PostgreSQL snapshot at which the restored pair is exact.

Order matters and is the same for every strategy: all shards are cut first, then the snapshot
is exported. What the strategies differ in is how few rows are left without a captured image
(docs/guarantees.md):

capture  no writer ever waits; several candidate snapshots, the first complete one wins
fence    writers that take the advisory lock wait while shards are cut
lock     writers of the linked tables wait, after the cut, until their points have arrived
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vbackup.engine.capture import Capturer, newer
from vbackup.engine.cuts import ShardCuts
from vbackup.model.manifest import Strategy
from vbackup.ports import CandidateWatermark, Clock, RecordSource, Reporter

POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class WatermarkOptions:
    """How to look for the watermark; seconds throughout (config section `[watermark]`)."""

    strategy: Strategy = "capture"
    lead_in: float = 2.0
    max_index_lag: float = 300.0
    tick: float = 0.15
    budget: float = 12.0
    candidates: int = 8
    lock_timeout: float = 5.0
    restore_point: bool = False


@dataclass(slots=True)
class Chosen:
    """The winning snapshot, still open, and how it was found. `changed` holds, by link, the
    keys that changed between the base and the watermark."""

    watermark: CandidateWatermark
    strategy: Strategy
    base: str
    lead_in: float = 0.0
    paused_ms: int = 0
    candidates: int = 1
    lost: int = 0
    changed: dict[str, frozenset[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    restore_point: str = ""


@dataclass(slots=True)
class _Candidate:
    watermark: CandidateWatermark
    opened: float
    pending: dict[tuple[str, str], str]
    changed: dict[str, frozenset[str]]
    lost: int = 0

    @property
    def complete(self) -> bool:
        """Whether every changed row, as it sees it, has its point captured."""
        return not self.pending and not self.lost

    @property
    def gaps(self) -> int:
        return len(self.pending) + self.lost

    def refresh(self, capturer: Capturer) -> None:
        """Drop what was captured; count what cannot come any more: a point that has moved past
        its row never goes back."""
        for slot, version in list(self.pending.items()):
            if capturer.images.has(slot[0], slot[1], version):
                del self.pending[slot]
            elif (seen := capturer.past.get(slot)) and newer(seen, version):
                del self.pending[slot]
                self.lost += 1


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
        self._base = capturer.base
        self._opened = 0
        self._made_way = False
        # A row that says no version is suspect for as long as its point may be late.
        self._unkeyed = any(not link.keyed for link in self._links)
        patience = options.max_index_lag if self._unkeyed else 0.0
        self._lead_in = max(options.lead_in, patience)
        self._budget = options.budget + 1.5 * patience

    def run(self) -> Chosen:
        """Cut all shards and return the open winner. The caller closes it."""
        if self._options.strategy == "fence":
            return self._fenced()
        if self._options.strategy == "lock":
            return self._locked()
        return self._captured()

    # ------------------------------------------------------------ strategies

    def _captured(self, *notes: str) -> Chosen:
        self._cut_under_capture()
        winner = self._race()
        return self._chosen(winner, "capture", notes=notes)

    def _fenced(self) -> Chosen:
        asked = self._clock.monotonic()
        with self._records.fence():
            self._cuts.request()
            self._cuts.wait_cut()
            candidate = self._open()
        paused = self._clock.monotonic() - asked
        # What changed before the fence closed is in the shards: nothing is waited for.
        candidate.pending.clear()
        candidate.changed.clear()
        return self._chosen(candidate, "fence", paused)

    def _locked(self) -> Chosen:
        self._cut_under_capture()
        asked = self._clock.monotonic()
        with self._records.lock(self._links, self._options.lock_timeout) as locked:
            candidate = self._converge() if locked else None
        if candidate is None:
            self._reporter.warn(
                "the tables could not be locked in time; falling back to capture",
                timeout=f"{self._options.lock_timeout:g}s",
            )
            return self._captured_after_cut("lock not obtained: fell back to capture")
        return self._chosen(candidate, "lock", self._clock.monotonic() - asked)

    def _captured_after_cut(self, note: str) -> Chosen:
        return self._chosen(self._race(), "capture", notes=(note,))

    def _cut_under_capture(self) -> None:
        self._lead()
        self._cuts.request()
        while not self._cuts.all_cut():
            started = self._clock.monotonic()
            self._capturer.tick()
            self._rest(started)
        self._settle()

    def _lead(self) -> None:
        """Let the points of rows that changed before the base arrive."""
        until = self._clock.monotonic() + self._lead_in
        while self._unkeyed and self._clock.monotonic() < until:
            started = self._clock.monotonic()
            self._capturer.tick()
            self._clock.sleep(self._tick_length(started))
        if self._links and not self._unkeyed:
            self._clock.sleep(self._lead_in)

    def _settle(self) -> None:
        """Capture for one more lead-in after the last cut when anything changes at all.

        An application that writes the point first, or inside the row's transaction, may have
        had its point in the cut before its row is visible: a watermark taken at once would
        see the older row, whose point no longer exists anywhere."""
        until = self._clock.monotonic() + self._options.lead_in
        while self._capturer.changes and self._clock.monotonic() < until:
            started = self._clock.monotonic()
            self._capturer.tick()
            self._clock.sleep(self._tick_length(started))

    def _look(self) -> None:
        """Look for points; unkeyed ones also need to see that their rows stayed the same."""
        if self._unkeyed:
            self._capturer.tick()
        else:
            self._capturer.poll()

    def _converge(self) -> _Candidate:
        """Under the lock no row changes: wait until the changed rows' points have arrived. Those
        that already moved past their row (its writer stands at the lock) are not waited for."""
        candidate = self._open()
        deadline = self._clock.monotonic() + self._budget
        while candidate.pending and self._clock.monotonic() < deadline:
            self._look()
            candidate.refresh(self._capturer)
            self._clock.sleep(POLL_SECONDS)
        return candidate

    # ------------------------------------------------------------ candidates

    def _race(self) -> _Candidate:
        """Open one candidate a tick until one is complete or the budget is spent.

        A schema change that waits for the winner's locks would let no dump begin, so once all
        candidates make way for it, and the race begins anew."""
        open_ones: list[_Candidate] = []
        deadline = self._clock.monotonic() + self._budget
        try:
            while True:
                started = self._clock.monotonic()
                self._look()
                open_ones.append(self._open())
                winner = self._poll_until(open_ones, started + self._tick_length(started))
                if winner is None and self._clock.monotonic() >= deadline:
                    winner = min(open_ones, key=lambda one: one.gaps)
                if winner is not None and self._make_way(winner, open_ones):
                    deadline = self._clock.monotonic() + self._budget
                elif winner is not None:
                    open_ones.remove(winner)
                    return winner
                self._retire(open_ones)
        finally:
            for candidate in open_ones:
                candidate.watermark.close()

    def _make_way(self, winner: _Candidate, open_ones: list[_Candidate]) -> bool:
        """Close all candidates when somebody waits for their locks; once a search."""
        if self._made_way or not (waiting := winner.watermark.waiters()):
            return False
        self._made_way = True
        self._reporter.warn(
            "a schema change waits for the watermark: making way for it", waiting=waiting[0]
        )
        while open_ones:
            open_ones.pop().watermark.close()
        return True

    def _open(self) -> _Candidate:
        watermark = self._records.candidate(self._links)
        self._opened += 1
        try:
            pending: dict[tuple[str, str], str] = {}
            changed: dict[str, frozenset[str]] = {}
            for link in self._links:
                block = watermark.changed(link, self._base)
                changed[link.name] = frozenset(block.keys)
                for key, wanted in self._capturer.want(link, block):
                    pending[link.name, key] = wanted.version
        except BaseException:
            watermark.close()
            raise
        return _Candidate(watermark, self._clock.monotonic(), pending, changed)

    def _poll_until(self, open_ones: list[_Candidate], until: float) -> _Candidate | None:
        while True:
            for candidate in open_ones:
                candidate.refresh(self._capturer)
                if candidate.complete:
                    return candidate
            self._capturer.poll()
            if self._clock.monotonic() >= until:
                return None
            self._clock.sleep(POLL_SECONDS)

    def _retire(self, open_ones: list[_Candidate]) -> None:
        """Make room: an old candidate whose rows have moved on will hardly win any more."""
        if len(open_ones) < self._options.candidates:
            return
        worst = max(open_ones, key=lambda one: (one.gaps, -one.opened))
        open_ones.remove(worst)
        worst.watermark.close()

    def _tick_length(self, started: float) -> float:
        """At least the configured tick, and twice what the last query took."""
        return max(self._options.tick, 2 * (self._clock.monotonic() - started))

    def _rest(self, started: float) -> None:
        until = started + self._tick_length(started)
        while not self._cuts.all_cut() and self._clock.monotonic() < until:
            self._capturer.poll()
            self._clock.sleep(POLL_SECONDS)

    def _chosen(
        self,
        candidate: _Candidate,
        strategy: Strategy,
        paused: float = 0.0,
        notes: tuple[str, ...] = (),
    ) -> Chosen:
        return Chosen(
            watermark=candidate.watermark,
            strategy=strategy,
            base=self._base,
            lead_in=self._lead_in if self._links and strategy != "fence" else 0.0,
            paused_ms=round(paused * 1000),
            candidates=self._opened,
            lost=candidate.gaps,
            changed=candidate.changed,
            notes=notes,
        )
