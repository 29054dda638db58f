"""Every store operation of a backup, a prune and a repair is the last one, in turn.

The process is stopped abruptly: the operation and all that follow raise something that no code
catches. `tests/torture/repository` does the same with SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.faults import Fault, FaultyStore
from vbackup.config import RetentionConfig
from vbackup.repository import index as index_objects
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.reindex import repair_index
from vbackup.repository.repository import Repository

ONE = RetentionConfig(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0)
ALL = RetentionConfig(keep_last=99)
PASSPHRASE = "a passphrase"


class Killed(BaseException):
    """Nobody catches this."""


def killed() -> None:
    raise Killed


def count(store: Any, operation: Callable[[Any], None]) -> int:
    """How many store operations there are when nothing goes wrong."""
    faulty = FaultyStore(store.copy())
    operation(faulty)
    return len(faulty.calls)


def die_at(store: Any, at: int, operation: Callable[[Any], None]) -> None:
    faulty = FaultyStore(store, Fault("*", "call", at=at, times=None, action=killed))
    with suppress(Killed):
        operation(faulty)


def opened(store: Any, kit: Any) -> Repository:
    clock = getattr(store, "inner", store).clock
    return Repository.open(store, passphrase=PASSPHRASE, options=kit.small, clock=clock)


def streams(kit: Any, own: int) -> dict[str, bytes]:
    return {"common": kit.noise(40_000), "own": kit.noise(60_000, own), "text": kit.text(30_000)}


def prepared(kit: Any, backups: int) -> Any:
    store = kit.store(kit.clock())
    repository = Repository.create(
        store, passphrase=PASSPHRASE, options=kit.small, clock=store.clock
    )
    for n in range(backups):
        kit.back_up(repository, f"b{n}", **streams(kit, n))
        store.clock.advance(60)
    return store


def stays_whole(store: Any, kit: Any, expected: dict[str, int]) -> None:
    """After a crash: only whole backups are listed, the next one works, prune leaves nothing."""
    store.clock.advance(1000)  # The dead holder's leases expire.
    listed = [summary.id for summary in opened(store, kit).backups()]
    assert set(listed) <= set(expected)
    for name in listed:
        assert verify(opened(store, kit), name, level="chunks").ok
        assert kit.contents(opened(store, kit), name) == streams(kit, expected[name])

    kit.back_up(opened(store, kit), "next", **streams(kit, 99))
    assert kit.contents(opened(store, kit), "next") == streams(kit, 99)

    prune(opened(store, kit), ALL, PruneOptions(grace=0, repack_below=0))
    no_garbage(store, kit)
    for name in listed:
        assert kit.contents(opened(store, kit), name) == streams(kit, expected[name])


def no_garbage(store: Any, kit: Any) -> None:
    repository = opened(store, kit)
    used = {
        place.pack
        for summary in repository.backups()
        for artifact in repository.load(summary.id).artifacts()
        for chunk in all_chunks(repository, artifact)
        for place in repository.reader.places(chunk)
    }
    indexed = {
        pack
        for key in store.names(index_objects.PREFIX)
        for pack, _, _ in index_objects.read(store, repository.seal, key)
    }
    assert set(repository.load_catalog().stored) == used == indexed
    for prefix in ("leases/", "doomed/", "damaged/"):
        assert store.names(prefix) == []


def all_chunks(repository: Repository, artifact: Any) -> list[bytes]:
    recipe: list[bytes] = [bytes.fromhex(root) for root in artifact.root]
    content = [piece.chunk for piece in repository.reader.pieces(artifact, recipe.append)]
    return recipe + content


def test_a_backup_that_dies_anywhere(kit: Any) -> None:
    def backup(store: Any) -> None:
        kit.back_up(opened(store, kit), "b1", **streams(kit, 1))

    start = prepared(kit, 1)
    for at in range(1, count(start, backup) + 2):
        store = start.copy()
        die_at(store, at, backup)
        stays_whole(store, kit, {"b0": 0, "b1": 1})


def test_a_backup_that_died_late_uploads_only_what_is_missing(kit: Any) -> None:
    start = prepared(kit, 0)
    operations = count(start, lambda store: kit.back_up(opened(store, kit), "b", **streams(kit, 1)))
    die_at(
        start,
        operations - 6,
        lambda store: kit.back_up(opened(store, kit), "b", **streams(kit, 1)),
    )
    assert start.names("backups/") == []
    start.clock.advance(1000)
    resumed = kit.back_up(opened(start, kit), "b", **streams(kit, 1)).statistics
    assert resumed.chunks_new < resumed.chunks_reused


def test_a_prune_that_dies_anywhere(kit: Any) -> None:
    def clean(store: Any) -> None:
        prune(opened(store, kit), ONE, PruneOptions(grace=0, repack_below=0.9))

    start = prepared(kit, 3)
    expected = {"b0": 0, "b1": 1, "b2": 2}
    for at in range(1, count(start, clean) + 2):
        store = start.copy()
        die_at(store, at, clean)
        assert "b2" in [summary.id for summary in opened(store, kit).backups()]
        stays_whole(store, kit, expected)


def test_a_repair_that_dies_anywhere(kit: Any) -> None:
    def repair(store: Any) -> None:
        repair_index(opened(store, kit))

    start = prepared(kit, 2)
    start.delete(start.names("index/")[:1])
    for at in range(1, count(start, repair) + 2):
        store = start.copy()
        die_at(store, at, repair)
        stays_whole(store, kit, {"b0": 0, "b1": 1})


@pytest.mark.slow
def test_a_prune_and_the_backup_after_it_both_die_anywhere(kit: Any) -> None:
    """Two crashes in a row, at every pair of a coarse grid."""

    def clean(store: Any) -> None:
        prune(opened(store, kit), ONE, PruneOptions(grace=0, repack_below=0.9))

    def backup(store: Any) -> None:
        kit.back_up(opened(store, kit), "b3", **streams(kit, 3))

    start = prepared(kit, 3)
    for first in range(1, count(start, clean) + 2, 3):
        for second in range(1, count(start, backup) + 2, 5):
            store = start.copy()
            die_at(store, first, clean)
            store.clock.advance(1000)
            die_at(store, second, backup)
            stays_whole(store, kit, {"b0": 0, "b1": 1, "b2": 2, "b3": 3})
