"""The patch while it is being made."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbackup.engine.patchfile import PatchFile
from vbackup.model.patch import Reembed, decode


def line(key: int) -> Reembed:
    return Reembed(link="docs", key=str(key), version="1", tenant=None, reason="drift")


@pytest.fixture
def patch(tmp_path: Path) -> PatchFile:
    return PatchFile(tmp_path / "patch")


def test_lines_are_taken_once_while_new_ones_come(patch: PatchFile) -> None:
    for key in range(3_000):
        patch.add(line(key))
    taken = patch.take_reembeds()
    assert not isinstance(taken, list)  # as many as there are rows: never all in memory
    assert patch.empty
    seen = 0
    for old in taken:
        seen += 1
        if int(old.key) % 2:
            patch.add(old)
    assert (seen, patch.reembeds, patch.reasons) == (3_000, 1_500, {"drift": 1_500})
    again = [one.key for one in patch.take_reembeds()]
    assert again == [str(key) for key in range(1, 3_000, 2)]
    patch.add(line(7))
    assert list(decode(patch.stream())) == [line(7)]
    patch.close()
