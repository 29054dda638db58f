"""The scripted faults do what their scripts say; other rooms' tests rely on it."""

from __future__ import annotations

import pytest

from tests.faults import Fault, FaultyStore, ManualClock, MemoryStore
from vbackup.errors import Failed, NotFound, Unreachable


def _faulty(*faults: Fault) -> FaultyStore:
    return FaultyStore(MemoryStore(), *faults)


def test_a_fault_strikes_the_named_call_of_the_named_keys() -> None:
    store = _faulty(Fault("put", at=2, key="packs/", error=lambda: Failed("disk")))
    store.put("packs/1", b"x")
    store.put("index/1", b"x")
    with pytest.raises(Failed, match="disk"):
        store.put("packs/2", b"x")
    store.put("packs/3", b"x")
    assert [key for method, key in store.calls if method == "put"] == [
        "packs/1",
        "index/1",
        "packs/2",
        "packs/3",
    ]
    assert store.inner.stat("packs/2") is None


def test_torn_and_silent_writes() -> None:
    store = _faulty(Fault("put", "torn", keep=0.3), Fault("put", "torn", silent=True))
    with pytest.raises(Unreachable):
        store.put("a", b"0123456789")
    assert store.get("a") == b"012"
    store.put("b", b"0123456789")
    assert store.get("b") == b"01234"


def test_wrong_and_missing_bytes() -> None:
    store = _faulty(Fault("get", "flip", offset=3), Fault("get", "short", keep=0.2))
    store.put("a", b"0123456789")
    wrong = store.get("a")
    assert len(wrong) == 10
    assert [at for at in range(10) if wrong[at] != b"0123456789"[at]] == [3]
    assert store.get("a") == b"01"
    assert store.get("a") == b"0123456789"


def test_stale_answers() -> None:
    store = _faulty(Fault("*", "stale", at=3, times=3, hide=1))
    store.put("a", b"x")
    store.put("b", b"x")
    assert [found.key for found in store.scan()] == ["a"]
    assert store.stat("b") is None
    with pytest.raises(NotFound):
        store.get("b")
    assert [found.key for found in store.scan()] == ["a", "b"]


def test_delays_and_calls() -> None:
    clock, called = ManualClock(), []
    store = FaultyStore(
        MemoryStore(),
        Fault("put", "delay", seconds=5),
        Fault("stat", "call", action=lambda: called.append(1)),
        clock=clock,
    )
    store.put("a", b"x")
    assert clock.sleeps == [5]
    assert store.stat("a") is not None
    assert called == [1]
    assert (store.location, store.conditional) == ("memory://", True)
    store.add(Fault("stat"))
    with pytest.raises(Unreachable):
        store.stat("a")
