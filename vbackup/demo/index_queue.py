"""The application's indexer: changes of rows become points, each key in order, some of them late.

Rows tell the queue what they became; workers write the points when the change is due. A key is
worked on by one worker at a time and its changes are never reordered, so that an older version
can not overwrite a newer one. A coalescing indexer skips to the newest change of a key.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from vbackup.demo.content import Change, Key
from vbackup.demo.latencies import Latencies
from vbackup.demo.point_writer import PointWriter
from vbackup.demo.scenario import Scenario
from vbackup.errors import Failed

_BATCH = 16


@dataclass(frozen=True, slots=True)
class _Job:
    """One change, when it was put, when it is due and when its write began, in the clock's
    seconds."""

    put: float
    due: float
    change: Change
    began: float


class IndexQueue:
    """Delayed, ordered, with a few worker threads. A worker's failure is raised by `drain`.

    `worst_lag` is the longest that a change has taken to be written, in seconds: on a busy
    machine that is more than the delay it was put with.
    """

    def __init__(
        self,
        writer: PointWriter,
        scenario: Scenario,
        *,
        clock: Callable[[], float],
        workers: int = 4,
        latencies: Latencies | None = None,
    ) -> None:
        self._writer = writer
        self._clock = clock
        self._latencies = latencies
        self._coalesce = scenario.coalesce
        self._mutex = threading.Condition()
        self._waiting: dict[Key, deque[_Job]] = {}
        self._due: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._closed = False
        self._hurried = False
        self._error: BaseException | None = None
        self.worst_lag = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=(scenario.random(name),), name=name)
            for name in (f"indexer-{number}" for number in range(workers))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, change: Change, delay: float, began: float | None = None) -> None:
        """Have the change written `delay` seconds from now, after all earlier ones of its key.
        `began` is when the write of its row did (now, if it is not said)."""
        with self._mutex:
            now = self._clock()
            job = _Job(now, now + delay, change, now if began is None else began)
            queue = self._waiting.get(change.key)
            if queue is None:
                self._waiting[change.key] = deque([job])
                heapq.heappush(self._due, (job.due, next(self._order), change.key))
            else:
                queue.append(job)
            self._mutex.notify()

    def drain(self, timeout: float = 60.0) -> None:
        """Wait until every change is written; no lag any more. Raises Failed, also when nothing
        was written for so many seconds."""
        with self._mutex:
            self._hurried = True
            self._mutex.notify_all()
            idle, left = False, len(self._waiting) + 1
            while not idle and len(self._waiting) < left:
                left = len(self._waiting)
                idle = bool(self._mutex.wait_for(lambda: not self._waiting or self._error, timeout))
            self._hurried = False
            if self._error:
                raise Failed(f"the application's indexer failed: {self._error}") from self._error
            if not idle:
                raise Failed(f"the indexer still has {len(self._waiting)} rows to write")

    @property
    def backlog(self) -> int:
        """Rows whose points are not written yet."""
        with self._mutex:
            return len(self._waiting)

    def close(self) -> None:
        """Stop the workers; what is not written yet is given up."""
        with self._mutex:
            self._closed = True
            self._mutex.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _work(self, rng: Random) -> None:
        try:
            while batch := self._take():
                self._writer.write(batch, rng)
                self._finish(batch)
        except BaseException as error:  # noqa: BLE001 - handed to the caller of drain
            with self._mutex:
                self._error = error
                self._closed = True
                self._mutex.notify_all()

    def _take(self) -> list[Change]:
        """The next due changes, of different keys; empty when the queue is closed."""
        with self._mutex:
            while not self._closed:
                now = self._clock()
                batch: list[Change] = []
                while self._due and len(batch) < _BATCH and self._is_due(now):
                    batch.append(self._next(heapq.heappop(self._due)[2]))
                if batch:
                    return batch
                self._mutex.wait(self._due[0][0] - now if self._due else None)
            return []

    def _is_due(self, now: float) -> bool:
        return self._hurried or self._due[0][0] <= now

    def _next(self, key: Key) -> Change:
        queue = self._waiting[key]
        if self._coalesce:
            while len(queue) > 1:
                queue.popleft()
        return queue[0].change

    def _finish(self, batch: Sequence[Change]) -> None:
        """Only now may the next change of these keys be taken."""
        with self._mutex:
            for change in batch:
                queue = self._waiting[change.key]
                done = queue.popleft()
                self.worst_lag = max(self.worst_lag, self._clock() - done.put)
                if self._latencies:
                    self._latencies.pair(done.began, done.due - done.put)
                if queue:
                    heapq.heappush(self._due, (queue[0].due, next(self._order), change.key))
                else:
                    del self._waiting[change.key]
            self._mutex.notify_all()
