"""Drives the victims, and judges what they leave behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.torture.repository import victim
from vbackup.clock import SystemClock
from vbackup.config import RetentionConfig
from vbackup.repository import index as index_objects
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.repository import Repository
from vbackup.storage.directory import DirectoryStore

ALL = RetentionConfig(keep_last=99)
BACKUP: dict[str, Any] = {"action": "backup", "own": 7}
PRUNE: dict[str, Any] = {"action": "prune", "keep": 1, "repack": 0.9}


class Victims:
    """Talks to the process that forks victims."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(victim.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, root: Path, action: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._ask({"root": str(root), "action": action, **more})
        return answer

    def together(self, root: Path, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self._ask(
            {"root": str(root), "action": "together", "commands": commands}
        )
        return answers

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin)
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


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
    assert listed >= at_least, f"listed: {sorted(listed)}"
    for name in listed:
        found = verify(opened(root), name, level="chunks")
        assert found.ok, (name, found.checks)
        assert contents(opened(root), name) == victim.streams(victim.own_of(name))

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
