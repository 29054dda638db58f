"""Readers and prunes: what somebody reads stays, on stores with and without conditional writes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from vbackup.config import RetentionConfig
from vbackup.errors import Denied, Failed, Locked, NotFound
from vbackup.repository import lease, quarantine
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, PruneReport, prune
from vbackup.repository.repository import Repository

ONE = RetentionConfig(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0)
DAY = 86_400.0


@dataclass
class Skewed:
    """A machine whose clock is wrong by so many seconds."""

    true: Any
    seconds: float

    def now(self) -> datetime:
        found: datetime = self.true.now() + timedelta(seconds=self.seconds)
        return found

    def monotonic(self) -> float:
        return float(self.true.monotonic())

    def sleep(self, seconds: float) -> None:
        self.true.sleep(seconds)


@pytest.fixture(params=[True, False], ids=["conditional", "unconditional"])
def store(request: pytest.FixtureRequest, kit: Any, clock: Any) -> Any:
    return kit.store(clock, conditional=request.param)


@pytest.fixture
def passphrase() -> None:
    return None


@pytest.fixture
def three(repository: Repository, clock: Any, kit: Any) -> Repository:
    for n in range(3):
        kit.back_up(repository, f"b{n}", common=kit.noise(60_000), own=own(kit, n))
        clock.advance(60)
    return repository


def own(kit: Any, n: int) -> bytes:
    data: bytes = kit.noise(100_000, 10 + n)
    return data


def pruned(repository: Repository, **more: Any) -> PruneReport:
    return prune(repository, ONE, PruneOptions(**{"grace": 0.0, "repack_below": 0.9, **more}))


def test_a_backup_that_is_read_stays_and_its_reader_is_named(
    three: Repository, reopen: Any, kit: Any
) -> None:
    reader = reopen()
    with reader.reading("b0") as problem:
        report = pruned(three)
        assert problem == ""
        assert report.removed == ["b1"]
        (stays,) = [item for item in report.decisions if item.backup.id == "b0"]
        assert stays.keep
        assert stays.reasons[0].startswith("being read by pid ")
        assert kit.contents(reader, "b0")["own"] == own(kit, 0)
        assert verify(reopen(), "b0", level="chunks").ok
    assert pruned(three).removed == ["b0"]
    with pytest.raises(NotFound):
        reopen().load("b0")


def two_backups(repository: Repository, clock: Any, kit: Any) -> bytes:
    """The second needs a quarter of what the first one stored; its content."""
    data = [kit.noise(10_000, n) for n in range(40)]
    kit.back_up(repository, "b1", data=b"".join(data))
    clock.advance(60)
    quarter = b"".join(data[::4])
    kit.back_up(repository, "b2", data=quarter)
    return quarter


def test_its_packs_are_not_rewritten_under_the_reader(
    repository: Repository, store: Any, clock: Any, reopen: Any, kit: Any
) -> None:
    two_backups(repository, clock, kit)
    reader = reopen()
    with reader.reading("b2"):
        before = set(store.names("packs/"))
        reading = kit.contents(reader, "b2")
        assert pruned(repository).packs.repacked == 0
        assert kit.contents(reader, "b2") == reading
    assert pruned(repository).packs.repacked > 0
    assert not before <= set(store.names("packs/"))


def test_a_reader_without_a_lease_finds_what_was_rewritten(
    repository: Repository, store: Any, clock: Any, reopen: Any, kit: Any
) -> None:
    """Its index names packs that are gone; the chunks are in others now."""
    stored = two_backups(repository, clock, kit)
    reader = reopen()
    artifact = reader.load("b2").artifacts()[0]
    blocks = reader.read(artifact)
    begun = next(blocks)
    assert pruned(repository).packs.repacked > 0
    assert begun + b"".join(blocks) == stored


def test_a_reader_who_came_after_the_decision_keeps_his_packs(
    three: Repository, store: Any, reopen: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest goes, but what he has begun he can read to its end."""
    reader = reopen()
    doom, held = quarantine.doom, []

    def read_first(*args: Any) -> str:
        held.append(reader.reading("b0"))
        store.objects |= kept
        held[0].__enter__()
        store.delete(["backups/b0/manifest"])
        return doom(*args)

    monkeypatch.setattr(quarantine, "doom", read_first)
    kept = {"backups/b0/manifest": store.objects["backups/b0/manifest"]}
    report = pruned(three)
    assert sorted(report.removed) == ["b0", "b1"]
    assert report.packs.deleted > 0
    assert kit.contents(reader, "b0")["own"] == own(kit, 0)
    held[0].__exit__(None, None, None)
    monkeypatch.undo()
    with pytest.raises(NotFound):
        reader.load("b0")
    assert pruned(three).packs.deleted > 0


def test_there_is_nothing_to_read(repository: Repository, store: Any) -> None:
    with pytest.raises(NotFound), repository.reading("b9"):
        pass
    assert store.names("leases/") == []


def test_many_read_at_once_and_the_last_one_counts(three: Repository, reopen: Any) -> None:
    first, second = reopen(), reopen()
    with first.reading("b0"):
        with second.reading("b0"), second.reading("b1"):
            assert pruned(three).removed == []
        assert pruned(three).removed == ["b1"]
    assert pruned(three).removed == ["b0"]


def dead_reader(store: Any, clock: Any, backup: str) -> None:
    """As a machine leaves it that lost its power."""
    held = lease.share(store, clock, "reader", backup=backup)
    claim = store.objects[held.record.key]
    held.release()
    store.objects[held.record.key] = (
        claim[0].replace(b'"process":"', b'"process":"elsewhere'),
        (clock.now()),
    )


def test_a_reader_that_died_is_waited_for_until_his_lease_expires(
    three: Repository, store: Any, clock: Any
) -> None:
    dead_reader(store, clock, "b0")
    clock.advance(lease.TTL - 1)
    assert pruned(three).removed == ["b1"]
    clock.advance(2)
    assert pruned(three).removed == ["b0"]
    assert store.names("leases/") == []


def test_a_late_heartbeat_still_renews_a_reader(store: Any, clock: Any) -> None:
    """He excludes nobody: there is no reason to give up after an outage."""
    held = lease.share(store, clock, "reader", backup="b0", ttl=100)
    clock.advance(1000)
    held.beat()
    clock.advance(60)
    (claim,) = lease.claims(store, clock.now(), "reader")
    assert not claim.stale
    held.release()


def test_a_claim_that_does_not_say_what_is_read_keeps_every_pack(
    three: Repository, store: Any, clock: Any
) -> None:
    store.put("leases/reader/odd", b"not json")
    packs = store.names("packs/")
    report = pruned(three)
    assert "leases/reader/odd" in report.deferred
    assert store.names("packs/") == packs
    clock.advance(lease.TTL + 1)
    assert pruned(three).packs.deleted > 0


@pytest.mark.parametrize("backup", ["../x", "b0 (copy)", "b0/manifest", "x" * 65, "b0\n"])
def test_a_claim_on_what_can_be_no_backup_is_not_believed(
    three: Repository, store: Any, clock: Any, backup: str
) -> None:
    """Its holder may have asked for a day: it counts as long as one that cannot be read."""
    now = clock.now()
    odd = lease.LeaseRecord("reader", "odd", "host", 1, "", now, now, 86_400.0, backup)
    store.put(odd.key, msgspec.json.encode(odd))
    packs = store.names("packs/")
    report = pruned(three)
    assert odd.key in report.deferred
    assert store.names("packs/") == packs
    clock.advance(lease.TTL + 1)
    assert pruned(three).packs.deleted > 0
    assert odd.key not in store.names()


# ---------------------------------------------------------------- readers who cannot write


@pytest.fixture
def read_only(reopen: Any, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository opened with a key that can only read."""
    found: Repository = reopen()
    inner = found.store

    class ReadOnly:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def put(self, key: str, *_: Any, **__: Any) -> None:
            raise Denied(f"cannot write {key}: AccessDenied")

        def delete(self, keys: Any) -> None:
            raise Denied("cannot delete: AccessDenied")

    return Repository.open(ReadOnly(), passphrase=None, options=found.options, clock=found.clock)


def test_a_reader_who_cannot_write_goes_on_and_says_why(
    three: Repository, read_only: Repository, kit: Any
) -> None:
    with read_only.reading("b0") as problem:
        assert "AccessDenied" in problem
        assert kit.contents(read_only, "b0")["own"] == own(kit, 0)


def test_a_full_disk_is_no_reason_not_to_restore(
    three: Repository, store: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise Failed("no space left on device")

    monkeypatch.setattr(store, "put", full)
    with three.reading("b0") as problem:
        assert "no space" in problem
        assert kit.contents(three, "b0")["own"] == own(kit, 0)


def test_his_packs_wait_for_him(
    three: Repository, read_only: Repository, clock: Any, kit: Any
) -> None:
    with read_only.reading("b0"):
        report = pruned(three, delete_after=DAY)
        assert sorted(report.removed) == ["b0", "b1"]
        assert (report.packs.deleted, report.packs.waiting > 0) == (0, True)
        assert report.packs.bytes_waiting > 0
        clock.advance(DAY - 1)
        assert pruned(three, delete_after=DAY).packs.deleted == 0
        assert kit.contents(read_only, "b0")["own"] == own(kit, 0)
    clock.advance(2)
    last = pruned(three, delete_after=DAY)
    assert (last.packs.deleted > 0, last.packs.waiting) == (True, 0)
    assert kit.contents(three, "b2")["own"] == own(kit, 2)


def test_nothing_is_left_of_the_wait(three: Repository, store: Any, clock: Any) -> None:
    pruned(three, delete_after=DAY)
    assert store.names("unused/") == ["unused/packs"]
    clock.advance(DAY + 1)
    pruned(three, delete_after=DAY)
    assert store.names("unused/") == []


def test_prune_need_not_wait(three: Repository) -> None:
    assert pruned(three, delete_after=DAY).packs.deleted == 0
    now = pruned(three).packs
    assert (now.deleted > 0, now.waiting) == (True, 0)


def test_a_pack_of_which_nothing_was_freed_is_not_made_to_wait(
    repository: Repository, clock: Any, kit: Any
) -> None:
    """Else daily prunes, each of a backup that shares most packs, would never repack anything."""
    data = [kit.noise(10_000, n) for n in range(40)]
    kit.back_up(repository, "b0", data=b"".join(data))
    for n in (1, 2, 3):
        clock.advance(DAY + 1)
        kit.back_up(repository, f"b{n}", data=b"".join(data[::4]))
        report = pruned(repository, delete_after=DAY)
    assert report.removed == ["b2"]
    assert report.packs.waiting == 0
    assert len(repository.load_catalog().stored) < 8


def test_a_pack_in_use_again_stays_and_later_waits_anew(
    three: Repository, store: Any, clock: Any, reopen: Any, kit: Any
) -> None:
    pruned(three, delete_after=DAY)
    clock.advance(DAY / 2)
    again = kit.back_up(reopen(), "again", own=own(kit, 0))
    assert again.statistics.chunks_new == 0
    clock.advance(DAY)
    pruned(reopen(), delete_after=DAY)
    assert kit.contents(reopen(), "again")["own"] == own(kit, 0)
    clock.advance(60)
    kit.back_up(reopen(), "last", own=own(kit, 5))
    report = pruned(reopen(), delete_after=DAY)
    assert "again" in report.removed
    assert report.packs.waiting > 0


def test_a_removal_begins_the_wait_even_where_an_old_record_says_otherwise(
    three: Repository, store: Any, clock: Any, kit: Any
) -> None:
    """As a deferred prune leaves it: noted long ago, used again since, and removed now."""
    packs = {bytes.fromhex(name.rpartition("/")[2]): clock.now() for name in store.names("packs/")}
    quarantine.note_unused(store, three.seal, packs)
    clock.advance(2 * DAY)
    report = pruned(three, delete_after=DAY)
    assert (report.packs.deleted, report.packs.waiting > 0) == (0, True)


@pytest.mark.parametrize("content", [b"", b"garbage", b"VBAK" + bytes(200)])
def test_a_record_that_cannot_be_read_begins_the_wait_anew(
    three: Repository, store: Any, clock: Any, content: bytes
) -> None:
    pruned(three, delete_after=DAY)
    store.put("unused/packs", content)
    clock.advance(DAY + 1)
    report = pruned(three, delete_after=DAY)
    assert (report.packs.deleted, report.packs.waiting > 0) == (0, True)
    clock.advance(DAY + 1)
    assert pruned(three, delete_after=DAY).packs.deleted > 0


# ---------------------------------------------------------------- clocks that disagree

HOURS = [-5 * 3600.0, -120.0, 120.0, 5 * 3600.0]


@pytest.mark.parametrize("skew", HOURS)
def test_a_pruner_with_a_wrong_clock_respects_readers_and_writers(
    three: Repository, store: Any, clock: Any, kit: Any, skew: float
) -> None:
    wrong = Repository.open(store, passphrase=None, options=kit.small, clock=Skewed(clock, skew))
    with three.reading("b0"):
        assert pruned(wrong).removed == ["b1"]
    writer = three.begin("b3")
    artifact = writer.add("own", [own(kit, 1)])
    assert "running" in pruned(wrong).deferred
    writer.publish(kit.manifest("b3", [artifact], clock.now()))
    assert kit.contents(wrong, "b3") == {"own": own(kit, 1)}


@pytest.mark.parametrize("skew", HOURS)
def test_a_holder_with_a_wrong_clock_is_respected_and_taken_over_when_he_is_gone(
    store: Any, clock: Any, skew: float
) -> None:
    held = lease.acquire(store, Skewed(clock, skew), "writer", ttl=100)
    record = store.objects[held.record.key]
    clock.advance(99)
    with pytest.raises(Locked):
        lease.acquire(store, clock, "writer")
    held.release()
    elsewhere = record[0].replace(b'"process":"', b'"process":"elsewhere')
    store.objects[held.record.key] = elsewhere, clock.now()
    clock.advance(101)
    lease.acquire(store, clock, "writer").release()


def test_a_clock_that_is_set_while_a_lease_is_held_costs_nothing(store: Any, clock: Any) -> None:
    machine = Skewed(clock, 0)
    held = lease.acquire(store, machine, "writer", ttl=100)
    for skew in HOURS:
        machine.seconds = skew
        held.confirm()
    held.release()


def test_a_reader_beside_many_prunes_reads_to_the_end(
    three: Repository, store: Any, clock: Any, reopen: Any, kit: Any
) -> None:
    """A restore of hours, prunes and backups all the while."""
    reader = reopen()
    with reader.reading("b0"):
        blocks = {a.name: reader.read(a) for a in reader.load("b0").artifacts()}
        begun = {name: next(stream) for name, stream in blocks.items()}
        for n in range(3, 8):
            clock.advance(200)
            reader.holders()
            for held in lease.claims(store, clock.now(), "reader"):
                store.put(held.key, store.get(held.key))  # Its heartbeat.
            kit.back_up(reopen(), f"b{n}", common=kit.noise(60_000), own=own(kit, n))
            pruned(reopen())
        whole = {name: begun[name] + b"".join(blocks[name]) for name in blocks}
    assert whole == {"common": kit.noise(60_000), "own": own(kit, 0)}
    with suppress(NotFound):
        assert pruned(reopen()).removed == ["b0"]
