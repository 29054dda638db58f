"""Retention and prune: what goes, what stays, and that nothing needed ever goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vbackup.config import RetentionConfig
from vbackup.errors import Damaged, Locked, Refused
from vbackup.model.manifest import BackupSummary, CheckRecord
from vbackup.repository import quarantine, reindex
from vbackup.repository.check import verify
from vbackup.repository.packs import pack_key
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository
from vbackup.repository.retention import decide

REOPEN = Any
NOTHING = {"keep_last": 0, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}


def policy(**rules: int) -> RetentionConfig:
    return RetentionConfig(**{**NOTHING, **rules})


def summary(at: datetime, name: str = "", **more: Any) -> BackupSummary:
    values = {"tags": {}, "pinned": False, "encrypted": True, "bytes_logical": 0, "bytes_unique": 0}
    return BackupSummary(id=name or f"{at:%Y%m%dT%H%M}", at=at, **{**values, **more})


def hours(count: int, step: int = 1) -> list[BackupSummary]:
    newest = datetime(2026, 3, 15, 23, 30, tzinfo=UTC)
    return [summary(newest - timedelta(hours=n * step)) for n in range(count)]


def kept(backups: list[BackupSummary], rules: RetentionConfig) -> list[str]:
    return [item.backup.id for item in decide(backups, rules) if item.keep]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"keep_last": 3}, ["20260315T2330", "20260315T2230", "20260315T2130"]),
        ({"keep_daily": 2}, ["20260315T2330", "20260314T2330"]),
        ({"keep_weekly": 2}, ["20260315T2330", "20260308T2330"]),
        ({"keep_monthly": 2}, ["20260315T2330", "20260228T2330"]),
        ({"keep_yearly": 2}, ["20260315T2330", "20251231T2330"]),
        ({"keep_hourly": 2, "keep_daily": 1}, ["20260315T2330", "20260315T2230"]),
    ],
)
def test_the_newest_of_each_period_is_kept(rules: dict[str, int], expected: list[str]) -> None:
    assert kept(hours(24 * 100), policy(**rules)) == expected


def test_no_policy_keeps_everything() -> None:
    assert len(kept(hours(10), policy())) == 10


def test_sets_of_equal_tags_are_kept_apart() -> None:
    at = datetime(2026, 3, 15, tzinfo=UTC)
    backups = [
        summary(at - timedelta(hours=n), f"{env}{n}", tags={"env": env})
        for n in range(3)
        for env in ("prod", "test")
    ]
    assert kept(backups, policy(keep_last=1)) == ["prod0", "test0"]


def test_the_last_good_backup_pins_and_unreadable_ones_stay() -> None:
    at = datetime(2026, 3, 15, tzinfo=UTC)
    failed = CheckRecord("chunks", at, ok=False)
    backups = [
        summary(at, "bad", verified=failed),
        summary(at - timedelta(days=1), "good"),
        summary(at - timedelta(days=2), "old"),
        summary(at - timedelta(days=3), "pinned", pinned=True),
        summary(at - timedelta(days=4), "unreadable", unreadable="checksum"),
    ]
    found = {item.backup.id: item for item in decide(backups, policy(keep_last=1))}
    assert [name for name, item in found.items() if not item.keep] == ["old"]
    assert "last good backup" in found["good"].reasons
    assert found["pinned"].reasons == ("pinned",)
    assert found["unreadable"].reasons == ("unreadable",)
    assert found["old"].reasons == ("no rule keeps it",)


# ---------------------------------------------------------------- prune


def three_backups(repository: Repository, clock: Any, kit: Any) -> None:
    for n in range(3):
        kit.back_up(repository, f"b{n}", common=kit.noise(60_000), own=kit.noise(100_000, 10 + n))
        clock.advance(3600)


def test_a_dry_run_changes_nothing(
    repository: Repository, store: Any, clock: Any, kit: Any
) -> None:
    three_backups(repository, clock, kit)
    before = dict(store.objects)
    report = prune(repository, policy(keep_last=1), PruneOptions(dry_run=True))
    assert report.removed == ["b1", "b0"]
    assert report.packs.deleted > 0
    assert report.packs.bytes_freed > 0
    assert store.objects == before


def test_what_no_backup_needs_goes_and_the_rest_stays_whole(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    three_backups(repository, clock, kit)
    expected = kit.contents(repository, "b2")
    size = sum(stat.size for stat in store.scan("packs/"))
    report = prune(repository, policy(keep_last=1))
    assert report.removed == ["b1", "b0"]
    assert [backup.id for backup in repository.backups()] == ["b2"]
    left = sum(stat.size for stat in store.scan("packs/"))
    assert left < size * 0.55
    assert size - left == report.packs.bytes_freed
    assert kit.contents(reopen(), "b2") == expected
    assert verify(reopen(), "b2", level="chunks").ok
    assert store.names("doomed/") == []
    assert store.names("leases/") == []
    again = prune(reopen(), policy(keep_last=1))
    assert (again.removed, again.packs.deleted, again.packs.repacked) == ([], 0, 0)


def test_check_records_go_with_their_backup(
    repository: Repository, store: Any, clock: Any, kit: Any
) -> None:
    three_backups(repository, clock, kit)
    repository.record("b0", CheckRecord("chunks", clock.now(), ok=True))
    prune(repository, policy(keep_last=1))
    assert all(key.startswith("backups/b2/") for key in store.names("backups/"))


def interrupted(repository: Repository, kit: Any) -> None:
    writer = repository.begin("interrupted")
    writer.add("data", [kit.noise(150_000, 99)])
    writer.abort()


def test_an_interrupted_backup_can_continue_until_the_grace_is_over(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(50_000))
    interrupted(repository, kit)
    clock.advance(3600)
    young = prune(reopen(), policy(keep_last=1))
    assert young.packs.young > 0
    assert young.packs.deleted == 0
    clock.advance(86_400)
    assert prune(reopen(), policy(keep_last=1)).packs.deleted > 0
    assert set(repository.load_catalog().stored) == {
        place.pack
        for artifact in repository.load("b1").artifacts()
        for piece in repository.reader.pieces(artifact)
        for place in repository.reader.places(piece.chunk)
    }


def test_an_interrupted_backup_continues(repository: Repository, reopen: REOPEN, kit: Any) -> None:
    interrupted(repository, kit)
    resumed = kit.back_up(reopen(), "b1", data=kit.noise(150_000, 99))
    assert resumed.statistics.chunks_new == 0


def test_packs_without_any_index_are_found_by_the_next_backup(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    """As a killed backup leaves them."""
    interrupted(repository, kit)
    store.delete(store.names("index/"))
    resumed = kit.back_up(reopen(), "b1", data=kit.noise(150_000, 99))
    assert resumed.statistics.chunks_new == 0
    assert kit.contents(reopen(), "b1") == {"data": kit.noise(150_000, 99)}
    assert store.names("index/")


def test_a_torn_pack_is_not_relied_upon(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    interrupted(repository, kit)
    store.delete(store.names("index/"))
    torn = store.names("packs/")[0]
    store.put(torn, store.get(torn)[:-100])
    kit.back_up(reopen(), "b1", data=kit.noise(150_000, 99))
    assert kit.contents(reopen(), "b1") == {"data": kit.noise(150_000, 99)}
    clock.advance(100_000)
    prune(reopen(), policy(keep_last=1))
    assert torn not in store.names("packs/")


def test_half_empty_packs_are_rewritten(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    data = [kit.noise(10_000, n) for n in range(40)]
    kit.back_up(repository, "b1", data=b"".join(data))
    clock.advance(60)
    kit.back_up(repository, "b2", data=b"".join(data[::4]))
    report = prune(reopen(), policy(keep_last=1))
    assert report.packs.repacked > 0
    assert kit.contents(reopen(), "b2") == {"data": b"".join(data[::4])}
    assert sum(stat.size for stat in store.scan("packs/")) < 250_000
    assert verify(reopen(), "b2", level="chunks").ok


def test_many_small_packs_become_few(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    for n in range(20):
        kit.back_up(repository, f"b{n:02}", data=kit.noise(1500, n))
        clock.advance(60)
    assert len(store.names("packs/")) == 20
    prune(reopen(), policy(keep_last=20))
    assert len(store.names("packs/")) < 4
    for n in range(20):
        assert kit.contents(reopen(), f"b{n:02}") == {"data": kit.noise(1500, n)}


def test_nothing_is_swept_beside_a_running_backup(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    three_backups(repository, clock, kit)
    writer = reopen().begin("running")
    artifact = writer.add("own", [kit.noise(100_000, 10)])  # All of it is b0's.
    packs = store.names("packs/")
    report = prune(repository, policy(keep_last=1))
    assert "running" in report.deferred
    assert report.removed == ["b1", "b0"]
    assert store.names("packs/") == packs
    writer.publish(kit.manifest("running", [artifact], clock.now()))
    assert kit.contents(reopen(), "running") == {"own": kit.noise(100_000, 10)}
    clock.advance(100_000)
    prune(reopen(), policy(keep_last=2))
    assert kit.contents(reopen(), "running") == {"own": kit.noise(100_000, 10)}
    assert verify(reopen(), "running", level="chunks").ok


def test_a_backup_that_came_and_went_during_the_sweep_is_respected(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It began before the announcement, relied on packs about to go, and published."""
    three_backups(repository, clock, kit)
    doom = quarantine.doom
    published = []

    def publish_first(*args: Any) -> Any:
        published.append(kit.back_up(reopen(), "quick", own=kit.noise(100_000, 10)))
        return doom(*args)

    monkeypatch.setattr(quarantine, "doom", publish_first)
    prune(repository, policy(keep_last=1), PruneOptions(grace=0))
    assert published[0].statistics.chunks_new == 0
    assert kit.contents(reopen(), "quick") == {"own": kit.noise(100_000, 10)}
    assert kit.contents(reopen(), "b2")["own"] == kit.noise(100_000, 12)


def test_a_backup_that_began_before_the_announcement_and_still_runs_stops_the_sweep(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_backups(repository, clock, kit)
    doom = quarantine.doom
    running: list[Any] = []

    def begin_first(*args: Any) -> Any:
        running.append(reopen().begin("running"))
        return doom(*args)

    monkeypatch.setattr(quarantine, "doom", begin_first)
    report = prune(repository, policy(keep_last=1), PruneOptions(grace=0))
    assert "running" in report.deferred
    artifact = running[0].add("own", [kit.noise(100_000, 10)])  # All of it was b0's.
    published = running[0].publish(kit.manifest("running", [artifact], clock.now()))
    assert published.statistics.chunks_new == 0
    monkeypatch.undo()
    prune(reopen(), policy(keep_last=2), PruneOptions(grace=0))
    assert kit.contents(reopen(), "running") == {"own": kit.noise(100_000, 10)}
    assert store.names("doomed/") == []


def test_a_backup_that_begins_during_the_sweep_does_not_reuse_what_goes(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_backups(repository, clock, kit)
    rewrite = reindex.rewrite
    published = []

    def back_up_first(*args: Any, **more: Any) -> None:
        published.append(kit.back_up(reopen(), "late", own=kit.noise(100_000, 10)))
        rewrite(*args, **more)

    monkeypatch.setattr(reindex, "rewrite", back_up_first)
    prune(repository, policy(keep_last=1), PruneOptions(grace=0))
    assert published[0].statistics.chunks_new > 0
    assert kit.contents(reopen(), "late") == {"own": kit.noise(100_000, 10)}


def test_an_unreadable_manifest_stops_the_sweep(
    repository: Repository, store: Any, clock: Any, kit: Any
) -> None:
    three_backups(repository, clock, kit)
    store.put("backups/odd/manifest", b"garbage")
    packs = store.names("packs/")
    report = prune(repository, policy(keep_last=1))
    assert "odd" in report.deferred
    assert store.names("packs/") == packs


def test_a_manifest_under_a_name_that_no_backup_has_stops_only_the_sweep(
    repository: Repository, store: Any, clock: Any, kit: Any
) -> None:
    """Somebody copied a folder: backups go by the policy, and packs once it is gone."""
    three_backups(repository, clock, kit)
    odd = "backups/b2 (copy)/manifest"
    store.put(odd, store.get("backups/b2/manifest"))
    packs = store.names("packs/")
    report = prune(repository, policy(keep_last=1))
    assert report.removed == ["b1", "b0"]
    assert "b2 (copy)" in report.deferred
    assert store.names("packs/") == packs
    assert odd in store.names()

    store.delete([odd])
    report = prune(repository, policy(keep_last=1), PruneOptions(grace=0))
    assert not report.deferred
    assert report.packs.deleted > 0


def test_locked_objects_are_reported_and_their_backups_stay_whole(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_backups(repository, clock, kit)
    delete = store.delete

    def locked(keys: Any) -> None:
        names = list(keys)
        if "backups/b0/manifest" in names:
            raise Refused("object lock until 2027")
        delete(names)

    monkeypatch.setattr(store, "delete", locked)
    report = prune(repository, policy(keep_last=1))
    assert report.removed == ["b1"]
    assert report.refused == {"backups/b0/manifest": "object lock until 2027"}
    assert kit.contents(reopen(), "b0")["own"] == kit.noise(100_000, 10)


def test_locked_packs_are_kept_in_the_index(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_backups(repository, clock, kit)
    delete = store.delete

    def locked(keys: Any) -> None:
        names = list(keys)
        if any(name.startswith("packs/") for name in names):
            raise Refused("object lock until 2027")
        delete(names)

    monkeypatch.setattr(store, "delete", locked)
    report = prune(repository, policy(keep_last=1))
    assert report.refused
    assert all(key.startswith("packs/") for key in report.refused)
    assert not reopen().load_catalog().strays


def test_a_damaged_pack_goes_once_it_is_healed(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(150_000))
    key = store.names("packs/")[0]
    data = bytearray(store.get(key))
    data[1000] ^= 1
    store.put(key, data)
    assert not verify(reopen(), "b1", level="chunks").ok
    prune(reopen(), policy(keep_last=5))
    assert key in store.names("packs/")  # Its good chunks exist nowhere else.
    clock.advance(60)
    kit.back_up(reopen(), "b2", data=kit.noise(150_000))
    prune(reopen(), policy(keep_last=5))
    assert key not in store.names("packs/")
    assert store.names("damaged/") == []
    for name in ("b1", "b2"):
        assert kit.contents(reopen(), name) == {"data": kit.noise(150_000)}


def test_a_prune_that_lost_its_lease_deletes_no_packs(
    repository: Repository,
    store: Any,
    clock: Any,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_backups(repository, clock, kit)
    doom = quarantine.doom

    def fall_asleep(*args: Any) -> Any:
        clock.advance(10_000)
        return doom(*args)

    monkeypatch.setattr(quarantine, "doom", fall_asleep)
    packs = store.names("packs/")
    with pytest.raises(Locked, match="lost"):
        prune(repository, policy(keep_last=1))
    assert set(store.names("packs/")) >= set(packs)


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_a_list_that_lags_costs_no_backup_its_packs_or_its_pin(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
    which: int,
) -> None:
    """One of the lists of backups does not show the newest one yet."""
    three_backups(repository, clock, kit)
    repository.pin("b2")
    scan, seen = store.scan, []

    def lagging(prefix: str = "") -> Any:
        seen.append(prefix)
        hidden = seen.count("backups/") == which and prefix == "backups/"
        return (s for s in scan(prefix) if not (hidden and s.key == "backups/b2/manifest"))

    monkeypatch.setattr(store, "scan", lagging)
    prune(repository, policy(keep_last=1), PruneOptions(grace=0))
    assert seen.count("backups/") >= 4
    monkeypatch.undo()
    assert [summary.pinned for summary in reopen().backups() if summary.id == "b2"] == [True]
    assert kit.contents(reopen(), "b2")["own"] == kit.noise(100_000, 12)


def test_one_prune_at_a_time(repository: Repository, reopen: REOPEN) -> None:
    with repository.lease("pruner"), pytest.raises(Locked):
        prune(reopen(), policy(keep_last=1))


def test_a_broken_announcement_stops_writers_until_the_next_prune(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(50_000))
    store.put("doomed/0123", b"garbage")
    with pytest.raises(Damaged, match="doomed"):
        reopen().begin("b2")
    assert store.names("leases/") == []
    prune(reopen(), policy(keep_last=1))
    kit.back_up(reopen(), "b2", data=kit.noise(50_000))


def test_a_backup_that_lost_packs_is_not_taken_for_the_last_good_one(
    repository: Repository, store: Any, clock: Any, reopen: REOPEN, kit: Any
) -> None:
    """Nothing goes in its favour, though no verification has looked at it yet."""
    three_backups(repository, clock, kit)
    needed = {
        place.pack
        for piece in repository.reader.pieces(repository.load("b2").artifacts()[1])
        for place in repository.reader.places(piece.chunk)
    }
    others = {
        place.pack
        for name in ("b0", "b1")
        for artifact in repository.load(name).artifacts()
        for piece in repository.reader.pieces(artifact)
        for place in repository.reader.places(piece.chunk)
    }
    store.delete([pack_key(pack) for pack in needed - others])
    report = prune(reopen(), policy(keep_last=1))
    assert report.removed == ["b0"]
    assert kit.contents(reopen(), "b1")["own"] == kit.noise(100_000, 11)


def test_a_manifest_published_just_before_the_lease_was_lost_stays_if_it_is_whole(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prune may have seen it, and removed all others in its favour."""
    three_backups(repository, clock, kit)
    put = store.put

    def published_then_asleep(key: str, data: Any, **more: Any) -> None:
        put(key, data, **more)
        if key == "backups/late/manifest":
            monkeypatch.undo()
            clock.advance(10_000)
            assert prune(reopen(), policy(keep_last=1)).removed == ["b2", "b1", "b0"]

    monkeypatch.setattr(store, "put", published_then_asleep)
    kit.back_up(repository, "late", own=kit.noise(100_000, 10))
    assert kit.contents(reopen(), "late") == {"own": kit.noise(100_000, 10)}


def test_a_manifest_published_after_its_packs_were_pruned_goes_again(
    repository: Repository,
    store: Any,
    clock: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    three_backups(repository, clock, kit)
    put = store.put

    def asleep_then_published(key: str, data: Any, **more: Any) -> None:
        if key == "backups/late/manifest":
            monkeypatch.undo()
            clock.advance(10_000)
            assert prune(reopen(), policy(keep_last=1)).removed == ["b1", "b0"]
        put(key, data, **more)

    monkeypatch.setattr(store, "put", asleep_then_published)
    with pytest.raises(Locked, match="lost"):
        kit.back_up(repository, "late", own=kit.noise(100_000, 10))
    assert [summary.id for summary in reopen().backups()] == ["b2"]
