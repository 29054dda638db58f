"""The retry policy: what is tried again, how often, how long, and what is never repeated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import Fault, FaultyStore, ManualClock, MemoryStore
from vbackup.errors import AlreadyExists, Denied, Failed, NotFound, Unreachable
from vbackup.ports import ObjectStore
from vbackup.storage.retrying import Retry, RetryingStore, RetryPolicy


def _retrying(
    *faults: Fault,
    policy: RetryPolicy | None = None,
    chance: float = 1.0,
    on_retry: Callable[[Retry], None] | None = None,
) -> tuple[RetryingStore, FaultyStore, ManualClock]:
    clock = ManualClock()
    faulty = FaultyStore(MemoryStore(), *faults, clock=clock)
    store = RetryingStore(faulty, clock, policy, on_retry=on_retry, chance=lambda: chance)
    return store, faulty, clock


def test_waits_double_up_to_the_cap() -> None:
    policy = RetryPolicy(retries=7, base=0.5, cap=8.0, budget=1000.0)
    store, faulty, clock = _retrying(Fault("get", times=None), policy=policy)
    with pytest.raises(Unreachable):
        store.get("a")
    assert clock.sleeps == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert faulty.count("get") == 8


def test_jitter_takes_up_to_half_of_a_wait() -> None:
    store, _, clock = _retrying(Fault("get", times=None), chance=0.0)
    with pytest.raises(Unreachable):
        store.get("a")
    assert clock.sleeps == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]


def test_the_budget_ends_waiting_early() -> None:
    policy = RetryPolicy(retries=50, base=10.0, cap=10.0, budget=35.0)
    store, _, clock = _retrying(Fault("get", times=None), policy=policy)
    with pytest.raises(Unreachable):
        store.get("a")
    assert sum(clock.sleeps) == 30.0


def test_slow_failures_use_up_the_budget_too() -> None:
    clock = ManualClock()

    class Slow(MemoryStore):
        def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            clock.advance(100.0)
            raise Unreachable("slow")

    store = RetryingStore(Slow(), clock, RetryPolicy(retries=50, budget=250.0))
    with pytest.raises(Unreachable):
        store.get("a")
    assert len(clock.sleeps) == 3


@pytest.mark.parametrize("error", [Denied("no"), Failed("no"), NotFound("no")])
def test_what_a_retry_cannot_help_is_raised_at_once(error: Exception) -> None:
    store, faulty, clock = _retrying(Fault("put", error=lambda: error, times=None))
    with pytest.raises(type(error)):
        store.put("a", b"x")
    assert faulty.count("put") == 1
    assert clock.sleeps == []


def test_no_retries_means_none() -> None:
    store, faulty, _ = _retrying(Fault("get"), policy=RetryPolicy(retries=0))
    with pytest.raises(Unreachable):
        store.get("a")
    assert faulty.count("get") == 1


def test_each_wait_is_reported() -> None:
    seen: list[Retry] = []
    store, _, _ = _retrying(Fault("put", times=2), on_retry=seen.append)
    store.put("packs/a", b"x")
    assert [(retry.method, retry.key, retry.failures, retry.delay) for retry in seen] == [
        ("put", "packs/a", 1, 0.5),
        ("put", "packs/a", 2, 1.0),
    ]
    assert all(isinstance(retry.error, Unreachable) for retry in seen)


@pytest.mark.parametrize("method", ["put", "get", "stat", "delete"])
@pytest.mark.parametrize("kind", ["error", "lost_reply"])
def test_every_method_gets_over_a_fault(method: str, kind: str) -> None:
    fault = Fault(method, kind)  # type: ignore[arg-type]  # from the parameters above
    store, faulty, _ = _retrying(fault)
    faulty.inner.put("a", b"12345")
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put("a", b"12345"),
        "get": lambda: store.get("a", 1, 2),
        "stat": lambda: store.stat("a"),
        "delete": lambda: store.delete(["a"]),
    }
    calls[method]()
    assert fault.struck == 1
    assert (faulty.inner.stat("a") is None) is (method == "delete")


def test_a_lost_reply_of_a_create_is_a_success() -> None:
    store, faulty, _ = _retrying(Fault("put", "lost_reply"))
    store.put("a", memoryview(b"mine"), if_absent=True)
    assert faulty.inner.get("a") == b"mine"


def test_a_lost_reply_is_recognised_over_a_failing_look() -> None:
    store, _, _ = _retrying(Fault("put", "lost_reply"), Fault("get", times=2))
    store.put("a", b"mine", if_absent=True)


def test_another_writers_object_is_not_taken_for_ours() -> None:
    store, faulty, _ = _retrying(Fault("put"))
    faulty.inner.put("a", b"theirs")
    with pytest.raises(AlreadyExists):
        store.put("a", b"mine", if_absent=True)


def test_a_first_refusal_is_final_even_with_equal_bytes() -> None:
    """Two runs that create the same lease must not both believe that they hold it."""
    store, faulty, _ = _retrying()
    faulty.inner.put("a", b"same")
    with pytest.raises(AlreadyExists):
        store.put("a", b"same", if_absent=True)


def test_a_list_continues_where_it_failed() -> None:
    store, faulty, _ = _retrying(Fault("scan", "lost_reply", times=2))
    keys = [f"k{number}" for number in range(9)]
    for key in keys:
        faulty.inner.put(key, b"x")
    assert [found.key for found in store.scan("k")] == keys


def test_a_list_that_makes_progress_has_its_retries_anew() -> None:
    policy = RetryPolicy(retries=1)
    pages = [[], ["a"], ["a", "b"], ["a", "b", "c"]]

    class Flaky(MemoryStore):
        def scan(self, prefix: str = ""):  # type: ignore[no-untyped-def]  # a generator
            for key in pages.pop(0):
                yield self.stat(key)
            if pages:
                raise Unreachable("page failed")

    inner = Flaky()
    for key in "abc":
        inner.put(key, b"x")
    store = RetryingStore(inner, ManualClock(), policy)
    assert [found.key for found in store.scan()] == ["a", "b", "c"]


def test_a_list_gives_up_without_progress() -> None:
    store, faulty, _ = _retrying(
        Fault("scan", "lost_reply", times=None), policy=RetryPolicy(retries=2)
    )
    for key in "abcd":
        faulty.inner.put(key, b"x")
    seen: list[str] = []
    with pytest.raises(Unreachable):
        seen += [found.key for found in store.scan()]
    assert faulty.count("scan") == 3


def test_deletes_take_any_iterable_in_batches() -> None:
    store, faulty, _ = _retrying(Fault("delete", "torn"))
    keys = [f"{number:05d}" for number in range(2500)]
    for key in keys:
        faulty.inner.put(key, b"x")
    store.delete(iter(keys))
    assert list(faulty.inner.scan()) == []
    assert faulty.count("delete") == 4


def test_conditional_and_location_pass_through() -> None:
    clock = ManualClock()
    store: ObjectStore = RetryingStore(MemoryStore(conditional=False), clock)
    assert store.conditional is False
    assert store.location == "memory://"
