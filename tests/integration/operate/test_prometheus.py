"""A real Prometheus scrapes what the daemon serves; dashboard and alerts find their series."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml

from vbackup.config import ObjectiveConfig, ScheduleConfig
from vbackup.operate.history import History
from vbackup.operate.metrics import exposition
from vbackup.operate.status import read_status
from vbackup.sandbox.loopback import free_ports, request

pytestmark = pytest.mark.integration
MONITORING = Path(__file__).parents[3] / "deploy/monitoring"
SCRAPED = "scraped by"

Query = Callable[[str], list[dict[str, str]]]


def program() -> str:
    found = shutil.which("prometheus")
    if found is None:
        reason = "prometheus is not here (Debian's package prometheus)"
        if os.environ.get("VBACKUP_TEST_IN_CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def history(path: Path) -> History:
    """Backups, a drill, a reconcile that found drift, and failures."""
    found = History(path)
    now = datetime.now(UTC)
    link = {"name": "docs", "rows": 9, "points": 9, "orphans": 2, "missing": 0}
    facts = {"bytes_read": 10, "bytes_uploaded": 5, "writers_paused_ms": 3, "patch": {"reembed": 1}}
    watermark = {"watermark": {"at": (now - timedelta(hours=1)).isoformat()}}
    for job, code in (("drill", 0), ("backup", 0), ("prune", 1), ("reconcile", 3)):
        run = found.begin(job, now - timedelta(hours=1))  # type: ignore[arg-type] # literals
        ended = {"links": [link], "rto_seconds": 3.0, **facts, **watermark}
        found.end(run, now - timedelta(minutes=50), code, ended)
    return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """The port on which the metrics are."""
    runs = history(tmp_path / "history.sqlite")

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            status = read_status(runs, ScheduleConfig(), ObjectiveConfig(), datetime.now(UTC))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(exposition(lambda: status))

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def query(served: int, tmp_path: Path) -> Iterator[Query]:
    """Asks a Prometheus that has scraped at least twice; returns the labels of what it finds."""
    (port,) = free_ports(1)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": [
            {"job_name": SCRAPED, "static_configs": [{"targets": [f"127.0.0.1:{served}"]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (tmp_path / "prometheus.log").open("wb") as log:
        server = subprocess.Popen(
            [
                program(),
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/tsdb",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )

    def ask(expression: str) -> list[dict[str, str]]:
        url = f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': expression})}"
        status, body = request(url, timeout=10)
        found = json.loads(body)["data"]["result"] if status == 200 else []
        return [each["metric"] for each in found]

    try:
        deadline, tick = time.monotonic() + 60, threading.Event()
        while not (ask("count_over_time(vbackup_info[1m]) > 1") and ask("ALERTS")):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail((tmp_path / "prometheus.log").read_text()[-3000:])
            tick.wait(0.2)
        yield ask
    finally:
        server.terminate()
        server.wait(timeout=30)


def panels() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_panel_and_every_alert_finds_its_series(query: Query) -> None:
    empty = [expression for expression in panels() if not query(expression)]
    assert empty == []
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        # Without the comparison: what it looks at, whether it should fire now or not.
        looked_at = re.split(r" (?:>|!=) ", rule["expr"])[0].removeprefix("absent(").rstrip(")")
        if "unless" in looked_at:
            looked_at = looked_at.split(" unless ")[0]
        if looked_at.count("(") > looked_at.count(")"):
            looked_at += ")"
        assert query(looked_at), rule["alert"]


def test_scraping_renames_none_of_our_labels(query: Query) -> None:
    """Prometheus moves a scraped `job` out of the way of its own, to `exported_job`."""
    series = query('{__name__=~"vbackup_.+"}')
    assert {each["job"] for each in series} == {SCRAPED}
    assert [each for each in series if any(name.startswith("exported_") for name in each)] == []
    assert query('vbackup_last_success_timestamp_seconds{task="drill"}')


def test_the_failed_job_is_pending_under_its_name(query: Query) -> None:
    (pending,) = query('ALERTS{alertname="VbackupJobFailed",task="prune"}')
    assert pending["alertstate"] == "pending"
