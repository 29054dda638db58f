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
    "huge index objects, fetched together": (
        "fc9a8313ae6d1112b9a661b9437603ae1b593c1257b4371a52b27fed5e75bf9df7c2a8f8ad84896d1bba3f513212"
        "cc73790621efb8c7a65e38c580ae9c41caf82a6a0d7f060ca91556436481002d8c728cc118d75c584cf5778ffe60"
        "3d207501e455ec9d46b0860b5570c77925cf785adde8511146513f57eb740146058fe55ebf8589e4c520babf6be0"
        "51e8ac51bb51974bd260fa98b85354a2e609dff036285d1e5be10d646cb01ecac2038a5d27a289b971ef772b4867"
        "976e7457dfe0c1d5aaaf6845a8732668"
    ),
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
