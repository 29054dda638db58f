"""A backup or a prune dies by SIGKILL at every store operation, and at random instants.

After each death: only whole backups are listed and all of them verify, the next backup succeeds
at once (nobody waits for a dead process's lease) and reuses what was there, and a prune leaves
nothing behind. VBACKUP_SEED and VBACKUP_KILLS change the random part.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torture.repository.survival import BACKUP, PRUNE, Victims, copy, stays_whole

pytestmark = pytest.mark.torture

SEED = int(os.environ.get("VBACKUP_SEED", "20261123"))
KILLS = int(os.environ.get("VBACKUP_KILLS", "300"))


def survivors(command: dict[str, Any]) -> set[str]:
    """The backups that must outlive this."""
    return {"b2"} if command is PRUNE else {"b0", "b1", "b2"}


COMMANDS = pytest.mark.parametrize("command", [BACKUP, PRUNE], ids=["backup", "prune"])


@COMMANDS
@pytest.mark.slow
def test_killed_at_every_operation(victims: Victims, start: Path, command: dict[str, Any]) -> None:
    killed_at(victims, start, command, step=1)


@COMMANDS
def test_killed_at_some_operations(victims: Victims, start: Path, command: dict[str, Any]) -> None:
    killed_at(victims, start, command, step=7)


def killed_at(victims: Victims, start: Path, command: dict[str, Any], *, step: int) -> None:
    whole = victims(copy(start, "whole"), **command)
    assert whole["ended"] == 0
    for at in range(1, whole["operations"] + 1, step):
        root = copy(start, f"at-{at}")
        # Uploads race each other: a run may have an operation less, and survive.
        died = victims(root, **command, at=at)
        assert (died["ended"], died.get("error")) in {(-9, None), (0, None)}
        stays_whole(root, survivors(command))


def random_instants(victims: Victims, start: Path, count: int) -> None:
    rng = random.Random(SEED)
    seconds = {
        name: victims(copy(start, f"timed-{name}"), **command)["seconds"]
        for name, command in (("backup", BACKUP), ("prune", PRUNE))
    }
    for number in range(count):
        command = rng.choice([BACKUP, PRUNE])
        after = rng.uniform(0.001, seconds[command["action"]])
        sys.stderr.write(f"seed {SEED}, kill {number}: {command} after {after:.6f} s\n")
        root = copy(start, f"instant-{number}")
        died = victims(root, **command, after=after)
        assert (died["ended"], died.get("error")) in {(-14, None), (0, None)}
        stays_whole(root, survivors(command))


def test_killed_at_random_instants(victims: Victims, start: Path) -> None:
    random_instants(victims, start, 12)


@pytest.mark.slow
def test_killed_at_very_many_random_instants(victims: Victims, start: Path) -> None:
    random_instants(victims, start, KILLS)
