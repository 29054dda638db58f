"""Object Lock on a server that has it: retention is set, respected and reported."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.contract.servers import Endpoint
from tests.faults import ManualClock
from vbackup.clock import SystemClock
from vbackup.errors import Usage
from vbackup.storage.open import open_store

LOCKED_BUCKET = "vbackup-locked"
MONTH = 30 * 86400.0


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
