"""A job is a command in a process of its own; hooks stand around it."""

from __future__ import annotations

import json
import os
import select
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vbackup import incarnation
from vbackup.config import HooksConfig, ScheduleConfig
from vbackup.errors import Failed
from vbackup.operate.history import History, Run
from vbackup.operate.jobs import JobRunner, arguments

Make = Callable[..., JobRunner]


def test_the_commands_document_and_code_become_the_run(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, history: History, ended: list[Run]
) -> None:
    monkeypatch.setenv("ANSWER", json.dumps({"ok": False, "id": "b1"}))
    monkeypatch.setenv("CODE", "3")

    run = make_runner().run("backup")

    assert (run.code, run.outcome, run.document["id"]) == (3, "findings", "b1")
    assert history.last("backup") == [run]
    assert ended == [run]


def test_the_command_line_is_what_a_person_would_type(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("SEEN", str(seen))

    make_runner(schedule=ScheduleConfig(verify_sample="1/7")).run("verify")

    expected = f"--json --config {tmp_path}/vbackup.toml verify latest --level chunks --sample 1/7"
    assert seen.read_text().strip() == expected
    assert arguments("drill", ScheduleConfig())[-1] == "drill"


def test_a_command_that_prints_no_document_is_described_by_its_last_words(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWER", "Segmentation fault")
    monkeypatch.setenv("COMPLAINT", "first\nout of memory, password=hunter22\n")
    monkeypatch.setenv("CODE", "1")

    run = make_runner().run("backup")

    assert "out of memory" in run.error
    assert "hunter22" not in run.error


def test_hooks_are_told_what_happened(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANSWER", json.dumps({"id": "b7"}))
    note = f'echo "$VBACKUP_HOOK $VBACKUP_JOB $VBACKUP_OUTCOME $VBACKUP_ID" >> {tmp_path}/told'

    make_runner(HooksConfig(before=note, after=note)).run("backup")

    assert (tmp_path / "told").read_text().splitlines() == ["before backup  ", "after backup ok b7"]


def test_a_failing_hook_before_keeps_the_job_from_starting(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))

    run = make_runner(HooksConfig(before="echo no space >&2; exit 9")).run("backup")

    assert run.code == 1
    assert "exit code 9: no space" in run.error
    assert not (tmp_path / "seen").exists()


def test_a_failing_hook_after_is_a_warning(make_runner: Make, notes: Any) -> None:
    run = make_runner(HooksConfig(after="exit 1")).run("backup")
    assert run.ok
    assert notes.warnings[0][0] == "the hook after the job failed"


def test_a_hook_that_hangs_is_ended(make_runner: Make) -> None:
    run = make_runner(HooksConfig(before="exec sleep 600", timeout=0.2)).run("backup")
    assert "longer than 0.2 s" in run.error


def test_a_hook_that_hangs_is_ended_with_what_it_started(make_runner: Make) -> None:
    run = make_runner(HooksConfig(before="sleep 600 | cat", timeout=0.2)).run("backup")
    assert "longer than 0.2 s" in run.error


def test_a_command_ended_by_a_signal_says_so(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDED_BY", "9")
    monkeypatch.setenv("ANSWER", "")
    run = make_runner().run("backup")
    assert (run.code, run.outcome) == (137, "signal 9")
    assert "ended by signal 9" in run.error


def test_a_program_that_cannot_be_started_is_a_failed_run(
    make_runner: Make, history: History
) -> None:
    runner = make_runner()
    runner._program = ("/nowhere/vbackup",)
    run = runner.run("backup")
    assert "/nowhere/vbackup could not be started" in run.error
    assert history.running() == []


def test_what_follows_a_job_never_undoes_it(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, notes: Any
) -> None:
    def broken(_run: Run) -> None:
        raise RuntimeError("a notification plugin with a bug")

    runner = make_runner()
    runner._finished = broken
    assert runner.run("backup").ok
    assert notes.warnings[0][0] == "what follows the job failed"


def test_a_history_that_cannot_be_written_at_the_end_is_a_warning(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, notes: Any, history: History
) -> None:
    def full(*_: object) -> None:
        raise Failed("the disk is full")

    runner = make_runner()
    monkeypatch.setattr(history, "end", full)
    assert runner.run("backup").ok
    monkeypatch.undo()
    assert notes.warnings[0][0] == "the end of the job is not noted"
    # The next run of the job shows that this one is over.
    runner.run("backup")
    assert history.running() == []


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_history_that_cannot_be_used_stops_no_job(
    make_runner: Make,
    monkeypatch: pytest.MonkeyPatch,
    notes: Any,
    history: History,
    ended: list[Run],
    code: str,
) -> None:
    monkeypatch.setenv("CODE", code)
    runner = make_runner()
    history._path.mkdir(parents=True)

    run = runner.run("backup")

    assert run.code == int(code)
    assert "cannot be used" in run.unnoted
    assert ended == [run]
    assert [event for event, _ in notes.warnings if "noted" in event] == [
        "the start of the job is not noted",
        "the end of the job is not noted",
    ]


def test_a_history_that_vanishes_during_a_run_does_not_pass_in_silence(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    begin = history.begin

    def gone_after(job: Any, at: Any) -> int:
        run = begin(job, at)
        history._path.unlink()
        return run

    monkeypatch.setattr(history, "begin", gone_after)
    assert "lost run" in make_runner().run("backup").unnoted


def test_a_history_that_can_be_written_at_the_end_takes_the_whole_run(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, notes: Any, history: History
) -> None:
    begin = history.begin
    tried: list[str] = []

    def full_at_first(job: Any, at: Any) -> int:
        tried.append(job)
        if len(tried) == 1:
            raise Failed("the disk is full")
        return begin(job, at)

    monkeypatch.setattr(history, "begin", full_at_first)
    run = make_runner().run("backup")
    assert not run.unnoted
    assert history.last("backup") == [run]
    assert [event for event, _ in notes.warnings] == ["the start of the job is not noted"]


def test_a_history_that_cannot_be_written_while_the_command_runs_lets_it_run(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, notes: Any, history: History
) -> None:
    def full(*_: object) -> None:
        raise Failed("the disk is full")

    monkeypatch.setattr(history, "working", full)
    run = make_runner().run("backup")
    assert run.ok
    assert history.last("backup") == [run]
    assert notes.warnings[0][0] == "the command is not noted"


def test_jobs_of_which_the_history_knows_nothing_are_stopped_each(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, history: History
) -> None:
    history._path.mkdir(parents=True)
    runner = make_runner()
    runs: list[Run] = []
    threads = []
    tick = threading.Event()
    for job in ("backup", "verify"):
        waiting = tmp_path / f"waiting-{job}"
        monkeypatch.setenv("WAIT", str(waiting))
        threads.append(threading.Thread(target=lambda job=job: runs.append(runner.run(job))))
        threads[-1].start()
        while not waiting.exists():
            tick.wait(0.01)
    runner.stop()
    for thread in threads:
        thread.join()
    assert [run.outcome for run in runs] == ["interrupted", "interrupted"]


def test_the_hook_after_runs_also_when_the_job_was_stopped(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    runner = make_runner(HooksConfig(after=f'echo "$VBACKUP_OUTCOME" > {told}'))
    runner.stop()
    assert runner.run("backup").outcome == "interrupted"
    assert told.read_text() == "interrupted\n"


def test_the_command_is_on_record_while_it_runs(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, history: History
) -> None:
    waiting = tmp_path / "waiting"
    monkeypatch.setenv("WAIT", str(waiting))
    runner = make_runner()
    thread = threading.Thread(target=lambda: runner.run("backup"))
    thread.start()
    tick = threading.Event()
    while not waiting.exists():
        tick.wait(0.01)
    assert history.orphans() == []  # this process watches it
    history._owner = "another"
    with closing(sqlite3.connect(history._path)) as db, db:
        db.execute("UPDATE run SET owner = '1@0@elsewhere'")
    orphans = history.orphans()
    runner.kill()
    thread.join()
    assert len(orphans) == 1
    assert incarnation.pid_if_alive(orphans[0]) is None


def test_a_command_does_not_outlive_its_daemon() -> None:
    """The daemon is a process of its own here: it starts a job and is killed."""
    job = "from vbackup.cli.job import follow; import os, sys, signal; follow(int(sys.argv[1]))"
    job += "; print(os.getpid(), flush=True); signal.pause()"
    daemon = (
        "import subprocess, sys, os, signal;"
        f"subprocess.Popen([sys.executable, '-c', {job!r}, str(os.getpid())]);"
        "signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        handle = os.pidfd_open(pid)
        process.kill()
        ended, _, _ = select.select([handle], [], [], 30)
        os.close(handle)
    assert ended


def test_stopping_ends_the_running_command_as_an_interruption(
    make_runner: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waiting = tmp_path / "waiting"
    monkeypatch.setenv("WAIT", str(waiting))
    runner = make_runner()
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(runner.run("backup")))
    thread.start()
    tick = threading.Event()
    while not waiting.exists():
        tick.wait(0.01)
    assert runner.busy()

    runner.stop()
    thread.join()

    assert runs[0].outcome == "interrupted"
    assert not runner.busy()
    assert runner.run("prune").outcome == "interrupted"
