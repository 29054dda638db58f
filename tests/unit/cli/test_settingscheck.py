"""What `check` says of a configuration before it asks a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbackup.cli.linkcheck import Attention
from vbackup.cli.settingscheck import guarded, scheduled
from vbackup.config import ScheduleConfig
from vbackup.errors import Usage
from vbackup.settings import load

BASE = """
[postgres]
dsn = "dbname=app"
[qdrant]
[repository]
url = "file:///srv/backups"
"""


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (ScheduleConfig(backup="61 * * * *"), "schedule.backup"),
        (ScheduleConfig(prune="daily"), "schedule.prune"),
        (ScheduleConfig(timezone="Mars/Olympus"), "Mars/Olympus"),
        (ScheduleConfig(listen="everywhere"), "everywhere"),
    ],
)
def test_what_the_daemon_would_not_start_with(schedule: ScheduleConfig, said: str) -> None:
    with pytest.raises(Usage, match=said):
        scheduled(schedule)


def test_a_schedule_that_holds() -> None:
    asked = ScheduleConfig(backup="15 * * * *", prune="0 5 * * 0", timezone="Europe/Berlin")
    assert scheduled(asked) == "backup 15 * * * *, prune 0 5 * * 0"


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_passphrase_of_ones_own(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "passphrase"
    file.write_text("secret", encoding="utf-8")
    file.chmod(mode)
    config = tmp_path / "vbackup.toml"
    config.write_text(f'{BASE}passphrase_file = "{file}"\n', encoding="utf-8")
    config.chmod(0o644)
    assert guarded(load(config))


def test_secrets_that_everybody_may_read(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("secret", encoding="utf-8")
    file.chmod(0o644)
    config = tmp_path / "vbackup.toml"
    config.write_text(f'{BASE}passphrase_file = "{file}"\n', encoding="utf-8")
    with pytest.raises(Attention, match="passphrase") as caught:
        guarded(load(config))
    assert caught.value.advice == f"chmod 600 {file}"
    config.write_text(f'{BASE}passphrase = "very secret"\n', encoding="utf-8")
    config.chmod(0o644)
    with pytest.raises(Attention, match=r"vbackup\.toml"):
        guarded(load(config))
