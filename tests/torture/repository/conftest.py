"""A repository with three backups, and processes to harm it with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.repository.survival import Victims


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    found = Victims()
    yield found
    found.close()


@pytest.fixture
def start(victims: Victims, tmp_path: Path) -> Path:
    """A repository with the backups b0, b1 and b2."""
    root = tmp_path / "start"
    assert victims(root, "create")["ended"] == 0
    for own in range(3):
        assert victims(root, "backup", own=own)["ended"] == 0
    return root
