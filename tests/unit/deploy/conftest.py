"""Other people's checkers: systemd-analyze, promtool, shellcheck."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

Checker = Callable[..., subprocess.CompletedProcess[str]]
_PACKAGES = {"systemd-analyze": "systemd", "promtool": "prometheus", "shellcheck": "shellcheck"}


@pytest.fixture
def checker() -> Checker:
    """`checker("promtool", "check", …)`; a program that is not here skips, in CI it fails."""

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        found = shutil.which(program)
        if found is None:
            reason = f"{program} is not here (Debian's package {_PACKAGES[program]})"
            if os.environ.get("VBACKUP_TEST_IN_CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        command = [found, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run
