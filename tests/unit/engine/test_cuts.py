"""Shard streams that fail: which are asked for again, and what a follower is told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults import ManualClock
from vbackup.engine.cuts import CUT_TRIES, ShardCuts, ShardLost, broken, follow
from vbackup.errors import Failed, NotFound, Unreachable
from vbackup.ports import ShardRef, ShardSpool

SHARD = ShardRef("docs", 0, None, "http://q")
FULL = Failed("cannot write the spool file: No space left on device", hint="set work_dir")


def cuts(tmp_path: Path, error: Exception) -> tuple[ShardCuts, list[Path]]:
    """One shard whose every stream fails, and the folders it was asked for in."""
    asked: list[Path] = []

    def spool(shard: ShardRef, directory: Path) -> ShardSpool:
        asked.append(directory)
        failed = ShardSpool(shard, directory / "shard.tar", datetime.now(UTC))
        failed.error = error
        failed.done.set()
        return failed

    return ShardCuts(spool, [SHARD], tmp_path, ManualClock()), asked


@pytest.mark.parametrize(
    ("error", "raised", "tries"),
    [
        (Unreachable("reset"), Unreachable, CUT_TRIES),
        (FULL, Failed, 1),
        (NotFound("collection docs is gone"), ShardLost, 1),
    ],
    ids=["reset", "disk full", "dropped"],
)
def test_only_what_may_pass_is_asked_for_again(
    tmp_path: Path, error: Exception, raised: type[Exception], tries: int
) -> None:
    found, asked = cuts(tmp_path, error)
    found.request()
    with pytest.raises(raised, match=str(error)) as caught:
        found.wait_cut()
    assert type(caught.value) is raised
    assert len(asked) == tries


def test_a_follower_hears_why_there_is_no_file(tmp_path: Path) -> None:
    """A stream that fails takes its file away, perhaps before anybody has opened it."""
    found, _ = cuts(tmp_path, FULL)
    found.request()
    with pytest.raises(Failed) as caught:
        list(follow(found.spools[0]))
    assert caught.value is FULL
    assert broken(FULL) is FULL
    assert isinstance(broken(Unreachable("reset")), ShardLost)
