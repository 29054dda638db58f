"""A restore that is killed: the next command says what is there, and nothing live is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Run = Callable[..., Any]
ROWS = 300

KILLED = """
import os, signal, sys
from importlib import import_module
from vbackup.cli.main import run

module, owner, method = sys.argv[1].split(":")
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
setattr(getattr(import_module(module), owner), method, die)
run(sys.argv[2:])
"""
RECOVER = "vbackup.qdrant.target:QdrantTarget:recover"
COPY = "vbackup.engine.switch:Switch:copy"
SWAP = "vbackup.postgres.target:PostgresTarget:swap"
FILL = "vbackup.engine.inplace:InPlaceRestore:_fill"


@pytest.fixture
def backed_up(vb: Run, config_file: Path) -> str:
    assert vb("init").code == 0
    shown = vb("backup", "--json")
    assert shown.code == 0, shown.err
    return str(shown.json["id"])


def killed(config_file: Path, where: str, *arguments: str) -> None:
    """Run a command line in a process that is gone without a word when it gets there."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, "--config", str(config_file), *arguments],
        capture_output=True, timeout=120, check=False, cwd=config_file.parent,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr


def state_of(config_file: Path) -> tuple[str, str]:
    (path,) = config_file.parent.glob("vbackup-*-*.json")
    return str(path), str(json.loads(path.read_text(encoding="utf-8"))["phase"])


def nothing_beside(pair: Any, databases: Callable[[], set[str]]) -> None:
    assert len(databases()) == 1
    assert {n for n in pair.collections() if n.startswith(pair.collection)} == {pair.collection}


def test_what_a_killed_restore_made_can_be_dropped(
    vb: Run, pair: Any, backed_up: str, config_file: Path, databases: Any
) -> None:
    killed(config_file, RECOVER, "restore")
    state, phase = state_of(config_file)
    assert phase == "restoring"
    again = vb("restore")
    assert (again.code, f"vbackup restore --drop-old {state}" in again.err) == (4, True)
    assert vb("restore", "--go-back", state, "--yes").code == 4
    assert vb("restore", "--drop-old", state, "--yes").code == 0
    nothing_beside(pair, databases)
    shown = vb("restore", "--json")
    assert shown.code == 0
    # The runbook: look at the pair beside the live one, then put one in place.
    assert vb("restore", "--in-place", "--yes").code == 0
    assert vb(*shown.json["beside"]["drop_old"].split()[1:]).code == 0


def test_killed_while_live_collections_were_copied(
    vb: Run, pair: Any, backed_up: str, config_file: Path, databases: Any
) -> None:
    """A copy that is not whole must never be taken for what was live."""
    pair.sql("DELETE FROM documents WHERE id <= 100")
    killed(config_file, COPY, "restore", "--in-place", "--yes")
    state, phase = state_of(config_file)
    assert phase == "keeping"
    assert vb("restore", "--go-back", state, "--yes").code == 4
    assert vb("restore", "--drop-old", state, "--yes").code == 0
    nothing_beside(pair, databases)
    assert (pair.count_rows(), pair.count_points()) == (ROWS - 100, ROWS)
    assert vb("restore", "--in-place", "--yes").code == 0


@pytest.mark.parametrize("where", [SWAP, FILL])
def test_killed_in_the_switch(
    vb: Run, pair: Any, backed_up: str, config_file: Path, databases: Any, where: str
) -> None:
    """Before the database was renamed, and after."""
    pair.sql("DELETE FROM documents WHERE id <= 100")
    killed(config_file, where, "restore", "--in-place", "--yes")
    state, phase = state_of(config_file)
    assert phase == "switching"
    kept = vb("restore", "--drop-old", state, "--yes")
    assert (kept.code, "--go-back" in kept.err) == (4, True)
    # The way back is killed as well, and the copies are still all there is.
    killed(config_file, COPY, "restore", "--go-back", state, "--yes")
    assert state_of(config_file) == (state, "going back")
    assert vb("restore", "--drop-old", state, "--yes").code == 4
    assert vb("restore", "--go-back", state, "--yes").code == 0
    assert (pair.count_rows(), pair.count_points()) == (ROWS - 100, ROWS)
    assert vb("restore", "--drop-old", state, "--yes").code == 0
    nothing_beside(pair, databases)


def test_a_state_of_other_servers_touches_nothing(
    vb: Run, pair: Any, backed_up: str, config_file: Path, databases: Any
) -> None:
    """What is a copy there may be live here."""
    shown = vb("restore", "--json")
    path = Path(shown.json["beside"]["state"])
    elsewhere = json.loads(path.read_text(encoding="utf-8")) | {"qdrant": "http://other:6333"}
    path.write_text(json.dumps(elsewhere), encoding="utf-8")
    refused = vb("restore", "--drop-old", str(path), "--yes")
    assert (refused.code, "http://other:6333" in refused.err, path.exists()) == (4, True, True)
    assert vb("restore", "--drop-old", str(path), "--yes", "--force").code == 0
    nothing_beside(pair, databases)
