"""The status page as a browser shows it: content, both schemes, a phone, nothing from outside.

Screenshots are kept where VBACKUP_SCREENSHOTS names a directory.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from vbackup.config import ObjectiveConfig, ScheduleConfig
from vbackup.operate.history import History
from vbackup.operate.page import WEEKS, render
from vbackup.operate.status import read_status

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 4, 12, 20, tzinfo=UTC)
SCHEDULE = ScheduleConfig(
    backup="0 * * * *", verify="30 3 * * *", reconcile="30 5 * * *", prune="0 6 * * *",
    drill="0 4 * * 0",
)  # fmt: skip
PHONE, DESK = 390, 1280
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--virtual-time-budget=8000", "--enable-logging=stderr",
)  # fmt: skip
SCHEMES = {"dark": "0", "light": "1"}

# Measures the page in a frame as wide as the window: what sticks out, the worst contrast of any
# text, and what was asked for from outside.
PROBE = """<!doctype html><style>body{margin:0}iframe{border:0;width:%dpx;height:3000px}</style>
<iframe srcdoc="%s"></iframe><pre id="found"></pre><script>
function linear(v) {
  v /= 255;
  return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
}
function light([r, g, b]) { return .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b); }
function numbers(text) { return (text.match(/[\\d.]+/g) || []).map(Number); }
function behind(view, node) {
  for (let up = node; up; up = up.parentElement) {
    const c = numbers(view.getComputedStyle(up).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c.slice(0, 3);
  }
  return [255, 255, 255];
}
onload = () => {
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  let worst = [99, ""];
  for (const node of page.body.querySelectorAll("*")) {
    const text = [...node.childNodes].filter(n => n.nodeType === 3 && n.data.trim())[0];
    if (!text || node.closest("title")) continue;
    const style = view.getComputedStyle(node);
    const ink = numbers(node.closest("svg") ? style.fill : style.color).slice(0, 3);
    const pair = [light(ink), light(behind(view, node))].sort((a, b) => b - a);
    const ratio = (pair[0] + .05) / (pair[1] + .05);
    if (ratio < worst[0]) worst = [ratio, text.data.trim()];
  }
  const hidden = [...page.querySelectorAll(".scroll")]
    .filter(n => n.scrollWidth > n.clientWidth).length;
  document.getElementById("found").textContent = JSON.stringify({
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    width: view.innerWidth, needs: page.documentElement.scrollWidth, contrast: worst,
    hidden, asked: view.performance.getEntriesByType("resource").map(e => e.name),
    text: page.body.innerText,
  });
};
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine: apt-get install chromium")


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Six weeks of hourly backups, with everything that a page can show."""
    history, rng = History(tmp_path / "history.sqlite"), Random(7)

    def ran(job: Any, ago: timedelta, code: int, **document: Any) -> None:
        at = NOW - ago
        took = timedelta(seconds=rng.uniform(20, 400))
        history.end(history.begin(job, at), at + took, code, document)

    for hours in range(WEEKS * 7 * 24, 0, -3):
        at = timedelta(hours=hours, minutes=20)
        read = 40_000_000_000 - hours * 9_000_000
        numbers = {"bytes_read": read, "bytes_uploaded": int(read * rng.uniform(0.01, 0.2))}
        bad = {
            "error": {"message": "the bucket vbackup is away: no answer from https://s3.example"}
        }
        if hours in range(300, 330):
            ran("backup", at, 1, **bad)
        else:
            mark = {"at": (NOW - at).isoformat()}
            ran("backup", at, 0, id=f"20260304T110000Z-{hours:06x}", watermark=mark, **numbers)
    for days in range(WEEKS * 7, 0, -1):
        ran("verify", timedelta(days=days), 3 if days == 9 else 0)
        ran("prune", timedelta(days=days, hours=2), 0)
    link = {"name": "documents-of-a-tenant", "rows": 1_204_331, "points": 1_204_330, "missing": 1}
    chunks = {"name": "chunks", "rows": 48_112_904, "points": 48_112_904}
    ran("reconcile", timedelta(hours=7), 3, links=[link, chunks])
    ran("drill", timedelta(days=3), 0, rto_seconds=1_834.0)
    history.begin("verify", NOW - timedelta(minutes=4))
    status = read_status(history, SCHEDULE, ObjectiveConfig(), NOW)
    runs = history.runs(NOW - timedelta(weeks=WEEKS))
    return render(status, runs, title="s3://company-backups/production/search")


def browse(chromium: str, profile: Path, url: str, scheme: str, *more: str) -> tuple[str, str]:
    """Standard output and error."""
    ended = subprocess.run(
        [
            chromium,
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            *more,
            url,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return ended.stdout, ended.stderr


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_in_a_browser(
    chromium: str, page: str, tmp_path: Path, scheme: str, width: int
) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE % (width, html.escape(page)), encoding="utf-8")

    dom, said = browse(chromium, tmp_path / "profile", probe.as_uri(), scheme, "--dump-dom")

    found = json.loads(html.unescape(re.findall(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[0]))
    assert found["dark"] is (scheme == "dark")
    assert found["width"] == width
    assert found["needs"] <= width, "the page is wider than its window"
    assert found["contrast"][0] >= 4.5, found["contrast"]
    assert found["hidden"] == 0, "a table must be scrolled to be read"
    assert found["asked"] == []
    assert "CONSOLE" not in said
    for words in ("Not protected", "link documents-of-a-tenant has drift", "1 missing", "verify"):
        assert words in found["text"]
    keep(chromium, page, tmp_path, f"{scheme}-{width}", scheme, width)


def keep(chromium: str, page: str, tmp_path: Path, name: str, scheme: str, width: int) -> None:
    """A picture for people."""
    place = os.environ.get("VBACKUP_SCREENSHOTS")
    if not place:
        return
    file = tmp_path / "page.html"
    # A window is never narrower than 500 pixels: a phone is a frame in it.
    frame = f'<body style="margin:0"><iframe style="border:0;width:{width}px;height:2200px"'
    file.write_text(f'{frame} srcdoc="{html.escape(page)}"></iframe>', encoding="utf-8")
    shot = (Path(place) / f"{name}.png").absolute()
    size = f"--window-size={max(width, 500)},2200"
    browse(chromium, tmp_path / "profile", file.as_uri(), scheme, f"--screenshot={shot}", size)
    assert shot.stat().st_size > 10_000
