"""Status, metrics, page: one truth, three forms."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from vbackup.config import ObjectiveConfig, ScheduleConfig
from vbackup.errors import Failed, Usage
from vbackup.operate.history import KEPT, History
from vbackup.operate.metrics import exposition, write_textfile
from vbackup.operate.page import render
from vbackup.operate.status import Status, read_status
from vbackup.operate.web import StatusServer, split_listen

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SCHEDULE = ScheduleConfig(backup="0 * * * *", drill="0 4 * * 0")


def ran(history: History, job: Any, ago: timedelta, code: int, **document: Any) -> None:
    at = NOW - ago
    history.end(history.begin(job, at), at + timedelta(seconds=90), code, document)


def backup(history: History, ago: timedelta, code: int = 0, **more: Any) -> None:
    mark = {"at": (NOW - ago).isoformat()}
    numbers = {"bytes_read": 5_000_000, "bytes_uploaded": 20_000, "writers_paused_ms": 0}
    ran(
        history,
        "backup",
        ago,
        code,
        id="20260304T110000Z-abc123",
        watermark=mark,
        **numbers,
        **more,
    )


class Site:
    """What is served; a test may break it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.error: Exception | None = None
        self.works = True

    def status(self) -> Status:
        if self.error:
            raise self.error
        return status(self.history)

    def page(self) -> str:
        return render(self.status(), self.history.runs(NOW - timedelta(weeks=6)), title="x")

    def working(self) -> bool:
        return self.works


def status(history: History) -> Status:
    return read_status(history, SCHEDULE, ObjectiveConfig(), NOW)


@pytest.fixture
def good(history: History) -> History:
    backup(history, timedelta(hours=1), patch={"reembed": 4})
    ran(history, "drill", timedelta(days=2), 0, rto_seconds=77.5)
    link = {"name": "docs", "rows": 1200, "points": 1200, "missing": 0, "orphans": 0}
    ran(history, "reconcile", timedelta(hours=3), 0, links=[link])
    return history


def test_a_pair_is_protected_when_every_objective_is_met(good: History) -> None:
    found = status(good)
    assert found.protected
    assert found.rpo_seconds == 3600
    assert found.rto_seconds == 77.5


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda h: None, ""),
        (lambda h: backup(h, timedelta(minutes=5), 1), "the last backup failed: failed"),
        (
            lambda h: ran(h, "reconcile", timedelta(0), 3, links=[{"name": "docs", "stale": 2}]),
            "link docs has drift",
        ),
        (lambda h: ran(h, "drill", timedelta(0), 4), "the last drill failed: refused"),
    ],
)
def test_what_is_wrong_is_said(good: History, spoil: Any, problem: str) -> None:
    spoil(good)
    assert (problem in status(good).problems) is bool(problem)


def test_nothing_at_all_is_not_protected(history: History) -> None:
    problems = status(history).problems
    assert "there is no good backup yet" in problems
    assert "no drill has passed for longer than the objective" in problems


def test_an_old_backup_is_not_protection(history: History) -> None:
    backup(history, timedelta(hours=27))
    assert "the newest good backup is older than the objective" in status(history).problems


def test_runs_cut_off_by_a_crash_are_closed_and_counted(history: History, tmp_path: Path) -> None:
    dead = History(tmp_path / "state" / "history.sqlite", owner="1@0@elsewhere")
    dead.begin("backup", NOW - timedelta(hours=1))
    history.begin("prune", NOW)
    assert [run.outcome for run in history.running()] == ["running", "running"]
    assert history.close_open(NOW) == 1
    assert history.failures() == {("backup", None): 1}
    assert status(history).problems[-1] == "the last backup failed: cut off"
    assert [run.job for run in history.running()] == ["prune"]


def test_history_forgets_what_is_very_old(history: History) -> None:
    ran(history, "prune", KEPT + timedelta(days=1), 0)
    history.begin("prune", NOW)
    assert len(history.runs(NOW - KEPT - timedelta(days=9))) == 1


def test_metrics_say_the_same(good: History, tmp_path: Any) -> None:
    backup(good, timedelta(minutes=9), 6)
    text = exposition(lambda: status(good)).decode()
    for line in (
        "vbackup_protected 0.0",
        "vbackup_rpo_seconds 3600.0",
        "vbackup_rto_seconds 77.5",
        "vbackup_reembed_rows 4.0",
        'vbackup_last_exit_code{task="backup"} 6.0',
        'vbackup_failures_total{kind="locked",task="backup"} 1.0',
        'vbackup_drift{kind="orphans",link="docs"} 0.0',
        "vbackup_backup_new_bytes 20000.0",
    ):
        assert line in text.splitlines()
    write_textfile(tmp_path / "node" / "vbackup.prom", lambda: status(good))
    assert (tmp_path / "node" / "vbackup.prom").read_text() == text


def test_the_page_needs_nothing_from_outside_and_escapes(good: History) -> None:
    ran(good, "prune", timedelta(0), 1, error={"message": "<script>alert(1)</script>"})
    page = render(status(good), good.runs(NOW - timedelta(weeks=6)), title="s3://bucket/<b>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Not protected" in page
    assert "http" not in page.split("</style>")[0].replace("http-equiv", "")
    assert page.count("<rect") > 3


# ---------------------------------------------------------------- the server


@pytest.fixture
def server(good: History, notes: Any) -> Iterator[str]:
    running = StatusServer("127.0.0.1:0", Site(good), notes)
    yield f"http://{running.address}"
    running.close()


@pytest.mark.parametrize(
    ("path", "kind", "content"),
    [
        ("/", "text/html", b"Protected"),
        ("/metrics", "text/plain", b"vbackup_info"),
        ("/healthz", "application/json", b'"protected": true'),
    ],
)
def test_the_server_answers(server: str, path: str, kind: str, content: bytes) -> None:
    with urlopen(server + path, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert content in answer.read()


def test_the_server_is_read_only_and_knows_no_other_page(server: str) -> None:
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{server}/../../etc/passwd", timeout=10)
    with pytest.raises(HTTPError, match="501"):
        urlopen(Request(server, method="POST", data=b"x"), timeout=10)


def test_a_taken_port_is_a_usage_error(server: str, good: History, notes: Any) -> None:
    with pytest.raises(Usage, match="cannot listen"):
        StatusServer(server.removeprefix("http://"), Site(good), notes)


def test_ipv6_is_listened_on(good: History, notes: Any) -> None:
    try:
        running = StatusServer("[::1]:0", Site(good), notes)
    except Usage as error:
        pytest.skip(f"no IPv6 here: {error.message}")
    try:
        with urlopen(f"http://{running.address}/healthz", timeout=10) as answer:
            assert answer.status == 200
    finally:
        running.close()


def test_a_silent_client_keeps_nobody_waiting(server: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(b"GET /metrics HTTP/1.0\r\n")
        with urlopen(f"{server}/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_a_client_that_hangs_up_leaves_no_traceback(
    server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rude.sendall(b"GET / HTTP/1.0\r\n")
    with urlopen(f"{server}/healthz", timeout=10):
        pass
    assert capfd.readouterr().err == ""


def test_a_stuck_daemon_is_unhealthy_and_a_page_says_what_it_lacks(
    good: History, notes: Any
) -> None:
    site = Site(good)
    running = StatusServer("127.0.0.1:0", site, notes)
    try:
        site.works = False
        with pytest.raises(HTTPError, match="503"):
            urlopen(f"http://{running.address}/healthz", timeout=10)
        site.error = Failed("the job history cannot be used")
        with pytest.raises(HTTPError, match="503") as found:
            urlopen(f"http://{running.address}/metrics", timeout=10)
        assert b"history cannot be used" in found.value.read()
        site.error = ZeroDivisionError("a bug")
        with pytest.raises(HTTPError, match="500"):
            urlopen(f"http://{running.address}/", timeout=10)
    finally:
        running.close()
    assert notes.warnings[-1][0] == "a page could not be made"


def test_a_daemon_that_works_is_healthy_without_its_history(good: History, notes: Any) -> None:
    site = Site(good)
    site.error = Failed("the job history cannot be used")
    running = StatusServer("127.0.0.1:0", site, notes)
    try:
        with urlopen(f"http://{running.address}/healthz", timeout=10) as answer:
            found = json.loads(answer.read())
    finally:
        running.close()
    assert found == {
        "ok": True,
        "protected": False,
        "problems": ["the job history cannot be used"],
    }


def test_a_metrics_file_that_cannot_be_written_is_said(good: History, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="metrics file"):
        write_textfile(tmp_path / "file" / "vbackup.prom", lambda: status(good))


def test_a_job_that_runs_for_the_first_time_is_running(history: History) -> None:
    history.begin("backup", NOW)
    lines = exposition(lambda: status(history)).decode().splitlines()
    assert 'vbackup_job_running{task="backup"} 1.0' in lines
    assert 'vbackup_job_running{task="drill"} 0.0' in lines


def test_a_success_of_long_ago_is_remembered(history: History) -> None:
    ran(history, "drill", timedelta(days=90), 0)
    lines = exposition(lambda: status(history)).decode()
    value = lines.split('vbackup_last_success_timestamp_seconds{task="drill"} ')[1].split()[0]
    assert float(value) == (NOW - timedelta(days=90) + timedelta(seconds=90)).timestamp()


def test_a_job_that_did_not_start_is_counted(history: History) -> None:
    history.skip("backup", NOW)
    lines = exposition(lambda: status(history)).decode().splitlines()
    assert 'vbackup_skipped_total{task="backup"} 1.0' in lines
    assert 'vbackup_skipped_total{task="drill"} 0.0' in lines


def test_thousands_of_runs_make_a_page_of_bounded_size(history: History) -> None:
    with history._open() as db:
        db.executemany(
            "INSERT INTO run (job, started, ended, code, document) VALUES (?, ?, ?, 0, ?)",
            [
                ("backup", at, at + 9, json.dumps({"id": "b", "links": ["x" * 500]}))
                for at in (NOW.timestamp() - 60 * back for back in range(20_000))
            ],
        )
    runs = history.runs(NOW - timedelta(weeks=6))
    assert runs[0].document == {"id": "b"}
    assert len(render(status(history), runs, title="x")) < 200_000


@pytest.mark.parametrize("listen", ["9187", "host:", "host:http", "host:99999"])
def test_listen_addresses_are_checked(listen: str) -> None:
    with pytest.raises(Usage, match="not host:port"):
        split_listen(listen)


def test_listen_takes_ipv6_and_all_interfaces() -> None:
    assert split_listen("[::1]:9187") == ("::1", 9187)
    assert split_listen(":9187") == ("0.0.0.0", 9187)
