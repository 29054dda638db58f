"""Several iterators at once: everything once, failures raised, no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vbackup.qdrant.fanin import FanIn


def _numbers(start: int, count: int) -> Iterator[int]:
    yield from range(start, start + count)


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("fanin")}


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("sources", [1, 5])
def test_every_item_comes_once(workers: int, sources: int) -> None:
    made = [lambda n=n: _numbers(n * 100, 100) for n in range(sources)]

    assert sorted(FanIn(made, workers)) == list(range(sources * 100))
    assert not _threads()


def test_sources_without_items_end_it() -> None:
    assert list(FanIn([lambda: iter(())] * 3, 2)) == []


def test_a_failure_is_raised_and_stops_the_others() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    def endless() -> Iterator[int]:
        while True:
            yield 0

    with pytest.raises(ValueError, match="broken"):
        list(FanIn([broken, endless], 2))
    assert not _threads()


def test_a_consumer_that_leaves_stops_the_threads() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    items = iter(FanIn([endless] * 3, 3))
    next(items)
    items.close()  # type: ignore[attr-defined]  # a generator

    assert not _threads()


def test_no_more_than_the_workers_are_open_and_memory_is_bounded() -> None:
    lock = threading.Lock()
    state = {"open": 0, "most": 0, "made": 0}

    def source() -> Iterator[int]:
        with lock:
            state["open"] += 1
            state["most"] = max(state["most"], state["open"])
        for _ in range(50):
            with lock:
                state["made"] += 1
            yield 1
        with lock:
            state["open"] -= 1

    taken = 0
    for _ in FanIn([source] * 6, 2):
        taken += 1
        with lock:
            # Four wait in the queue, two are in the readers' hands, and one more each was begun.
            assert state["made"] <= taken + 8

    assert taken == 300
    assert state["most"] == 2
