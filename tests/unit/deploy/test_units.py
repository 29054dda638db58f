"""The systemd units, as systemd itself reads them; the crontab, as a crontab library does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.unit.deploy.conftest import Checker
from vbackup.cli.session import Session

DEPLOY = Path(__file__).parents[3] / "deploy"
UNITS = ("vbackup.service", "vbackup-backup.service", "vbackup-backup.timer")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy whose program is here: systemd complains about one that is not."""
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/vbackup/bin/vbackup", sys.executable))
    return tmp_path


def test_systemd_finds_nothing_to_complain_about(units: Path, checker: Checker) -> None:
    done = checker("systemd-analyze", "verify", "--man=no", *(units / name for name in UNITS))
    complaints = [line for line in done.stderr.splitlines() if "vbackup" in line]
    assert (done.returncode, complaints) == (0, [])


def test_a_misspelt_key_would_be_found(units: Path, checker: Checker) -> None:
    unit = units / "vbackup.service"
    unit.write_text(unit.read_text().replace("KillMode=", "KilMode="))
    assert "KilMode" in checker("systemd-analyze", "verify", "--man=no", unit).stderr


@pytest.mark.parametrize("name", ["vbackup.service", "vbackup-backup.service"])
def test_services_are_confined(name: str, units: Path, checker: Checker) -> None:
    """The scale of `systemd-analyze security`: 10 is no confinement at all, OK ends at 5."""
    done = checker("systemd-analyze", "security", "--offline=true", units / name)
    exposure = re.search(r"Overall exposure level .*: ([\d.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure.group(1)) < 3.0


def test_the_timer_runs_hourly(checker: Checker) -> None:
    text = (DEPLOY / "systemd/vbackup-backup.timer").read_text()
    when = re.search(r"^OnCalendar=(.+)$", text, re.MULTILINE)
    assert when
    done = checker("systemd-analyze", "calendar", "--iterations=3", when.group(1))
    assert done.returncode == 0, done.stderr
    assert re.findall(r"\d\d:(\d\d):00 UTC", done.stdout)[:3] == ["15", "15", "15"]


def test_the_crontab_is_a_system_crontab() -> None:
    crontab = pytest.importorskip("crontab")
    table = crontab.CronTab(tabfile=str(DEPLOY / "cron/vbackup"), user=False)
    jobs = list(table)
    assert [(job.user, job.is_valid()) for job in jobs] == [("vbackup", True)] * 4
    assert [str(job.slices) for job in jobs] == [
        "15 * * * *",
        "40 3 * * *",
        "30 4 * * 0",
        "50 4 * * *",
    ]
    assert table.env["VBACKUP_CONFIG"] == "/etc/vbackup/vbackup.toml"


def test_history_goes_where_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration's own directory is read-only for the service."""
    config = tmp_path / "vbackup.toml"
    config.write_text(
        '[postgres]\ndsn = "dbname=a"\n[qdrant]\nurl = "http://q:6333"\n'
        '[repository]\nurl = "file:///r"\nencryption = "none"\n'
    )
    session = Session()
    session.config_path = config
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert session.state_directory == tmp_path / "vbackup-state"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/vbackup:/var/lib/other")
    assert session.state_directory == Path("/var/lib/vbackup")
    config.write_text(config.read_text() + '[schedule]\nstate_dir = "/srv/state"\n')
    session.reload()
    assert session.state_directory == Path("/srv/state")
