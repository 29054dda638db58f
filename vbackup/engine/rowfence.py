"""The row fence of the strategy `capture`, for very hot rows; off unless `max_pause` says so.

A row that is indexed twice between two looks is lost for every candidate. Where such rows keep
all candidates from being complete, just these rows are held still until their points have
arrived, one candidate is opened, and they are let go. All other writers go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from vbackup.engine.capture import Capturer, RowVersion, Slot
from vbackup.engine.owners import owners
from vbackup.errors import VbackupError
from vbackup.ports import Clock, RecordSource, Reporter, RowHold

POLL_SECONDS = 0.01
LEAST_SECONDS = 0.02
"""What is left of the pause must be worth a round trip."""

MOST = 2_000
"""Rows that are held at once."""

FREE_TRIES = 10
"""How often rows that somebody is writing are asked for when nothing else is waited for."""


@dataclass(slots=True)
class RowFence:
    """Holds overtaken rows, `max_pause` seconds in all. `paused` says how long it did, `held` how
    many rows at most at once."""

    records: RecordSource
    capturer: Capturer
    max_pause: float
    reporter: Reporter
    clock: Clock
    overtaken: set[Slot] = field(default_factory=set)
    paused: float = 0.0
    held: int = 0

    def see(self, lost: Collection[Slot]) -> None:
        """Remember rows whose points had moved on before they were captured."""
        if self.max_pause:
            self.overtaken.update(lost)

    @property
    def ready(self) -> bool:
        """Whether there is anything to hold, few enough rows, and time left for it."""
        left = self.max_pause - self.paused
        return 0 < len(self.overtaken) <= MOST and left > LEAST_SECONDS

    @contextmanager
    def holding(self, opening: float) -> Iterator[None]:
        """Hold the overtaken rows while the block opens a candidate, which takes about `opening`
        seconds. A fence that cannot be had changes nothing but the re-embed list."""
        left = self.max_pause - self.paused
        began = self.clock.monotonic()
        with ExitStack() as stack:
            try:
                hold = stack.enter_context(self.records.hold_rows(left))
                self._arrive(hold, began + left - min(opening, left / 2))
            except VbackupError as error:
                stack.close()
                self.max_pause = 0.0
                self.reporter.warn("hot rows could not be held", reason=error.message)
            try:
                yield
            finally:
                stack.close()
                # The server lets go in time, also while the candidate is still being opened.
                self.paused += min(left, self.clock.monotonic() - began)

    def _arrive(self, hold: RowHold, until: float) -> None:
        """Take the rows and wait for their points. Rows that somebody is writing are asked for
        again; one whose point is ahead of it (its writer waits for us) is not waited for."""
        held: set[Slot] = set()
        pending: dict[Slot, RowVersion] = {}
        tries = 0
        while self.clock.monotonic() < until:
            pending |= self._take(hold, held)
            self.capturer.poll()
            pending = {
                slot: row for slot, row in pending.items() if self.capturer.awaited(slot, row)
            }
            tries += 1
            if not pending and (held == self.overtaken or tries >= FREE_TRIES):
                break
            self.clock.sleep(POLL_SECONDS)
        self.held = max(self.held, len(held))

    def _take(self, hold: RowHold, held: set[Slot]) -> dict[Slot, RowVersion]:
        """The versions of newly held rows whose points are not captured; adds them to `held`.
        Other rows of the same keys, in other collections, are held along and not waited for."""
        wanted: dict[Slot, RowVersion] = {}
        for target in self.capturer.targets:
            name = target.link.name
            keys = sorted({owner.key for link, owner in self.overtaken - held if link == name})
            if not keys:
                continue
            block = hold.take(target.link, keys)
            taken = {(name, owner) for owner in owners(block, self.capturer.aliases)}
            held |= taken & self.overtaken
            for owner, row in self.capturer.want(target.link, block):
                if (name, owner) in self.overtaken:
                    wanted[name, owner] = row
        return wanted
