"""Object Lock on a server that has it: retention is set, respected and reported."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from tests.contract.servers import BUCKET, Endpoint, new_user
from tests.contract.test_policies import for_moto, policy
from tests.faults import ManualClock
from tests.unit.repository.conftest import Kit
from vbackup.clock import SystemClock
from vbackup.config import RetentionConfig
from vbackup.errors import NotFound, Usage
from vbackup.ports import ObjectStore
from vbackup.repository.packs import pack_key
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository
from vbackup.storage.open import open_store
from vbackup.storage.retrying import RetryingStore

LOCKED_BUCKET = "vbackup-locked"
DAY = 86400.0
MONTH = 30 * DAY
SECOND = timedelta(seconds=1)
ONE = RetentionConfig(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0)


@pytest.fixture(scope="module")
def locked(moto_auth: Endpoint) -> Endpoint:
    moto_auth.call("s3", "create_bucket", Bucket=LOCKED_BUCKET, ObjectLockEnabledForBucket=True)
    return Endpoint(
        moto_auth.url,
        moto_auth.access_key_id,
        moto_auth.secret_access_key,
        bucket=LOCKED_BUCKET,
    )


def _head(locked: Endpoint, key: str) -> dict[str, Any]:
    return locked.call("s3", "head_object", Bucket=LOCKED_BUCKET, Key=key)


def test_objects_are_retained_and_leases_are_not(locked: Endpoint, fresh_prefix: str) -> None:
    clock = ManualClock(start=SystemClock().now())
    config = locked.config(fresh_prefix, object_lock=MONTH, object_lock_mode="compliance")
    store = open_store(config, clock)
    store.put("packs/a", b"12345")
    store.put("backups/b/manifest", b"m", if_absent=True)
    store.put("leases/writer/x", b"x")
    head = _head(locked, f"{fresh_prefix}/packs/a")
    until: datetime = head["ObjectLockRetainUntilDate"]
    assert head["ObjectLockMode"] == "COMPLIANCE"
    assert abs((until - clock.now()).total_seconds() - MONTH) < 2
    assert "ObjectLockMode" not in _head(locked, f"{fresh_prefix}/leases/writer/x")
    assert store.get("packs/a") == b"12345"


def _until(locked: Endpoint, key: str) -> datetime:
    found: datetime = _head(locked, key)["ObjectLockRetainUntilDate"]
    return found


def test_retention_is_prolonged_and_never_shortened(locked: Endpoint, fresh_prefix: str) -> None:
    clock = ManualClock(start=SystemClock().now())
    store = _lockable(open_store(locked.config(fresh_prefix, object_lock=MONTH), clock))
    store.put("packs/a", b"12345")
    key = f"{fresh_prefix}/packs/a"
    first = _until(locked, key)
    store.prolong("packs/a")
    assert _until(locked, key) == first
    clock.advance(5 * DAY)
    store.prolong("packs/a")
    second = _until(locked, key)
    assert second >= first + timedelta(days=5)
    assert second == store.locked_until("packs/a")
    brief = _lockable(open_store(locked.config(fresh_prefix, object_lock=DAY), clock))
    brief.prolong("packs/a")
    assert _until(locked, key) == second


def test_what_is_not_locked_says_so(locked: Endpoint, fresh_prefix: str) -> None:
    plain = _lockable(open_store(locked.config(fresh_prefix), SystemClock()))
    plain.put("packs/a", b"12345")
    store = _lockable(open_store(locked.config(fresh_prefix, object_lock=MONTH), SystemClock()))
    assert (plain.locks, store.locks) == (False, True)
    assert store.locked_until("packs/a") is None
    assert store.locked_until("packs/none") is None
    with pytest.raises(NotFound):
        store.prolong("packs/none")
    store.prolong("packs/a")  # Written before Object Lock was configured.
    assert store.locked_until("packs/a") is not None
    assert plain.locked_until("packs/a") is None


def _lockable(store: ObjectStore) -> RetryingStore:
    assert isinstance(store, RetryingStore)
    return store


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_the_server_keeps_what_is_locked(locked: Endpoint, fresh_prefix: str, mode: str) -> None:
    """Else none of this protects anything."""
    config = locked.config(fresh_prefix, object_lock=MONTH, object_lock_mode=mode)
    store = open_store(config, SystemClock())
    store.put("packs/a", b"12345")
    key = f"{fresh_prefix}/packs/a"
    version = _head(locked, key)["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        locked.call("s3", "delete_object", Bucket=LOCKED_BUCKET, Key=key, VersionId=version)
    store.delete(["packs/a"])
    kept = locked.call("s3", "get_object", Bucket=LOCKED_BUCKET, Key=key, VersionId=version)
    assert cast("Any", kept["Body"]).read() == b"12345"


# ---------------------------------------------------------------- a repository


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setattr("vbackup.repository.keys._SCRYPT_N", 2**4)
    return Kit()


def test_what_a_later_backup_uses_again_is_locked_as_long_as_that_backup(
    locked: Endpoint, fresh_prefix: str, kit: Kit
) -> None:
    clock = ManualClock(start=SystemClock().now())
    store = open_store(locked.config(fresh_prefix, object_lock=MONTH), clock)
    repository = Repository.create(store, passphrase="p", options=kit.small, clock=clock)
    kit.back_up(repository, "b1", common=kit.noise(50_000))
    clock.advance(25 * DAY)
    second = kit.back_up(repository, "b2", common=kit.noise(50_000), own=kit.noise(20_000, 2))
    assert second.statistics.chunks_reused > 0
    (newest, _) = repository.backups()
    assert newest.id == "b2"
    assert newest.locked_until is not None
    reader = repository.reader
    needed = {
        pack_key(place.pack)
        for artifact in second.artifacts()
        for piece in reader.pieces(artifact)
        for place in reader.places(piece.chunk)
    }
    for key in {"vbackup.json", *needed}:
        assert _until(locked, f"{fresh_prefix}/{key}") >= newest.locked_until - SECOND, key


def test_prune_says_what_stays_locked_until_when(
    locked: Endpoint, fresh_prefix: str, kit: Kit
) -> None:
    clock = ManualClock(start=SystemClock().now())
    store = open_store(locked.config(fresh_prefix, object_lock=MONTH), clock)
    repository = Repository.create(store, passphrase="p", options=kit.small, clock=clock)
    kit.back_up(repository, "b1", own=kit.noise(50_000, 1))
    first = clock.now()
    clock.advance(DAY)
    kit.back_up(repository, "b2", own=kit.noise(50_000, 2))
    report = prune(repository, ONE, PruneOptions(grace=0.0))
    assert report.removed == ["b1"]
    assert report.packs.deleted > 0
    assert report.packs.bytes_locked >= 50_000
    assert report.packs.locked_until is not None
    assert abs(report.packs.locked_until - first - timedelta(seconds=MONTH)) < SECOND * 60
    assert kit.contents(repository, "b2") == {"own": kit.noise(50_000, 2)}
    assert [found.key for found in store.scan("leases/")] == []


def test_a_delete_leaves_the_locked_version_behind(locked: Endpoint, fresh_prefix: str) -> None:
    store = open_store(locked.config(fresh_prefix, object_lock=MONTH), SystemClock())
    store.put("packs/a", b"12345")
    store.delete(["packs/a"])
    assert store.stat("packs/a") is None
    answer: dict[str, Any] = locked.call(
        "s3", "list_object_versions", Bucket=LOCKED_BUCKET, Prefix=fresh_prefix
    )
    (version,) = answer["Versions"]
    assert version["Size"] == 5
    store.put("packs/a", b"12345")
    assert store.get("packs/a") == b"12345"


def test_a_bucket_without_object_lock_says_so(moto_auth: Endpoint, fresh_prefix: str) -> None:
    store = open_store(moto_auth.config(fresh_prefix, object_lock=MONTH), SystemClock())
    with pytest.raises(Usage) as caught:
        store.put("packs/a", b"12345")
    assert "repository.object_lock" in caught.value.hint


def test_the_writers_policy_and_that_of_object_lock_suffice(
    locked: Endpoint, fresh_prefix: str, kit: Kit
) -> None:
    clock = ManualClock(start=SystemClock().now())
    admin = open_store(locked.config(fresh_prefix, object_lock=MONTH), clock)
    Repository.create(admin, passphrase="p", options=kit.small, clock=clock)
    both = policy("writer", fresh_prefix)
    both["Statement"] += policy("object-lock", fresh_prefix)["Statement"]
    user = new_user(locked, f"w-{fresh_prefix}", for_moto(both).replace(BUCKET, LOCKED_BUCKET))
    key = Endpoint(user.url, user.access_key_id, user.secret_access_key, bucket=LOCKED_BUCKET)
    store = open_store(key.config(fresh_prefix, object_lock=MONTH), clock)
    repository = Repository.open(store, passphrase="p", options=kit.small, clock=clock)
    for name in ("b1", "b2"):
        kit.back_up(repository, name, common=kit.noise(50_000))
        clock.advance(DAY)
    ends = [backup.locked_until for backup in repository.backups()]
    assert all(ends)
    assert ends[0] != ends[1]
