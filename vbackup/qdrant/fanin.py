"""Several iterators read at once on threads, their items in whatever order they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class _End:
    """A reader has read its last source, or failed."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class FanIn(Generic[T]):
    """At most `workers` sources are open at a time, and a few items wait in memory.

    The first failure of any source is raised to the consumer; a consumer that stops early stops
    the threads.
    """

    def __init__(self, sources: Sequence[Callable[[], Iterator[T]]], workers: int) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], Iterator[T]]] = queue.SimpleQueue()
        for source in sources:
            self._waiting.put(source)
        self._workers = max(1, min(workers, len(sources)))
        self._items: queue.Queue[T | _End] = queue.Queue(2 * self._workers)
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[T]:
        threads = [
            threading.Thread(target=self._read, name=f"fanin-{n}", daemon=True)
            for n in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._merged()
        finally:
            self._stop.set()
            self._drain()
            for thread in threads:
                thread.join()

    def _merged(self) -> Iterator[T]:
        ended = 0
        while ended < self._workers:
            item = self._items.get()
            if not isinstance(item, _End):
                yield item
            elif item.error:
                raise item.error
            else:
                ended += 1

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            while not self._stop.is_set():
                for item in self._waiting.get_nowait()():
                    if not self._put(item):
                        return
        except queue.Empty:
            pass
        except BaseException as caught:  # noqa: BLE001 - raised again in the consumer
            error = caught
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def _drain(self) -> None:
        while not self._items.empty():
            self._items.get_nowait()
