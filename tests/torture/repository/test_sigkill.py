"""A backup or a prune dies by SIGKILL at every store operation, and at random instants.

After each death: only whole backups are listed and all of them verify, the next backup succeeds
at once (nobody waits for a dead process's lease) and reuses what was there, and a prune leaves
nothing behind. VBACKUP_SEED and VBACKUP_KILLS change the random part.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vbackup.clock import SystemClock
from vbackup.config import RetentionConfig
from vbackup.repository import index as index_objects
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository
from vbackup.storage.directory import DirectoryStore

pytestmark = pytest.mark.torture

VICTIM = Path(__file__).with_name("victim.py")
ALL = RetentionConfig(keep_last=99)
SEED = int(os.environ.get("VBACKUP_SEED", "20261123"))
KILLS = int(os.environ.get("VBACKUP_KILLS", "300"))

spec = importlib.util.spec_from_file_location("victim", VICTIM)
assert spec is not None
assert spec.loader is not None
victim = importlib.util.module_from_spec(spec)
spec.loader.exec_module(victim)


class Victims:
    """Talks to the process that forks victims."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(VICTIM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, root: Path, action: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"root": str(root), "action": action, **more}), file=self._process.stdin)
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    found = Victims()
    yield found
    found.close()


@pytest.fixture
def start(victims: Victims, tmp_path: Path) -> Path:
    """A repository with three backups."""
    root = tmp_path / "start"
    assert victims(root, "create")["ended"] == 0
    for own in range(3):
        assert victims(root, "backup", own=own)["ended"] == 0
    return root


def copy(start: Path, name: str) -> Path:
    root = start.with_name(name)
    shutil.copytree(start, root)
    return root


def opened(root: Path) -> Repository:
    found: Repository = victim.opened(DirectoryStore(root, SystemClock()))
    return found


def contents(repository: Repository, name: str) -> dict[str, bytes]:
    artifacts = repository.load(name).artifacts()
    return {artifact.name: b"".join(repository.read(artifact)) for artifact in artifacts}


def stays_whole(root: Path, at_least: set[str]) -> None:
    listed = {summary.id for summary in opened(root).backups()}
    assert listed >= at_least
    for name in listed:
        assert verify(opened(root), name, level="chunks").ok
        assert contents(opened(root), name) == victim.streams(int(name[1:]))

    next_one = victim.back_up(opened(root), 99).statistics
    assert next_one.chunks_reused > 0
    assert contents(opened(root), "b99") == victim.streams(99)

    prune(opened(root), ALL, PruneOptions(grace=0, repack_below=0))
    no_garbage(root)
    assert {summary.id for summary in opened(root).backups()} == listed | {"b99"}
    shutil.rmtree(root)


def no_garbage(root: Path) -> None:
    """Exactly the packs that backups need are stored, indexed once; nothing else lies about."""
    repository = opened(root)
    used = {
        place.pack
        for summary in repository.backups()
        for artifact in repository.load(summary.id).artifacts()
        for chunk in chunks(repository, artifact)
        for place in repository.reader.places(chunk)
    }
    store = repository.store
    keys = [stat.key for stat in store.scan(index_objects.PREFIX)]
    indexed = {
        pack for key in keys for pack, _, _ in index_objects.read(store, repository.seal, key)
    }
    assert set(repository.load_catalog().stored) == used == indexed
    names = {stat.key.split("/")[0] for stat in store.scan()}
    assert names == {"vbackup.json", "packs", "index", "backups"}


def chunks(repository: Repository, artifact: Any) -> list[bytes]:
    recipe: list[bytes] = [bytes.fromhex(root) for root in artifact.root]
    content = [piece.chunk for piece in repository.reader.pieces(artifact, recipe.append)]
    return recipe + content


BACKUP: dict[str, Any] = {"action": "backup", "own": 7}
PRUNE: dict[str, Any] = {"action": "prune", "keep": 1, "repack": 0.9}


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
        assert victims(root, **command, at=at)["ended"] in {-9, 0}
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
        assert victims(root, **command, after=after)["ended"] in {-14, 0}
        stays_whole(root, survivors(command))


def test_killed_at_random_instants(victims: Victims, start: Path) -> None:
    random_instants(victims, start, 12)


@pytest.mark.slow
def test_killed_at_very_many_random_instants(victims: Victims, start: Path) -> None:
    random_instants(victims, start, KILLS)
