"""`vbackup sandbox`: what a person and a script see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from vbackup.sandbox import process
from vbackup.sandbox.ledger import read_state
from vbackup.sandbox.sandbox import down, status
from vbackup.settings import load

pytestmark = pytest.mark.integration


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "sandbox"
    down(tmp_path / "sandbox")


def _vbackup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vbackup", "sandbox", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def test_it_stays_up_after_the_command_and_goes_down(place: Path) -> None:
    done = _vbackup("up", "--dir", place, "--json")
    assert done.returncode == 0, done.stderr
    document = _document(done)
    assert document["schema"] == "vbackup.sandbox/1"
    assert document["state"] == "up"
    assert status(place).state == "up"

    with psycopg.connect(document["postgres"]["dsn"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    state = read_state(place)
    assert state is not None
    assert state.postgres is not None
    assert state.postgres.password not in done.stdout + done.stderr

    config = load(Path(document["config"])).config
    assert config.postgres.dsn.get_secret_value() == state.postgres.admin_dsn
    assert config.qdrant is not None
    assert list(config.qdrant.urls) == document["qdrant"]["urls"]
    assert config.repository.endpoint_url == document["s3"]["endpoint_url"]

    shown = _vbackup("status", "--dir", place)
    assert shown.returncode == 0
    assert f"VBACKUP_CONFIG={place}/vbackup.toml" in shown.stdout
    assert state.postgres.password not in shown.stdout

    ended = _vbackup("down", "--dir", place, "--json")
    assert (ended.returncode, len(_document(ended)["stopped"])) == (0, 3)
    assert not place.exists()


def test_without_s3_the_repository_is_a_directory(place: Path) -> None:
    document = _document(_vbackup("up", "--dir", place, "--no-s3", "--json"))
    assert document["repository"] == f"file://{place}/repository"
    assert "s3" not in document


def test_nothing_there_is_said_plainly(place: Path) -> None:
    assert _vbackup("status", "--dir", place).stdout == f"down: {place}\n"
    assert _vbackup("down", "--dir", place).stdout == f"nothing was up in {place}\n"


def test_a_broken_one_is_a_finding(place: Path) -> None:
    assert _vbackup("up", "--dir", place, "--no-s3").returncode == 0
    state = read_state(place)
    assert state is not None
    process.stop(state.processes[:1], grace=5.0)
    done = _vbackup("status", "--dir", place, "--json")
    document = _document(done)
    assert (done.returncode, document["ok"], document["state"]) == (3, False, "broken")
    assert document["servers"][0] == {"name": "Qdrant 1.17.0", "alive": True}
    assert document["servers"][1] == {"name": "PostgreSQL 16", "alive": False}


def test_a_bad_program_is_a_usage_error(place: Path) -> None:
    done = _vbackup("up", "--dir", place, "--qdrant-bin", "/bin/true", "--json")
    assert done.returncode == 2
    assert "/bin/true" in _document(done)["error"]["message"]
    state = read_state(place)
    assert state is not None
    assert process.marked(state.mark) == []


def test_the_directory_can_come_from_the_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBACKUP_SANDBOX_DIR", str(place))
    assert _vbackup("status").stdout == f"down: {place}\n"
