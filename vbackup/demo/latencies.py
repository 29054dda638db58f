"""How long the application's own writes take: what its users would notice of a backup."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Latencies:
    """(when it began, how long it took) of every write, in seconds of the clock.

    `rows`: until the row is committed, or inside a transaction around both writes until its
    statement is through; the wait at a fence included. `pairs`: until the points are written too,
    without the delay that the scenario asks for. Writers append from many threads.
    """

    clock: Callable[[], float] = time.monotonic
    rows: list[tuple[float, float]] = field(default_factory=list)
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def row(self, began: float) -> None:
        """A row is written."""
        self.rows.append((began, self.clock() - began))

    def pair(self, began: float, delay: float) -> None:
        """A row's points are written; `delay` seconds of the time were on purpose."""
        self.pairs.append((began, self.clock() - began - delay))
