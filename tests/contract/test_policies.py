"""The policies of deploy/s3 are enough for each role, and no more, on a server that enforces IAM.

moto checks actions and resources, but not conditions on requests, and it judges a bulk delete by
the bucket alone; both are adapted here. The conditions are only checked for being there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.contract.servers import BUCKET, Endpoint, new_user
from tests.unit.repository.conftest import Kit
from vbackup.clock import SystemClock
from vbackup.config import RetentionConfig
from vbackup.errors import Denied
from vbackup.model.manifest import CheckRecord
from vbackup.ports import ObjectStore
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository
from vbackup.storage.open import open_store

POLICIES = Path(__file__).parents[2] / "deploy/s3"
ROLES = ("writer", "pruner", "reader", "verifier")


def policy(role: str, prefix: str) -> dict[str, Any]:
    text = (POLICIES / f"{role}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.replace("BUCKET", BUCKET).replace("PREFIX", prefix))
    return found


def for_moto(found: dict[str, Any]) -> str:
    for statement in found["Statement"]:
        statement.pop("Condition", None)
        if statement["Sid"] == "ReadRewriteAndRemoveObjects":
            statement["Resource"] = [statement["Resource"], f"arn:aws:s3:::{BUCKET}"]
    return json.dumps(found)


Open = Callable[[str], ObjectStore]


@pytest.fixture
def as_role(moto_auth: Endpoint, fresh_prefix: str) -> Open:
    def opened(role: str) -> ObjectStore:
        document = for_moto(policy(role, fresh_prefix))
        user = new_user(moto_auth, f"{role}-{fresh_prefix}", document)
        return open_store(user.config(fresh_prefix), SystemClock())

    return opened


@pytest.fixture
def admin(moto_auth: Endpoint, fresh_prefix: str) -> ObjectStore:
    return open_store(moto_auth.config(fresh_prefix), SystemClock())


@pytest.mark.parametrize("role", ROLES)
def test_lists_are_limited_to_the_prefix(role: str) -> None:
    lists = [each for each in policy(role, "p")["Statement"] if each["Action"] == "s3:ListBucket"]
    assert [each["Condition"] for each in lists] == [{"StringLike": {"s3:prefix": ["p", "p/*"]}}]


MANIFEST, PACK, LEASE, READING, SWITCHING, CHECK = (
    "backups/b/manifest",
    "packs/ab/cd",
    "leases/writer/x",
    "leases/reader/x",
    "leases/switch/x",
    "backups/b/checks/now",
)
EVERYTHING = frozenset({MANIFEST, PACK, LEASE, READING, SWITCHING, CHECK})


@pytest.mark.parametrize(
    ("role", "may_put", "may_delete"),
    [
        ("writer", EVERYTHING, frozenset({LEASE, READING, SWITCHING})),
        ("pruner", EVERYTHING, EVERYTHING),
        ("reader", frozenset({READING, SWITCHING}), frozenset({READING, SWITCHING})),
        ("verifier", frozenset({CHECK, READING}), frozenset({READING})),
    ],
)
def test_each_role_may_do_its_work_and_no_more(
    as_role: Open,
    admin: ObjectStore,
    moto_auth: Endpoint,
    role: str,
    may_put: frozenset[str],
    may_delete: frozenset[str],
) -> None:
    store = as_role(role)
    for key in EVERYTHING:
        admin.put(key, b"x")
    assert {found.key for found in store.scan()} == EVERYTHING
    assert all(store.get(key) == b"x" for key in EVERYTHING)
    assert store.stat("packs/none") is None
    assert {key for key in EVERYTHING if _allowed(store.put, key, b"y")} == may_put
    assert {key for key in EVERYTHING if _allowed(store.delete, [key])} == may_delete


def test_other_prefixes_are_out_of_reach(
    as_role: Open, moto_auth: Endpoint, fresh_prefix: str
) -> None:
    open_store(moto_auth.config(f"{fresh_prefix}0"), SystemClock()).put("a", b"theirs")
    user = new_user(moto_auth, f"p-{fresh_prefix}", for_moto(policy("pruner", fresh_prefix)))
    neighbour = open_store(user.config(f"{fresh_prefix}0"), SystemClock())
    for call in (lambda: neighbour.get("a"), lambda: neighbour.put("a", b"x")):
        with pytest.raises(Denied):
            call()


def _allowed(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except Denied:
        return False
    return True


@pytest.fixture(autouse=True)
def _cheap_stretching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbackup.repository.keys._SCRYPT_N", 2**4)


def test_a_repository_lives_with_these_keys(as_role: Open, admin: ObjectStore) -> None:
    """Created and pruned by one key; written, read and verified by a key of their own."""
    kit = Kit()
    pruner = as_role("pruner")
    Repository.create(pruner, passphrase="p", options=kit.small)

    def opened(role: str) -> Repository:
        return Repository.open(as_role(role), passphrase="p", options=kit.small)

    writer = opened("writer")
    kit.back_up(writer, "b1", dump=kit.noise(50_000, 1))
    kit.back_up(writer, "b2", dump=kit.noise(50_000, 2))
    reader = opened("reader")
    with reader.reading("b1") as problem:
        assert problem == ""
        assert kit.contents(reader, "b1") == {"dump": kit.noise(50_000, 1)}
    verifier = opened("verifier")
    assert verify(verifier, "b2", level="chunks").ok
    verifier.record("b2", CheckRecord("chunks", datetime.now(UTC), ok=True))
    pruned = Repository.open(pruner, passphrase="p", options=kit.small)
    report = prune(pruned, RetentionConfig(keep_last=1), PruneOptions(grace=0.0))
    assert report.removed == ["b1"]
    assert [found.key for found in admin.scan("leases/")] == []
    assert kit.contents(reader, "b2") == {"dump": kit.noise(50_000, 2)}
    assert [backup.id for backup in reader.backups()] == ["b2"]
