"""A writer, a pruner or a reader is stopped (SIGSTOP) at a store operation.

Its lease expires, others take over and go on; then it wakes up (SIGCONT) and acts on what it
believed. No listed backup may ever be damaged, none may be lost. Its lease is a short one, so
that the test need not wait long until it has expired.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.torture.repository.survival import (
    BACKUP,
    PRUNE,
    Victims,
    copy,
    opened,
    stays_whole,
)

pytestmark = pytest.mark.torture

READ: dict[str, Any] = {"action": "read", "own": 0, "loud": False}
OTHER_BACKUP: dict[str, Any] = {"action": "backup", "own": 8}
AGAIN: dict[str, Any] = {"action": "backup", "again": True}
EVERY, SOME = 1, 11

STEPS = pytest.mark.parametrize(
    "step", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "every"]
)


BRIEF = 0.3
"""Seconds that the lease of the stopped process lasts."""


def until_its_lease_expired(root: Path) -> None:
    pause = threading.Event()
    while not all(claim.stale for claim in opened(root).holders()):
        pause.wait(BRIEF / 10)


def frozen(
    victims: Victims,
    start: Path,
    command: dict[str, Any],
    step: int,
    meanwhile: Callable[[Path], None],
    judge: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Stop the command at every `step`-th operation, let others act, wake it up, judge."""
    whole = victims(copy(start, "whole"), **command)
    assert whole["error"] is None
    for at in range(1, whole["operations"] + 1, step):
        root = copy(start, f"at-{at}")
        said = victims(root, **{**command, "loud": False}, ttl=BRIEF, stop_at=at)
        if "stopped" not in said:  # It came to its end, or was too slow for its brief lease.
            stays_whole(root, {"b2"})
            continue
        until_its_lease_expired(root)
        meanwhile(root)
        said = victims(root, "continue", pid=said["stopped"])
        assert said["ended"] == 0, f"operation {at}"
        judge(root, said)


@STEPS
def test_a_writer_that_wakes_up_publishes_nothing_that_lacks_anything(
    victims: Victims, start: Path, step: int
) -> None:
    """Meanwhile a prune removed packs that it relies on, and another writer took over."""

    def meanwhile(root: Path) -> None:
        assert victims(root, **PRUNE)["error"] is None
        assert victims(root, **OTHER_BACKUP)["error"] is None

    def judge(root: Path, said: dict[str, Any]) -> None:
        assert said["error"] in {None, "Locked", "Failed"}
        listed = {summary.id for summary in opened(root).backups()}
        assert (said["error"] is None) == ("b0-again" in listed), (said, listed)
        # Where it was listed already, the prune kept it instead.
        last = {"b0-again"} if said["error"] is None and "b2" not in listed else {"b2"}
        stays_whole(root, {"b8"} | last)

    frozen(victims, start, {**AGAIN, "own": 0}, step, meanwhile, judge)


@STEPS
def test_a_pruner_that_wakes_up_deletes_nothing_that_others_rely_on(
    victims: Victims, start: Path, step: int
) -> None:
    """Meanwhile backups were taken that want what it was about to delete, and another pruned."""

    def meanwhile(root: Path) -> None:
        for command in ({**AGAIN, "own": 0}, PRUNE, {**AGAIN, "own": 1}):
            assert victims(root, **command)["error"] is None

    def judge(root: Path, said: dict[str, Any]) -> None:
        assert said["error"] in {None, "Locked"}
        stays_whole(root, {"b1-again"})

    frozen(victims, start, PRUNE, step, meanwhile, judge)


@STEPS
def test_a_reader_that_sleeps_while_others_prune_reads_on_or_says_what_is_gone(
    victims: Victims, start: Path, step: int
) -> None:
    """His lease has expired: what he reads may go, but never comes back wrong."""

    def judge(root: Path, said: dict[str, Any]) -> None:
        assert said["error"] in {None, "NotFound", "Damaged"}
        stays_whole(root, {"b2"})

    frozen(victims, start, READ, step, lambda root: assert_pruned(victims, root), judge)


def assert_pruned(victims: Victims, root: Path) -> None:
    assert victims(root, **PRUNE)["error"] is None


@STEPS
def test_a_reader_whose_lease_is_alive_reads_to_the_end_whenever_others_prune(
    victims: Victims, start: Path, step: int
) -> None:
    """From the moment on at which it found the backup there."""
    whole = victims(copy(start, "whole"), **READ)
    assert whole["error"] is None
    claimed = whole["changes"][0]
    for at in range(1, whole["operations"] + 1, step):
        root = copy(start, f"at-{at}")
        said = victims(root, **READ, stop_at=at)
        if "stopped" in said:
            assert_pruned(victims, root)
            said = victims(root, "continue", pid=said["stopped"])
        assert said["error"] == ("NotFound" if at <= claimed else None), f"operation {at}"
        stays_whole(root, {"b2"})


def test_a_reader_that_died_on_this_machine_keeps_nothing(victims: Victims, start: Path) -> None:
    claimed = victims(copy(start, "whole"), **READ)["changes"][0]
    said = victims(start, **READ, stop_at=claimed + 2)
    assert opened(start).holders("reader")[0].record is not None
    victims(start, "kill", pid=said["stopped"])
    assert_pruned(victims, start)
    assert [summary.id for summary in opened(start).backups()] == ["b2"]
    stays_whole(start, {"b2"})


@pytest.mark.parametrize("seed", range(6))
def test_all_at_once(victims: Victims, start: Path, seed: int) -> None:
    """Two writers, two pruners, two readers: each succeeds or is told who was first."""
    commands = [
        {**BACKUP, "own": 7},
        {**BACKUP, "own": 8},
        {**PRUNE, "keep": 1},
        {**PRUNE, "keep": 2},
        {**READ, "own": 2},
        {**READ, "own": seed % 3},
    ]
    order = commands[seed:] + commands[:seed]
    quiet = [{**each, "loud": False} for each in order]
    for command, said in zip(order, victims.together(start, quiet), strict=True):
        allowed = {None, "Locked", "NotFound"} if command["action"] == "read" else {None, "Locked"}
        assert (said["ended"], said["error"] in allowed) == (0, True), (command, said)
    stays_whole(start, {max(summary.id for summary in opened(start).backups())})
