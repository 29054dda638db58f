"""The indexer keeps the changes of one key in order, whatever the lag says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from vbackup.demo.content import Change
from vbackup.demo.corpus import Passage
from vbackup.demo.index_queue import IndexQueue
from vbackup.demo.scenario import Scenario
from vbackup.errors import Failed

PASSAGE = Passage("title", "section", "text")


class RecordingWriter:
    """Writes nothing; knows what it was asked, and can be told to hold or to fail."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.busy: set[int] = set()
        self.overlaps = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._mutex = threading.Lock()

    def write(self, changes: Sequence[Change], rng: Random) -> None:
        keys = {int(change.key) for change in changes}
        with self._mutex:
            self.overlaps += len(keys & self.busy) + len(changes) - len(keys)
            self.busy |= keys
            self.seen += [(int(change.key), change.version) for change in changes]
        self.entered.set()
        self.gate.wait(10)
        if self.error:
            raise self.error
        with self._mutex:
            self.busy -= keys

    def versions(self, key: int) -> list[int]:
        return [version for each, version in self.seen if each == key]


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def writer() -> RecordingWriter:
    return RecordingWriter()


@pytest.fixture
def queue(writer: RecordingWriter, request: pytest.FixtureRequest) -> Iterator[IndexQueue]:
    scenario = Scenario(coalesce=getattr(request, "param", False))
    queue = IndexQueue(writer, scenario, clock=Hands())  # type: ignore[arg-type]
    queue.start()
    yield queue
    writer.gate.set()
    queue.close()


def change(key: int, version: int) -> Change:
    return Change(key, version, "text", PASSAGE)


def test_changes_of_a_key_are_written_in_the_order_they_were_put(
    queue: IndexQueue, writer: RecordingWriter
) -> None:
    rng = Random(5)
    for version in range(300):
        queue.put(change(version % 7, version), rng.random())

    queue.drain(10)

    for key in range(7):
        assert writer.versions(key) == sorted(writer.versions(key))
    assert len(writer.seen) == 300
    assert writer.overlaps == 0


def test_a_later_change_waits_for_an_earlier_one_that_is_late(
    queue: IndexQueue, writer: RecordingWriter
) -> None:
    queue.put(change(1, 1), 1_000.0)
    queue.put(change(1, 2), 0.0)
    queue.put(change(2, 3), 0.0)
    assert writer.entered.wait(10)

    assert writer.versions(1) == []
    assert queue.backlog >= 1
    queue.drain(10)
    assert writer.versions(1) == [1, 2]


@pytest.mark.parametrize("queue", [True], indirect=True)
def test_a_coalescing_indexer_skips_to_the_newest(
    queue: IndexQueue, writer: RecordingWriter
) -> None:
    writer.gate.clear()
    queue.put(change(1, 1), 0.0)
    assert writer.entered.wait(10)
    for version in range(2, 9):
        queue.put(change(1, version), 0.0)
    writer.gate.set()

    queue.drain(10)

    assert writer.versions(1) == [1, 8]


def test_the_lag_that_really_was_is_known(writer: RecordingWriter) -> None:
    clock = Hands()
    queue = IndexQueue(writer, Scenario(), clock=clock)  # type: ignore[arg-type]
    queue.start()
    writer.gate.clear()
    queue.put(change(1, 1), 0.0)
    assert writer.entered.wait(10)
    clock.time = 3.0
    writer.gate.set()

    queue.drain(10)
    queue.close()

    assert queue.worst_lag == 3.0


def test_a_failure_of_a_worker_is_raised_by_drain(
    queue: IndexQueue, writer: RecordingWriter
) -> None:
    writer.error = ValueError("no room")
    queue.put(change(1, 1), 0.0)

    with pytest.raises(Failed, match="no room"):
        queue.drain(10)


def test_drain_says_what_is_left_when_time_is_up(
    queue: IndexQueue, writer: RecordingWriter
) -> None:
    writer.gate.clear()
    queue.put(change(1, 1), 0.0)

    with pytest.raises(Failed, match="1 rows"):
        queue.drain(0.01)
