"""Candidate watermarks: several snapshots held open, the first whose rows are all captured wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vbackup.engine.capture import WANTED_LIMIT, Capturer, RowVersion, Slot
from vbackup.engine.rowfence import RowFence
from vbackup.model.link import Link
from vbackup.ports import CandidateWatermark, Clock, NoRoom, RecordSource, Reporter

POLL_SECONDS = 0.01
SPOILT = 3
"""So many candidates must have lost rows before rows are held."""


@dataclass(slots=True)
class Candidate:
    """One open snapshot: the changed rows whose points are still waited for, and those whose
    points can not come any more. After a bulk update, what is beyond a limit is only counted: the
    comparison fetches those points."""

    watermark: CandidateWatermark
    opened: float
    pending: dict[Slot, RowVersion] = field(default_factory=dict)
    lost: set[Slot] = field(default_factory=set)
    beyond: int = 0

    @property
    def complete(self) -> bool:
        """Whether every changed row, as it sees it, has its point captured."""
        return self.gaps == 0

    @property
    def gaps(self) -> int:
        return len(self.pending) + len(self.lost) + self.beyond

    def wait_for(self, slot: Slot, row: RowVersion) -> None:
        """One more row whose point is not captured."""
        if len(self.pending) < WANTED_LIMIT:
            self.pending[slot] = row
        else:
            self.beyond += 1

    def refresh(self, capturer: Capturer) -> None:
        """Drop what was captured; remember what cannot come any more."""
        for slot, row in list(self.pending.items()):
            if capturer.images.has(*slot, row):
                del self.pending[slot]
            elif not capturer.awaited(slot, row):
                del self.pending[slot]
                self.lost.add(slot)


@dataclass(slots=True)
class Race:
    """Opens candidates; seconds throughout. `opened` counts them."""

    records: RecordSource
    capturer: Capturer
    links: Sequence[Link]
    base: str
    tick: float
    budget: float
    most: int
    rows: RowFence
    reporter: Reporter
    clock: Clock
    opened: int = 0
    _opening: float = 0.0
    _made_way: bool = False
    _late: bool = False
    _full: bool = False

    def run(self) -> Candidate:
        """Open one candidate a tick until one is complete or the budget is spent; then the one
        with the fewest gaps wins. The others are closed. Where rows may be held and were not yet,
        one more candidate has that chance first.

        Each candidate locks every table: there are never more than the server has room for.

        A schema change that waits for the winner's locks would let no dump begin, so once all
        candidates make way for it, and the race begins anew."""
        open_ones: list[Candidate] = []
        deadline = self.clock.monotonic() + self.budget
        try:
            while True:
                started = self.clock.monotonic()
                self.look()
                self._widen(open_ones, deadline)
                winner = self._poll_until(open_ones, started + self.tick_length(started))
                if winner is None and self.clock.monotonic() >= deadline:
                    if self._last_chance(open_ones):
                        deadline = self.clock.monotonic() + self.rows.max_pause
                    elif open_ones:
                        winner = min(open_ones, key=lambda one: one.gaps)
                if winner is not None and self._make_way(winner, open_ones):
                    deadline = self.clock.monotonic() + self.budget
                elif winner is not None:
                    open_ones.remove(winner)
                    return winner
                self._retire(open_ones)
        finally:
            for candidate in open_ones:
                candidate.watermark.close()

    def open(self) -> Candidate:
        """One candidate, and the rows that it still waits for."""
        began = self.clock.monotonic()
        found = Candidate(self.records.candidate(self.links), began)
        self.opened += 1
        try:
            for link in self.links:
                for block in found.watermark.changed(link, self.base):
                    for owner, row in self.capturer.want(link, block):
                        found.wait_for((link.name, owner), row)
        except BaseException:
            found.watermark.close()
            raise
        found.opened = self.clock.monotonic()
        self._opening = found.opened - began
        return found

    def converge(self, deadline: float) -> Candidate:
        """With all writers waiting no row changes: one candidate, and the points of its changed
        rows as they arrive. Those that already moved past their row (its writer waits, too) are
        not waited for."""
        candidate = self.open()
        while candidate.pending and self.clock.monotonic() < deadline:
            self.look()
            candidate.refresh(self.capturer)
            self.clock.sleep(POLL_SECONDS)
        return candidate

    def look(self) -> None:
        """Look for points; unversioned ones also need to see that their rows stayed the same."""
        if self._exact:
            self.capturer.poll()
        else:
            self.capturer.tick()

    def tick_length(self, started: float) -> float:
        """At least the configured tick, and twice what the last query took."""
        return max(self.tick, 2 * (self.clock.monotonic() - started))

    def _widen(self, open_ones: list[Candidate], deadline: float) -> None:
        """One more candidate. When the server has no room for it, the best one is left, and waited
        for alone: the others' locks are what everybody else lacks. Where none is open, somebody
        has taken the room of the last one: it is asked for again at the next tick."""
        if open_ones and (self._full or len(open_ones) >= self.most):
            return
        try:
            open_ones.append(self._next(open_ones))
        except NoRoom as error:
            if not open_ones:
                if not self.opened or self.clock.monotonic() >= deadline:
                    raise
                return
            self._full = True
            self.reporter.warn("no room for more candidates", reason=error.message, hint=error.hint)
            for candidate in sorted(open_ones, key=lambda one: one.gaps)[1:]:
                open_ones.remove(candidate)
                candidate.watermark.close()
        else:
            self._fit(open_ones)

    def _fit(self, open_ones: Sequence[Candidate]) -> None:
        """Have no more candidates than the server has room for, by the locks of the first. Each
        stays open for as long as it would among many: its points need that time."""
        if len(open_ones) > 1 or self.most < 2:
            return
        room = open_ones[0].watermark.room()
        if room < self.most:
            self.reporter.note("few candidates: every one locks all tables", most=room)
            self.tick = max(self.tick, min(self.tick * self.most / room, self.budget / 2))
            self.most = room

    def _next(self, open_ones: Sequence[Candidate]) -> Candidate:
        """One more candidate; with the row fence when hot rows have spoilt all others, or when it
        is the last."""
        self._see(open_ones)
        spoilt = self.opened >= SPOILT and all(one.lost for one in open_ones)
        if not ((spoilt or self._late) and self.rows.ready):
            return self.open()
        with self.rows.holding(self._opening):
            return self.open()

    def _last_chance(self, open_ones: Sequence[Candidate]) -> bool:
        """Whether the budget is spent with overtaken rows that nobody has held; once a search. On
        a slow machine few candidates fit into it."""
        if self._late or self._full or self.rows.held:
            return False
        self._see(open_ones)
        self._late = self.rows.ready
        return self._late

    def _see(self, candidates: Sequence[Candidate]) -> None:
        for one in candidates:
            self.rows.see(one.lost)

    def _make_way(self, winner: Candidate, open_ones: list[Candidate]) -> bool:
        """Close all candidates when somebody waits for their locks; once a search."""
        if self._made_way or not (waiting := winner.watermark.waiters()):
            return False
        self._made_way = True
        self.reporter.warn(
            "a schema change waits for the watermark: making way for it", waiting=waiting[0]
        )
        while open_ones:
            open_ones.pop().watermark.close()
        return True

    def _poll_until(self, open_ones: Sequence[Candidate], until: float) -> Candidate | None:
        while True:
            for candidate in open_ones:
                candidate.refresh(self.capturer)
                if candidate.complete:
                    return candidate
            self.capturer.poll()
            if self.clock.monotonic() >= until:
                return None
            self.clock.sleep(POLL_SECONDS)

    def _retire(self, open_ones: list[Candidate]) -> None:
        """Make room: an old candidate whose rows have moved on will hardly win any more. The only
        one that there is room for goes when it cannot win."""
        if len(open_ones) < self.most or (self.most == 1 and not self._hopeless(open_ones[0])):
            return
        worst = max(open_ones, key=lambda one: (one.gaps, -one.opened))
        open_ones.remove(worst)
        self._see([worst])
        worst.watermark.close()

    def _hopeless(self, candidate: Candidate) -> bool:
        """Whether a candidate cannot become complete. Of rows that say no version nobody knows."""
        age = self.clock.monotonic() - candidate.opened
        return bool(candidate.lost) or (not self._exact and age >= self.budget / 2)

    @property
    def _exact(self) -> bool:
        """Whether a captured point always says which row version it is of."""
        return all(link.exact for link in self.links)
