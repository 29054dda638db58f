"""Processes are told apart by pid and start time, and stopped for certain."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbackup.errors import Failed
from vbackup.sandbox import process, readiness
from vbackup.sandbox.process import Launch, ServerProcess

SLEEPER = "import signal, sys; print('ready', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEPER}"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    running: list[ServerProcess] = []
    yield running
    process.stop(running, grace=0.0)


def _start(
    tmp_path: Path,
    started: list[ServerProcess],
    code: str,
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    memory_limit: int = 0,
) -> ServerProcess:
    launch = Launch(
        kind="test",
        name="a server",
        argv=(sys.executable, "-c", code),
        cwd=str(tmp_path),
        environment={process.MARK: f"mark of {tmp_path}"},
        log=str(tmp_path / "log"),
        stop_signal=stop_signal,
        memory_limit=memory_limit,
    )
    server = process.spawn(launch)
    started.append(server)
    return server


def _wait(tmp_path: Path, server: ServerProcess) -> None:
    readiness.wait_ready(server, lambda _: "ready" in (tmp_path / "log").read_text())


def test_a_started_process_is_alive_until_it_is_stopped(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, SLEEPER)
    _wait(tmp_path, server)
    assert server.is_alive()
    assert process.stop([server]) == ["a server"]
    assert not server.is_alive()
    assert process.stop([server]) == []


def test_it_runs_in_a_session_of_its_own(tmp_path: Path, started: list[ServerProcess]) -> None:
    server = _start(tmp_path, started, SLEEPER)
    assert os.getsid(server.pid) == server.pid


def test_one_that_ignores_the_polite_signal_is_killed(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, STUBBORN)
    _wait(tmp_path, server)
    assert process.stop([server], grace=0.05) == ["a server"]
    assert not server.is_alive()


def test_a_recycled_pid_is_never_signalled(tmp_path: Path, started: list[ServerProcess]) -> None:
    server = _start(tmp_path, started, SLEEPER)
    earlier = dataclasses.replace(server, started=f"{server.started}1")
    assert not earlier.is_alive()
    assert process.stop([earlier], grace=0.0) == []
    assert server.is_alive()


def test_the_stop_signal_is_the_servers_own(tmp_path: Path, started: list[ServerProcess]) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('interrupted', flush=True), sys.exit()))\n"
        "print('ready', flush=True)\nsignal.pause()"
    )
    server = _start(tmp_path, started, code, stop_signal=signal.SIGINT)
    _wait(tmp_path, server)
    process.stop([server])
    assert "interrupted" in (tmp_path / "log").read_text()


def test_a_server_that_exits_reports_its_status_and_the_end_of_its_log(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, "print('no such disk'); raise SystemExit(3)")
    with pytest.raises(Failed, match=r"a server did not start \(exit status 3\): no such disk") as (
        caught
    ):
        readiness.wait_ready(server, lambda _: False, timeout=30.0)
    assert "no such disk" in caught.value.hint
    assert str(tmp_path / "log") in caught.value.hint


def test_a_server_that_is_killed_reports_the_signal(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(Failed, match="killed by signal 9"):
        readiness.wait_ready(server, lambda _: False, timeout=30.0)


def test_a_stranger_on_its_port_does_not_make_a_dead_server_ready(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, "raise SystemExit('address in use')")
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(Failed, match="address in use"):
        readiness.wait_ready(server, lambda _: True, timeout=30.0)


def test_a_server_that_is_not_ready_in_time_is_stopped(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, SLEEPER)
    with pytest.raises(Failed, match="not ready after 0 s"):
        readiness.wait_ready(server, lambda _: False, timeout=0.0)
    assert not server.is_alive()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="/nowhere/server: No such file"):
        process.spawn(
            Launch("test", "a server", ("/nowhere/server",), str(tmp_path), {}, f"{tmp_path}/log")
        )


def test_memory_is_limited_without_a_limit_on_mapped_files(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, SLEEPER, memory_limit=123_000_000)
    limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
    found = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert found["Max data size"] == "123000000"
    assert found["Max address space"] == "unlimited"
    assert Path(f"/proc/{server.pid}/oom_score_adj").read_text().strip() == "800"


def test_marked_finds_what_no_state_file_knows(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, SLEEPER)
    _wait(tmp_path, server)
    found = process.marked(f"mark of {tmp_path}")
    assert [each.pid for each in found] == [server.pid]
    assert process.marked(f"mark of {tmp_path}, another") == []


def test_nothing_runs_under_a_pid_that_is_free(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    server = _start(tmp_path, started, SLEEPER)
    process.stop([server])
    assert process.start_mark(server.pid) is None


def test_a_command_with_brackets_in_its_name_is_parsed(
    tmp_path: Path, started: list[ServerProcess]
) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    launch = Launch(
        "test", "odd", (str(odd), "-c", SLEEPER), str(tmp_path), {}, str(tmp_path / "log")
    )
    server = process.spawn(launch)
    started.append(server)
    _wait(tmp_path, server)
    assert server.started.split("/")[1].isdigit()
    assert server.is_alive()


def test_tail_of_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert readiness.tail(tmp_path / "none") == []


def test_tail_keeps_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n\n" for n in range(10_000)))
    assert readiness.tail(log, 3) == ["line 9997", "line 9998", "line 9999"]


def test_free_ports_are_distinct_and_free() -> None:
    from vbackup.sandbox.loopback import HOST, free_ports

    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as probe:
            probe.bind((HOST, port))
