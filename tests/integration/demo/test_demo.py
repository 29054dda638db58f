"""`vbackup demo` as a stranger runs it: on servers of its own, which are gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vbackup.sandbox.sandbox import down, status

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

VBACKUP = [sys.executable, "-m", "vbackup"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where the demo's servers live; nothing is left there whatever a test does."""
    directory = tmp_path / "demo"
    yield directory
    down(directory)


def vbackup(*arguments: str | Path, config: Path | None = None) -> Any:
    """The JSON document of a command that must succeed."""
    environment = {**os.environ, **({"VBACKUP_CONFIG": str(config)} if config else {})}
    done = subprocess.run(
        [*VBACKUP, *map(str, arguments), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_pair_is_destroyed_restored_and_proven(place: Path) -> None:
    told = vbackup("demo", "--rows", "1500", "--dir", place)

    assert told["schema"] == "vbackup.demo/1"
    assert told["ok"]
    assert told["proven"]
    assert told["writes_during_backup"] > 0
    assert told["backup"]["writers_paused_ms"] == 0
    after = told["drift"]["after_restore"]
    assert after["rows"] == told["rows"] > 1_000
    assert after["points"] > 1_000
    assert after["missing"] == told["reembed"]
    finished = told["drift"]["after_reembed"] or after
    assert finished["missing"] == 0
    assert {after[kind] for kind in ("orphans", "stale", "ahead", "wrong_vector")} == {0}
    usual = told["drift"]["usual_script"]
    assert sum(usual[kind] for kind in ("missing", "orphans", "stale", "ahead")) > 0
    assert {answer["same_as_before"] for answer in told["answers"]} == {True}
    assert not place.exists()


def test_kept_servers_take_the_commands_to_try_next(place: Path) -> None:
    told = vbackup("demo", "--rows", "300", "--skip-usual-script", "--keep", "--dir", place)

    assert told["drift"]["usual_script"] is None
    config = Path(told["config"])
    listed = vbackup("list", config=config)
    assert [backup["id"] for backup in listed["backups"]] == [told["backup"]["id"]]
    assert listed["backups"][0]["encrypted"]
    assert vbackup("reconcile", config=config)["clean"]
    vbackup("sandbox", "down", "--dir", place)
    assert not place.exists()


def test_ctrl_c_takes_the_servers_down(place: Path) -> None:
    with subprocess.Popen(
        [*VBACKUP, "demo", "--dir", str(place)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        said = []
        for line in running.stderr or ():
            said.append(line)
            if "writers start" in line:
                break
        assert len(status(place).alive) == 2
        running.send_signal(signal.SIGINT)
        rest = running.communicate(timeout=120)[1]

    assert running.returncode == 130, "".join(said) + rest
    assert not place.exists()
    assert status(place).alive == ()


@pytest.mark.parametrize("version", [16, 18])
def test_the_same_story_in_postgresql_alone(place: Path, version: int) -> None:
    told = vbackup(
        "demo", "--engine", "pgvector", "--rows", "300",
        "--postgres-version", str(version), "--dir", place,
    )  # fmt: skip

    assert told["proven"]
    assert told["backup"]["qdrant"] is None
    assert told["backup"]["watermark"]["exactness"] == "exact"
    restored, finished = (told["drift"][name] for name in ("after_restore", "after_reembed"))
    assert restored["missing"] + restored["stale"] == told["reembed"]
    assert finished["rows"] == restored["rows"] > 0
    assert sum(finished[kind] for kind in restored if kind not in ("rows", "points")) == 0
    assert {answer["same_as_before"] for answer in told["answers"]} == {True}
    assert {answer["same_as_rows"] for answer in told["answers"]} == {True}
    assert not place.exists()
