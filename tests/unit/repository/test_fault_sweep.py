"""Every store call of a backup, a restore, a verification and a prune misbehaves, in turn.

Whatever it does, the outcome is a classified error or success, and never a bad backup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import Fault, FaultyStore, Kind
from vbackup.config import RetentionConfig
from vbackup.errors import Failed, VbackupError
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository

ONE = RetentionConfig(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0)
PASSPHRASE = "a passphrase"

FAULTS: dict[str, tuple[Kind, dict[str, Any]]] = {
    "error": ("error", {"error": lambda: Failed("disk on fire")}),
    "time-out": ("timeout", {}),
    "lost reply": ("lost_reply", {}),
    "torn": ("torn", {}),
    "silently torn": ("torn", {"silent": True}),
    "empty": ("torn", {"silent": True, "keep": 0.0}),
    "stale by one": ("stale", {"hide": 1}),
    "stale by many": ("stale", {"hide": 50}),
    "wrong byte": ("flip", {"offset": 77}),
    "short read": ("short", {}),
    "slow": ("delay", {"seconds": 30.0}),
}


def opened(store: Any, kit: Any) -> Repository:
    return Repository.open(store, passphrase=PASSPHRASE, options=kit.small, clock=kit.clock())


def streams(kit: Any, own: int) -> dict[str, bytes]:
    return {"common": kit.noise(40_000), "own": kit.noise(50_000, own)}


@pytest.fixture
def start(kit: Any) -> Any:
    store = kit.store(kit.clock())
    repository = Repository.create(
        store, passphrase=PASSPHRASE, options=kit.small, clock=store.clock
    )
    for n in range(2):
        kit.back_up(repository, f"b{n}", **streams(kit, n))
    return store


def sweep(start: Any, fault: str, operation: Callable[[Any], None]) -> list[tuple[Any, bool]]:
    """The store after each run, and whether the operation said that it had succeeded."""
    kind, more = FAULTS[fault]
    whole = FaultyStore(start.copy())
    operation(whole)
    outcomes = []
    for at in range(1, len(whole.calls) + 1):
        store = start.copy()
        try:
            operation(FaultyStore(store, Fault("*", kind, at=at, **more)))
            ok = True
        except VbackupError:
            ok = False
        outcomes.append((store, ok))
    return outcomes


@pytest.mark.parametrize("fault", FAULTS)
def test_backup(start: Any, kit: Any, fault: str) -> None:
    def backup(store: Any) -> None:
        kit.back_up(opened(store, kit), "b2", **streams(kit, 2))

    for store, ok in sweep(start, fault, backup):
        store.clock.advance(1000)
        repository = opened(store, kit)
        listed = {summary.id: summary for summary in repository.backups()}
        assert ("b2" in listed) or not ok
        for name, summary in listed.items():
            assert not summary.unreadable
            assert kit.contents(repository, name) == streams(kit, int(name[1:]))
        for claim in repository.holders():
            repository.unlock(claim)
        kit.back_up(repository, "after", **streams(kit, 2))
        assert kit.contents(repository, "after") == streams(kit, 2)


@pytest.mark.parametrize("fault", FAULTS)
def test_restore(start: Any, kit: Any, fault: str) -> None:
    restored: list[dict[str, bytes]] = []

    def restore(store: Any) -> None:
        repository = opened(store, kit)
        with repository.reading("b1"):
            restored.append(kit.contents(repository, "b1"))

    for _, ok in sweep(start, fault, restore):
        if ok:
            assert restored.pop() == streams(kit, 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_verify(start: Any, kit: Any, fault: str) -> None:
    """A verification may fail for the fault; it must not condemn what is good for ever."""

    def check(store: Any) -> None:
        verify(opened(store, kit), "b1", level="chunks")

    for store, _ in sweep(start, fault, check):
        again = verify(opened(store, kit), "b1", level="chunks")
        assert again.ok, again
        assert store.names("damaged/") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_prune(start: Any, kit: Any, fault: str) -> None:
    def clean(store: Any) -> None:
        prune(opened(store, kit), ONE, PruneOptions(grace=0, repack_below=0.9))

    for store, _ in sweep(start, fault, clean):
        store.clock.advance(1000)
        repository = opened(store, kit)
        listed = [summary.id for summary in repository.backups()]
        assert "b1" in listed
        for name in listed:
            assert kit.contents(repository, name) == streams(kit, int(name[1:]))
