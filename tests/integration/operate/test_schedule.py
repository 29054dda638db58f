"""The daemon and `--once` on real servers: started, watched and stopped as operators do it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytestmark = pytest.mark.integration

EVERY_SECOND, NEVER = "* * * * * *", "0 0 1 1 *"


def test_the_daemon_runs_what_is_due_and_shows_it(operated: Any, tmp_path: Path) -> None:
    prom = tmp_path / "node" / "vbackup.prom"
    note = f'echo "$VBACKUP_HOOK $VBACKUP_JOB $VBACKUP_OUTCOME $VBACKUP_ID" >> {tmp_path}/told'
    operated.configure(
        f'backup = "{EVERY_SECOND}"\nreconcile = "{EVERY_SECOND}"\ntextfile = "{prom}"',
        f"[hooks]\nbefore = '''{note}'''\nafter = '''{note}'''",
    )
    daemon = operated.daemon()
    operated.until(lambda: {("backup", 0), ("reconcile", 0)} <= set(operated.history()))

    metrics = operated.get("/metrics")
    assert 'vbackup_last_exit_code{task="backup"} 0.0' in metrics
    assert 'vbackup_drift{kind="missing",link="documents"} 0.0' in metrics
    assert json.loads(operated.get("/healthz"))["ok"]
    assert "documents" in operated.get("/")

    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(120) == 0
    _, listed = operated.run("list")
    told = (tmp_path / "told").read_text().splitlines()
    assert f"after backup ok {listed['backups'][-1]['id']}" in told
    assert told[0].split()[0] == "before"
    assert "vbackup_rpo_seconds" in prom.read_text()
    page = tmp_path / "report.html"
    code, report = operated.run("report", "--html", str(page))
    assert (code, report["path"]) == (0, str(page))
    assert listed["backups"][0]["id"] in page.read_text()


def test_a_second_daemon_ends_with_locked(operated: Any) -> None:
    operated.configure(f'backup = "{NEVER}"')
    operated.daemon()
    second = operated.config.with_name("second.toml")
    other = operated.config.read_text().replace(f"127.0.0.1:{operated.port}", "127.0.0.1:0")
    second.write_text(other)
    code = operated.begin("--config", str(second), "schedule").wait(120)
    assert code == 6
    assert "scheduler lease held by pid" in operated.log()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_backup_that_a_stop_interrupts_is_taken_again(operated: Any, ending: int) -> None:
    """A lock keeps the dump waiting, so that the backup is surely in the middle."""
    operated.configure(f'backup = "{EVERY_SECOND}"\nstop_grace = "0s"')
    with psycopg.connect(operated.dsn) as blocker:
        blocker.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
        daemon = operated.daemon()
        operated.until(lambda: waits_for_the_lock(operated.dsn))
        (job,) = children(daemon.pid)
        daemon.send_signal(ending)
        code = daemon.wait(120)
        operated.until(lambda: not Path(f"/proc/{job}").exists())
    assert code == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
    _, listed = operated.run("list")
    assert listed["backups"] == []

    operated.configure(f'backup = "{NEVER}"')
    operated.daemon()
    operated.until(lambda: operated.history()[-1:] == [("backup", 0)])
    assert operated.history() == [
        ("backup", 130 if ending == signal.SIGTERM else None),
        ("backup", 0),
    ]
    kind = "interrupted" if ending == signal.SIGTERM else "cut off"
    assert f'vbackup_failures_total{{kind="{kind}",task="backup"}} 1.0' in operated.get("/metrics")


def test_a_reload_takes_the_new_schedule(operated: Any) -> None:
    operated.configure(f'backup = "{NEVER}"')
    daemon = operated.daemon()
    operated.configure("backup = 7")
    daemon.send_signal(signal.SIGHUP)
    operated.until(lambda: "the old configuration stays" in operated.log())
    operated.configure(f'backup = "{NEVER}"\nprune = "{EVERY_SECOND}"')
    daemon.send_signal(signal.SIGHUP)
    operated.until(lambda: ("prune", 0) in operated.history())


def test_a_repository_that_is_away_fails_jobs_and_not_the_daemon(
    operated: Any, tmp_path: Path
) -> None:
    operated.configure(f'verify = "{EVERY_SECOND}"')
    repository = tmp_path / "repository"
    operated.daemon()
    repository.rename(tmp_path / "away")
    operated.until(lambda: any(code == 5 for _, code in operated.history()))
    assert json.loads(operated.get("/healthz")) == {
        "ok": True,
        "protected": False,
        "problems": ["there is no good backup yet", "the last verify failed: not-found"],
    }


def test_once_ends_as_its_job_does(operated: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    # Neither a metrics file nor a listener that is not there changes how a backup ended.
    operated.configure(
        f'textfile = "{file}/vbackup.prom"',
        '[notify]\non = "always"\nwebhook = "http://127.0.0.1:9/x"',
    )
    code, done = operated.run("schedule", "--once", "backup")
    assert (code, done["outcome"]) == (0, "ok")
    assert done["result"]["id"]
    with psycopg.connect(operated.dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM documents WHERE id = 1")
    code, done = operated.run("schedule", "--once", "reconcile")
    assert (code, done["outcome"]) == (3, "findings")
    assert done["result"]["links"][0]["orphans"] == 1
    assert operated.history() == [("backup", 0), ("reconcile", 3)]


def test_once_that_is_told_to_stop_stops_its_job(operated: Any) -> None:
    with psycopg.connect(operated.dsn) as blocker:
        blocker.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
        once = operated.begin("schedule", "--once", "backup")
        operated.until(lambda: waits_for_the_lock(operated.dsn))
        once.send_signal(signal.SIGTERM)
        assert once.wait(120) == 130
    assert operated.history() == [("backup", 130)]
    _, listed = operated.run("list")
    assert listed["backups"] == []


def waits_for_the_lock(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
    return found is not None and found[0] > 0


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - of one process
        found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found
