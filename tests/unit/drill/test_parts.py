"""The parts of a drill that need no server."""

from __future__ import annotations

import threading
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vbackup.config import DrillCheckConfig
from vbackup.engine.drillcheck import NotHere, Restored, Wrong
from vbackup.errors import Failed, Usage
from vbackup.postgres.blame import lacking
from vbackup.sandbox import shell
from vbackup.sandbox.nearest import nearest_postgres, preferred
from vbackup.sandbox.process import start_mark
from vbackup.settings import load_drill


def check(**keys: Any) -> DrillCheckConfig:
    return DrillCheckConfig(name="it", **keys)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({}, "exactly one of sql, collection, command"),
        ({"sql": "SELECT 1", "command": "true", "expect": 1}, "exactly one of"),
        ({"sql": "SELECT 1"}, "expect or expect_min"),
        ({"sql": "SELECT 1", "expect": 1, "expect_min": 1}, "expect or expect_min"),
        ({"sql": "SELECT 1", "expect": 1, "like": 1}, "like cannot go with sql"),
        ({"collection": "c", "expect_ids": [1]}, "vector or like"),
        ({"collection": "c", "like": 1, "vector": [1.0], "expect_ids": [1]}, "vector or like"),
        ({"collection": "c", "like": 1}, "expect_ids"),
        ({"command": "true", "expect": 1}, "expect cannot go with command"),
    ],
)
def test_a_check_that_cannot_be_meant_is_a_mistake(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        check(**keys)


def test_a_drill_needs_no_way_to_the_live_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    path = tmp_path / "vbackup.toml"
    path.write_text(
        '[postgres]\ndsn = "${env:DATABASE_URL}"\n'
        '[repository]\nurl = "file:///nowhere"\nencryption = "none"\n'
        '[[drill.check]]\nname = "n"\nsql = "SELECT 1"\nexpect = 1\n'
    )
    assert load_drill(path).drill.check[0].expect == 1
    path.write_text(path.read_text().replace("expect = 1", "expct = 1"))
    with pytest.raises(Usage, match="did you mean expect"):
        load_drill(path)


# ---------------------------------------------------------------- checks


def pair(answer: object = None, *, code: int | None = 0, said: str = "") -> Restored:
    found: list[int | str] = [7, str(uuid.UUID(int=5))]
    return Restored(
        database="app",
        collections={"documents": "documents_x", "alias": "documents_x"},
        ask=lambda database, query, seconds: answer,
        nearest=lambda name, query, using, limit: found[:limit],
        run=lambda command, environment, timeout: (code, said),
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (42, 42),
        (Decimal("42.0"), 42),
        (42.5, 42.5),
        ("ada", "ada"),
        (True, True),
        (False, False),
        (uuid.UUID(int=5), str(uuid.UUID(int=5)).upper()),
    ],
)
def test_equal_values_pass(found: object, expected: Any) -> None:
    assert pair(found).check(check(sql="q", expect=expected)).startswith("found ")


@pytest.mark.parametrize(
    ("found", "expected"),
    [(41, 42), (1, True), (True, 1), (None, ""), ("42", 42), (None, 0), ("Ada", "ada")],
)
def test_other_values_fail(found: object, expected: Any) -> None:
    with pytest.raises(Wrong):
        pair(found).check(check(sql="q", expect=expected))


@pytest.mark.parametrize("found", [9, None, "10", True])
def test_less_than_the_least_fails(found: object) -> None:
    assert pair(10).check(check(sql="q", expect_min=10))
    with pytest.raises(Wrong, match="expected at least 10"):
        pair(found).check(check(sql="q", expect_min=10))


def test_a_search_knows_collections_by_name_and_alias() -> None:
    for name in ("documents", "alias"):
        assert pair().check(check(collection=name, like=1, expect_ids=[7, str(uuid.UUID(int=5))]))
    with pytest.raises(Wrong, match="8 not among"):
        pair().check(check(collection="documents", vector=[1.0], expect_ids=[7, 8]))
    with pytest.raises(Wrong, match="no collection 'other'"):
        pair().check(check(collection="other", like=1, expect_ids=[7]))


def test_the_end_of_a_command_decides() -> None:
    assert pair(said="a\nfine").check(check(command="c")) == "exit code 0: fine"
    with pytest.raises(Wrong, match="exit code 3: broken"):
        pair(code=3, said="broken").check(check(command="c"))
    with pytest.raises(Wrong, match="took longer than 5 s"):
        pair(code=None).check(check(command="c", timeout="5s"))
    for code in (126, 127):
        with pytest.raises(NotHere):
            pair(code=code).check(check(command="c"))


# ---------------------------------------------------------------- commands


def test_a_command_gets_its_environment_and_its_end_is_told() -> None:
    assert shell.run('echo "it is $WORD"; exit 7', {"WORD": "so"}, 30.0) == shell.Ran(7, "it is so")


def test_a_command_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    ran = shell.run(f"sleep 600 & echo $! > {pid}; wait", {}, 1.0)
    assert ran.code is None
    pulse, deadline = threading.Event(), time.monotonic() + 20
    while start_mark(int(pid.read_text())) is not None:
        assert time.monotonic() < deadline
        pulse.wait(0.02)


# ---------------------------------------------------------------- whose fault, which server


@pytest.mark.parametrize(
    ("message", "lack"),
    [
        ('pg_restore failed: extension "postgis" is not available', "extension postgis"),
        ('could not open extension control file "/a/b/hstore.control": No', "extension hstore"),
        ('could not access file "$libdir/postgis-3": No such file or directory', "postgis-3"),
        ('role "app" does not exist', "no role app"),
        ('tablespace "fast" does not exist', "tablespace fast"),
        ('language "plpython3u" does not exist', "language plpython3u"),
        ("could not extend file: No space left on device", "disk is full"),
    ],
)
def test_what_a_server_lacks_is_recognised(message: str, lack: str) -> None:
    assert lack in lacking(Failed(f"pg_restore failed (TABLE x): {message}"))


@pytest.mark.parametrize(
    "message",
    [
        'invalid input syntax for type json: "{"',
        'relation "documents" does not exist',
        'duplicate key value violates unique constraint "documents_pkey"',
        "could not read from input file: end of file",
    ],
)
def test_what_a_backup_lacks_is_not(message: str) -> None:
    assert lacking(Failed(f"pg_restore failed: {message}")) == ""


def test_the_nearest_version_comes_first() -> None:
    known = {"1.16.3", "1.17.0", "1.18.1", "1.9.0"}
    assert preferred("1.17.0", known) == ["1.17.0", "1.18.1", "1.16.3", "1.9.0"]
    assert preferred("1.16.9", known)[:2] == ["1.16.9", "1.17.0"]


def test_an_older_postgresql_is_never_taken(tmp_path: Path) -> None:
    for major in (14, 16, 18):
        programs = tmp_path / str(major)
        programs.mkdir()
        for name in ("postgres", "initdb"):
            (programs / name).write_text(f'#!/bin/sh\necho "{name} (PostgreSQL) {major}.3"\n')
            (programs / name).chmod(0o755)
    assert nearest_postgres(16, tmp_path / "16").major == 16
    assert nearest_postgres(16, tmp_path / "18").major == 18
    with pytest.raises(Exception, match=r"no PostgreSQL 16 or newer.*14\.3"):
        nearest_postgres(16, tmp_path / "14")
