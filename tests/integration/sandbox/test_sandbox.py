"""A sandbox on real servers: it comes up whole, goes down whole, and crashes leave nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from vbackup.errors import Failed, Locked, NotFound, Refused
from vbackup.sandbox import control, loopback, process
from vbackup.sandbox.ledger import STATE_FILE, Ledger, State, locked, read_state
from vbackup.sandbox.loopback import free_ports, request
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.process import Launch, ServerProcess, start_mark
from vbackup.sandbox.qdrant import QdrantOptions
from vbackup.sandbox.sandbox import Options, Sandbox, down, status, sweep, throwaway, up

pytestmark = pytest.mark.integration

POSTGRES_ONLY = Options(qdrant=None, s3=False)
QDRANT_ONLY = Options(postgres=None, s3=False)
S3_ONLY = Options(postgres=None, qdrant=None, s3=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for a sandbox, taken down whatever the test does to it."""
    directory = tmp_path / "sandbox"
    yield directory
    state = read_state(directory)
    if state:
        down(directory)
        assert process.marked(state.mark) == []


def _pids(sandbox: Sandbox) -> list[int]:
    return [each.pid for each in sandbox.state.processes]


def _gone(pids: list[int]) -> bool:
    return all(start_mark(pid) is None for pid in pids)


def test_all_three_come_up_and_go_down(place: Path) -> None:
    sandbox = up(place)
    with psycopg.connect(sandbox.postgres.admin_dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert request(f"{sandbox.qdrant.url}/collections")[0] == 200
    assert request(f"{sandbox.s3.endpoint_url}/{sandbox.s3.bucket}")[0] == 200
    found = status(place)
    assert found.state == "up"
    assert found.sandbox == sandbox
    assert len(found.alive) == 3

    before = down(place)

    assert before.alive == found.alive
    assert not place.exists()
    assert _gone(_pids(sandbox))
    assert status(place).state == "down"
    assert down(place).state == "down"


def test_up_again_is_the_same_sandbox(place: Path) -> None:
    assert up(place, S3_ONLY) == up(place, S3_ONLY)


def test_up_with_other_options_is_refused_and_harms_nothing(place: Path) -> None:
    sandbox = up(place, S3_ONLY)
    with pytest.raises(Refused, match="other options") as caught:
        up(place, POSTGRES_ONLY)
    assert "sandbox down --dir" in caught.value.hint
    assert status(place).sandbox == sandbox


def test_a_throwaway_never_takes_over_what_is_up(place: Path) -> None:
    up(place, S3_ONLY)
    with pytest.raises(Refused, match="somebody else uses it"), throwaway(S3_ONLY, place):
        pass
    assert status(place).state == "up"


def test_a_directory_with_other_things_is_refused(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").touch()
    with pytest.raises(Refused, match="not empty and not a sandbox"):
        up(place, S3_ONLY)
    assert down(place).state == "down"
    assert (place / "thesis.tex").exists()


def test_two_commands_on_one_directory_do_not_mix(place: Path) -> None:
    up(place, S3_ONLY)
    with locked(place), pytest.raises(Locked):
        down(place)
    assert status(place).state == "up"


def test_two_sandboxes_side_by_side(tmp_path: Path) -> None:
    with (
        throwaway(POSTGRES_ONLY, tmp_path / "a") as one,
        throwaway(POSTGRES_ONLY, tmp_path / "b") as two,
    ):
        with psycopg.connect(one.postgres.admin_dsn, autocommit=True) as connection:
            connection.execute("CREATE DATABASE only_here")
        with psycopg.connect(two.postgres.admin_dsn) as connection:
            names = connection.execute("SELECT datname FROM pg_database").fetchall()
        assert ("only_here",) not in names
        assert one.postgres.password != two.postgres.password
    assert list(tmp_path.iterdir()) == []


def test_servers_that_died_are_replaced(place: Path) -> None:
    first = up(place, POSTGRES_ONLY)
    process.stop(first.state.processes, grace=0.0)
    found = status(place)
    assert (found.state, found.dead) == ("broken", ("PostgreSQL 16",))
    second = up(place, POSTGRES_ONLY)
    with psycopg.connect(second.postgres.admin_dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert _pids(first) != _pids(second)


def test_down_never_signals_a_stranger(place: Path) -> None:
    """The recorded pid has been given to somebody else meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stranger:
        try:
            place.mkdir()
            ledger = Ledger(place, State())
            launch = Launch("postgres", "PostgreSQL 16", ("postgres",), "/", {}, "/log")
            ledger.started(ServerProcess(launch, stranger.pid, "boot/1"))
            before = down(place)
            assert before.dead == ("PostgreSQL 16",)
            assert not place.exists()
            assert stranger.poll() is None
        finally:
            stranger.kill()


FAKE_QDRANT = """#!/bin/sh
if [ "$1" = --version ]; then echo qdrant 1.99.0; exit; fi
{then}
"""


def _fake_qdrant(tmp_path: Path, then: str) -> QdrantOptions:
    program = tmp_path / "qdrant"
    program.write_text(FAKE_QDRANT.format(then=then))
    program.chmod(0o755)
    return QdrantOptions(program=program)


def test_when_one_server_fails_the_others_are_stopped(place: Path, tmp_path: Path) -> None:
    fake = _fake_qdrant(tmp_path, "echo cannot map the moon; exit 9")
    with pytest.raises(Failed, match=r"Qdrant 1\.99\.0 did not start \(exit status 9\)") as caught:
        up(place, Options(qdrant=fake, s3=False))
    assert "cannot map the moon" in caught.value.message
    assert "qdrant-1.log" in caught.value.hint
    found = status(place)
    assert (found.state, found.alive) == ("broken", ())
    state = read_state(place)
    assert state is not None
    assert process.marked(state.mark) == []
    assert (place / "postgres.log").exists(), "the logs stay for a look"
    # And the way out is simply to try again.
    assert up(place, POSTGRES_ONLY).postgres.major == 16


def _start_in_child(place: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process that is inside `up`: PostgreSQL runs, Qdrant never becomes ready."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    _fake_qdrant(tmp_path, f"echo here > {fifo}; exec sleep 1000")
    code = (
        "from pathlib import Path\n"
        "from vbackup.sandbox.sandbox import *\n"
        f"qdrant = QdrantOptions(program=Path({str(tmp_path / 'qdrant')!r}))\n"
        f"up(Path({str(place)!r}), Options(qdrant=qdrant, s3=False))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert fifo.read_text() == "here\n"
    return child


def test_killed_while_starting_the_next_down_finds_everything(place: Path, tmp_path: Path) -> None:
    with _start_in_child(place, tmp_path) as child:
        child.kill()
    state = read_state(place)
    assert state is not None
    assert len(process.marked(state.mark)) >= 2
    down(place)
    assert process.marked(state.mark) == []
    assert not place.exists()


def test_terminated_while_starting_it_cleans_up_itself(place: Path, tmp_path: Path) -> None:
    with _start_in_child(place, tmp_path) as child:
        child.terminate()
    assert child.returncode == 1
    state = read_state(place)
    assert state is not None
    assert process.marked(state.mark) == []


def test_a_server_that_no_state_file_knows_is_found_by_its_mark(place: Path) -> None:
    """Killed in the instant between starting a server and writing that down."""
    sandbox = up(place, S3_ONLY)
    forgetful = json.loads((place / STATE_FILE).read_text()) | {"processes": []}
    (place / STATE_FILE).write_text(json.dumps(forgetful))
    down(place)
    assert _gone(_pids(sandbox))


THROWAWAY = """
import signal, sys
from pathlib import Path
from vbackup.sandbox.sandbox import *
with throwaway(Options(qdrant=None, s3=False), Path(sys.argv[1])) as sandbox:
    print(*[each.pid for each in sandbox.state.processes], flush=True)
    signal.pause()
"""


def _throwaway_in_child(directory: Path) -> tuple[subprocess.Popen[str], list[int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", THROWAWAY, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    return child, [int(word) for word in child.stdout.readline().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_throwaway_ends_with_its_process(tmp_path: Path, number: signal.Signals) -> None:
    child, pids = _throwaway_in_child(tmp_path / "sandbox")
    with child:
        assert pids
        child.send_signal(number)
    assert _gone(pids)
    assert not (tmp_path / "sandbox").exists()


def test_sweep_takes_down_what_a_killed_process_left(tmp_path: Path) -> None:
    directory = tmp_path / "vbackup-sandbox-x"
    child, pids = _throwaway_in_child(directory)
    with child:
        assert sweep(tmp_path) == [], "its owner lives"
        child.kill()
    assert not _gone(pids)
    assert sweep(tmp_path) == [directory]
    assert _gone(pids)
    assert not directory.exists()


def test_sweep_leaves_what_was_started_to_stay(tmp_path: Path) -> None:
    place = tmp_path / "vbackup-sandbox-y"
    up(place, S3_ONLY)
    try:
        assert sweep(tmp_path) == []
        assert status(place).state == "up"
    finally:
        down(place)


def test_a_missing_version_lists_what_is_here(place: Path) -> None:
    with pytest.raises(NotFound, match=r"no PostgreSQL 9 server.*16\.\d+ in /") as caught:
        up(place, Options(postgres=PostgresOptions(major=9), qdrant=None, s3=False))
    assert "vbackup[sandbox]" in caught.value.hint


def test_a_sandbox_without_a_server_says_so(place: Path) -> None:
    with pytest.raises(NotFound, match="has no PostgreSQL"):
        _ = up(place, S3_ONLY).postgres


@pytest.mark.parametrize("server", ["postgres", "qdrant", "s3"])
def test_a_port_that_is_taken_in_the_last_moment_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    chosen = {
        "postgres": POSTGRES_ONLY,
        "qdrant": QDRANT_ONLY,
        "s3": S3_ONLY,
    }[server]
    asked: list[int] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        def first_taken(count: int) -> list[int]:
            asked.append(count)
            free = free_ports(count)
            return free if len(asked) > 1 else [taken.getsockname()[1], *free[1:]]

        monkeypatch.setattr(loopback, "free_ports", first_taken)
        with throwaway(chosen, tmp_path / "s") as sandbox:
            assert len(asked) == 2
            assert status(tmp_path / "s").state == "up"
            assert len(sandbox.state.processes) == 1


def _rows(sandbox: Sandbox) -> list[tuple[object, ...]]:
    with psycopg.connect(sandbox.postgres.admin_dsn) as connection:
        return connection.execute("TABLE kept").fetchall()


def test_a_killed_postgres_comes_back_with_its_rows(place: Path) -> None:
    sandbox = up(place, POSTGRES_ONLY)
    with psycopg.connect(sandbox.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        control.kill(sandbox, "postgres")
        assert status(place).state == "broken"
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    again = control.restart(sandbox, "postgres")
    assert again.postgres == sandbox.postgres
    assert _rows(again) == [(7,)]
    assert status(place).sandbox == again


def test_a_running_postgres_is_restarted(place: Path) -> None:
    sandbox = up(place, POSTGRES_ONLY)
    again = control.restart(sandbox, "postgres")
    assert _pids(again) != _pids(sandbox)
    assert status(place).state == "up"


def test_a_killed_qdrant_comes_back_with_its_collections(place: Path) -> None:
    sandbox = up(place, QDRANT_ONLY)
    url = f"{sandbox.qdrant.url}/collections/kept"
    headers = {"content-type": "application/json"}
    assert request(url, method="PUT", headers=headers, body=b'{"vectors": {}}')[0] == 200
    control.kill(sandbox, "qdrant-1")
    assert request(url)[0] == 0
    control.restart(sandbox, "qdrant-1")
    assert request(url)[0] == 200


def test_a_killed_s3_comes_back_with_its_bucket(place: Path) -> None:
    sandbox = up(place, S3_ONLY)
    control.kill(sandbox, "s3")
    again = control.restart(sandbox, "s3")
    assert request(f"{again.s3.endpoint_url}/{again.s3.bucket}")[0] == 200


def test_what_is_not_there_cannot_be_killed(place: Path) -> None:
    sandbox = up(place, S3_ONLY)
    with pytest.raises(NotFound, match="has no postgres") as caught:
        control.kill(sandbox, "postgres")
    assert caught.value.hint == "it has s3"
