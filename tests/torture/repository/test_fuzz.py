"""Hostile repositories under a limit of address space, in a process of its own.

`make fuzz` looks for longer and by coverage. FUZZ_EXAMPLES and VBACKUP_SEED change what is tried.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[3]
SEED = os.environ.get("VBACKUP_SEED", "20261123")
EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "40")

FOUND = {
    "a huge pack": "0000120000000040",
}
"""What once broke something."""


def fuzz(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.torture.repository.fuzzing", *arguments]
    # Each thread would reserve an arena of its own: address space that nobody uses.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]


def test_nothing_but_our_own_errors_comes_of_a_hostile_repository() -> None:
    fuzz(EXAMPLES, SEED)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_before(name: str) -> None:
    fuzz("hex", FOUND[name])
