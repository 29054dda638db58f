"""Writers, a backup every period, prune and verify between, and everything killed in turn.

`make soak MINUTES=30` has a backup a minute; the usual test run does the same in about two
minutes with a backup every ten seconds. SOAK_SEED decides what is killed when.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from vbackup.demo.oracle import compare
from vbackup.errors import EXIT_CODES

MINUTES = float(os.environ.get("SOAK_MINUTES", "0"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.torture,
    pytest.mark.timeout(900 + 120 * MINUTES),
]

Row = tuple[str, float, float | None, int | None]
GROWTH_KIB = 12 * 1024
"""What the daemon may grow while it runs: Python's arenas, not a leak (a page view is 2 MiB)."""

FAILURES = r'^vbackup_failures_total\{kind="([^"]+)",task="(\w+)"\} (\S+)'
STARTS_WITHIN = 20.0
"""Seconds: a due job waits for the lease to be confirmed, and storage may be silent."""


def test_soak(soak: Any, writers: Any, record_property: Any) -> None:
    soak.start()
    disturb(soak)
    come_to_rest(soak)
    metrics_are_true(soak)
    no_zombies(soak.daemon.pid)
    assert soak.stop() == 0
    writers.rest()

    runs, skipped = history(soak)
    no_job_is_lost(soak, runs, skipped)
    nothing_is_left(soak)
    memory_is_flat(soak)
    every_backup_is_good(soak)

    kinds = Counter(f"{job} {outcome(code)}" for job, _, _, code in runs)
    report = {
        "seed": soak.seed,
        "runs": dict(sorted(kinds.items())),
        "skipped": len(skipped),
        "trouble": dict(Counter(each.split(" for ")[0] for each in soak.done)),
        "writes": sum(clerk.writes for clerk in writers.clerks),
        "outages": sum(clerk.outages for clerk in writers.clerks),
        "daemon_rss_kib": [(each[0], max(each)) for each in soak.memory if each],
    }
    record_property("soak", report)
    print(report)  # noqa: T201 - what was measured


# ---------------------------------------------------------------- the trouble


def disturb(soak: Any) -> None:
    """All kinds of trouble in turn, in a seeded order, at seeded instants."""
    kinds = [
        soak.kill_postgres,
        soak.kill_qdrant,
        soak.stop_storage,
        soak.kill_daemon,
        soak.restart_daemon,
        soak.reload_daemon,
    ]
    end = time.monotonic() + soak.seconds
    pause = soak.period * 0.8
    while True:
        soak.rng.shuffle(kinds)
        for kind in kinds:
            wait = soak.rng.uniform(0.2 * pause, pause)
            while wait > 0:
                threading.Event().wait(min(wait, 5.0))
                wait -= 5.0
                soak.sample()
            if soak.rng.random() < 0.5:
                wait_for_a_backup(soak)
            kind()
        if time.monotonic() > end:
            return


def wait_for_a_backup(soak: Any) -> None:
    """Half of the trouble meets a backup somewhere in its middle."""

    def running() -> bool:
        runs, _ = history(soak)
        return any(job == "backup" and end is None for job, _, end, _ in runs)

    soak.until(running, 60 + 2 * soak.period, "no backup started")
    threading.Event().wait(soak.rng.uniform(0.0, 3.0))


def come_to_rest(soak: Any) -> None:
    """Nothing is killed any more: a good backup must come soon."""
    quiet = time.time()

    def good() -> bool:
        soak.get("/")
        runs, _ = history(soak)
        return any(job == "backup" and code == 0 and at > quiet for job, at, _, code in runs)

    soak.until(good, 120 + 2 * soak.period, "no good backup after the trouble")


# ---------------------------------------------------------------- what must hold


def metrics_are_true(soak: Any) -> None:
    while True:
        before = history(soak)
        text, read_at = soak.get("/metrics"), time.time()
        if history(soak) == before:
            break
    runs, skipped = before
    failed = Counter((job, outcome(code)) for job, _, end, code in runs if end and code != 0)
    said = re.findall(
        r'^vbackup_failures_total\{kind="([^"]+)",task="(\w+)"\} (\S+)', text, re.MULTILINE
    )
    assert {(job, kind): int(float(count)) for kind, job, count in said} == failed
    skips = re.findall(r'^vbackup_skipped_total\{task="(\w+)"\} (\S+)', text, re.MULTILINE)
    counted = Counter(job for job, _ in skipped)
    assert {job: int(float(count)) for job, count in skips if float(count)} == counted
    running = re.findall(r'^vbackup_job_running\{task="(\w+)"\} 1', text, re.MULTILINE)
    assert set(running) == {job for job, _, end, _ in runs if end is None}

    watermarks = watermark_of(text)
    code, shown = soak.run("show", "latest")
    assert code == 0
    newest = datetime.fromisoformat(shown["watermark"]["at"]).timestamp()
    # Between the two looks another backup may have ended.
    assert newest in watermarks | watermark_of(soak.get("/metrics"))
    age = re.search(r"^vbackup_rpo_seconds (\S+)", text, re.MULTILINE)
    assert age
    assert abs(read_at - float(age[1]) - max(watermarks)) < 5


def watermark_of(metrics: str) -> set[float]:
    found = re.findall(r"^vbackup_watermark_timestamp_seconds (\S+)", metrics, re.MULTILINE)
    return {float(value) for value in found}


def no_job_is_lost(soak: Any, runs: list[Row], skipped: list[tuple[str, float]]) -> None:
    """Every due time that the daemon was there for has a run, or a note that it was skipped."""
    assert all(end is not None for _, _, end, _ in runs), "a run is open for ever"
    seen = [at for job, at, _, _ in runs if job == "backup"]
    seen += [at for job, at in skipped if job == "backup"]
    lost = [
        due
        for start, end in soak.up
        for due in range(first_after(start, soak.period), int(end - STARTS_WITHIN), soak.period)
        if not any(due - 1 <= at <= due + STARTS_WITHIN for at in seen)
    ]
    assert not lost, f"no run and no signal at {lost}"
    cut_off = sum(code is None for _, _, _, code in runs)
    killed = sum("killed the daemon" in each for each in soak.done)
    assert cut_off <= 2 * killed, "runs were cut off that nobody killed"
    # Nobody ever met the lease of a run that was over.
    assert not [job for job, _, _, code in runs if job == "backup" and code == 6]


def first_after(moment: float, period: int) -> int:
    return (int(moment) // period + 1) * period


def every_backup_is_good(soak: Any) -> None:
    code, listed = soak.run("list")
    assert code == 0
    assert listed["backups"]
    for backup in listed["backups"]:
        code, verified = soak.run("verify", backup["id"], "--level", "chunks")
        assert (code, verified["ok"]) == (0, True), verified
    names = ("--database", "soak_back", "--collection-suffix", "_back", "--force")
    code, restored = soak.run("restore", "latest", *names)
    assert code == 0, restored
    assert restored["reconcile"]["clean"]
    with soak.app.store.sibling("soak_back") as store:
        found = compare(soak.sandbox.postgres.dsn("soak_back"), store, soak.app.scenario)
    assert found.wrong == set()
    live = compare(soak.app.dsn, soak.app.store, soak.app.scenario)
    assert not live.wrong, "the simulator itself went wrong"
    assert not live.unfinished, "the simulator itself went wrong"
    assert found.live > 0


def nothing_is_left(soak: Any) -> None:
    left = [path.name for path in (soak.directory / "tmp").iterdir()]
    assert left == []
    assert marked(soak.seed) == []
    with psycopg.connect(soak.sandbox.postgres.admin_dsn) as connection:
        slots = connection.execute("SELECT slot_name FROM pg_replication_slots").fetchall()
    assert slots == []


def memory_is_flat(soak: Any) -> None:
    grown = [max(each) - each[0] for each in soak.memory if each]
    assert max(grown) < GROWTH_KIB, soak.memory


# ---------------------------------------------------------------- looking


def outcome(code: int | None) -> str:
    return "cut off" if code is None else EXIT_CODES.get(code, (f"signal {code - 128}", ""))[0]


def history(soak: Any) -> tuple[list[Row], list[tuple[str, float]]]:
    with closing(sqlite3.connect(soak.directory / "state/history.sqlite", timeout=30)) as db:
        runs = db.execute("SELECT job, started, ended, code FROM run ORDER BY id").fetchall()
        return runs, db.execute("SELECT job, at FROM skip").fetchall()


def no_zombies(parent: int) -> None:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "stat").exists():
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.append(entry.name)
    assert found == []


def marked(seed: int) -> list[str]:
    """Processes that the soak's commands started and that are still there."""
    wanted = f"VBACKUP_SOAK={seed}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found
