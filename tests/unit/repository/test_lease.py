"""Leases: at most one holder, on stores with and without conditional writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.faults import Fault, FaultyStore
from vbackup import incarnation
from vbackup.errors import Locked, Unreachable
from vbackup.repository import lease


def put(store: Any, record: lease.LeaseRecord) -> None:
    store.put(record.key, msgspec.json.encode(record))


@pytest.fixture(params=[True, False], ids=["conditional", "unconditional"])
def store(request: pytest.FixtureRequest, kit: Any, clock: Any) -> Any:
    return kit.store(clock, conditional=request.param)


def test_a_second_holder_is_told_who_holds_it(store: Any, clock: Any) -> None:
    held = lease.acquire(store, clock, "writer")
    with pytest.raises(Locked) as raised:
        lease.acquire(store, clock, "writer")
    assert str(os.getpid()) in str(raised.value)
    assert "unlock writer" in raised.value.hint
    assert len(store.names("leases/")) == 1
    held.release()
    assert store.names("leases/") == []
    lease.acquire(store, clock, "writer").release()


def test_names_do_not_exclude_each_other(store: Any, clock: Any) -> None:
    writer = lease.acquire(store, clock, "writer")
    lease.acquire(store, clock, "pruner").release()
    writer.release()


def test_an_expired_claim_is_taken_over_and_its_holder_notices(store: Any, clock: Any) -> None:
    first = lease.acquire(store, clock, "writer", ttl=100)
    clock.advance(101)
    second = lease.acquire(store, clock, "writer", ttl=100)
    with pytest.raises(Locked, match="lost"):
        first.confirm()
    second.confirm()
    first.release()
    second.confirm()
    second.release()


def test_a_heartbeat_keeps_it(store: Any, clock: Any) -> None:
    held = lease.acquire(store, clock, "writer", ttl=100)
    for _ in range(5):
        clock.advance(60)
        held.beat()
    with pytest.raises(Locked):
        lease.acquire(store, clock, "writer", ttl=100)
    held.release()


def test_a_holder_that_could_not_beat_for_too_long_has_lost_it(store: Any, clock: Any) -> None:
    held = lease.acquire(store, clock, "writer", ttl=100)
    clock.advance(101)
    with pytest.raises(Locked, match="101"):
        held.confirm()
    held.release()


def test_the_stores_clock_counts_where_the_holders_is_behind(store: Any, clock: Any) -> None:
    """A holder whose clock is an hour slow is alive as long as his writes arrive."""
    held = lease.acquire(store, clock, "writer", ttl=100)
    put(store, replace(held.record, heartbeat_at=held.record.heartbeat_at.replace(hour=1)))
    with pytest.raises(Locked):
        lease.acquire(store, clock, "writer", ttl=100)
    held.release()


def test_a_removed_claim_is_noticed(store: Any, clock: Any) -> None:
    held = lease.acquire(store, clock, "writer")
    store.delete(store.names("leases/"))
    with pytest.raises(Locked, match="removed"):
        held.confirm()
    held.release()


def test_a_dead_process_of_this_machine_holds_nothing(store: Any, clock: Any) -> None:
    held = lease.acquire(store, clock, "writer")
    held.release()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    started = incarnation.started(child.pid)
    place = held.record.process.rpartition("@")[0]
    put(store, replace(held.record, owner="child", pid=child.pid, process=f"{place}@{started}"))
    with pytest.raises(Locked, match=str(child.pid)):
        lease.acquire(store, clock, "writer")
    child.communicate()
    lease.acquire(store, clock, "writer").release()


def test_the_same_process_number_elsewhere_says_nothing(store: Any, clock: Any) -> None:
    held = lease.acquire(store, clock, "writer")
    held.release()
    put(store, replace(held.record, owner="other", pid=2**22 + 1, process="elsewhere/x/y@5"))
    with pytest.raises(Locked):
        lease.acquire(store, clock, "writer")


def test_a_claim_that_cannot_be_read_blocks_until_it_expires(store: Any, clock: Any) -> None:
    store.put("leases/writer/broken", b"not json")
    with pytest.raises(Locked, match="broken"):
        lease.acquire(store, clock, "writer")
    clock.advance(lease.TTL + 1)
    lease.acquire(store, clock, "writer").release()


def test_of_many_at_once_at_most_one_holds_it(store: Any, clock: Any) -> None:
    barrier = threading.Barrier(8)
    held: list[lease.Lease] = []

    def contend() -> None:
        barrier.wait()
        with suppress(Locked):
            held.append(lease.acquire(store, clock, "writer"))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) <= 1
    for each in held:
        each.release()
    assert store.names("leases/") == []


def test_two_that_see_each_other_both_withdraw_and_try_again(
    store: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival appears between the write and the list, and withdraws while this one waits."""
    rival = lease.acquire(store, clock, "writer")
    monkeypatch.setattr(clock, "sleep", lambda _: rival.release())
    lease.acquire(store, clock, "writer").release()


def test_a_store_that_fails_leaves_no_claim(store: Any, clock: Any) -> None:
    faulty = FaultyStore(store, Fault("scan"))
    with pytest.raises(Unreachable):
        lease.acquire(faulty, clock, "writer")
    assert store.names("leases/") == []


def test_a_release_that_fails_is_left_to_expiry(store: Any, clock: Any) -> None:
    held = lease.acquire(FaultyStore(store, Fault("delete")), clock, "writer")
    held.release()
    clock.advance(lease.TTL + 1)
    lease.acquire(store, clock, "writer").release()


def test_the_heartbeat_thread_beats_and_ends(store: Any, clock: Any) -> None:
    beaten = threading.Event()
    watched = FaultyStore(store, Fault("put", "call", at=2, times=None, action=beaten.set))
    held = lease.acquire(watched, clock, "writer", ttl=0.05)
    assert beaten.wait(20)
    held.release()
    assert not any(thread.name == "vbackup-lease-writer" for thread in threading.enumerate())
