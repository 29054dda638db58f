"""Shard streams that fail: which are asked for again, and what a follower is told."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults import ManualClock
from vbackup.engine.cuts import CUT_TRIES, ShardCuts, ShardLost, broken, follow
from vbackup.engine.switch import Switch
from vbackup.errors import Failed, NotFound, Unreachable
from vbackup.ports import CollectionFacts, PointStoreFacts, ShardRef, ShardSpool
from vbackup.progress import SilentReporter

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


def test_one_broken_stream_is_not_waited_for_others(tmp_path: Path) -> None:
    """The others may take hours, for an attempt that is thrown away."""
    found, _ = cuts(tmp_path, Unreachable("reset"))
    found.request()
    found.spools.insert(0, ShardSpool(SHARD, tmp_path / "endless.tar", datetime.now(UTC)))
    with pytest.raises(ShardLost, match="reset"):
        found.await_whole()


def running(tmp_path: Path) -> tuple[ShardSpool, list[str]]:
    """A stream that has cut and has no end, and when it was stopped."""
    path = tmp_path / "running.tar"
    path.write_bytes(b"x")
    spool, stopped = ShardSpool(SHARD, path, datetime.now(UTC)), list[str]()

    def stop() -> None:
        stopped.append(spool.ref.collection)
        spool.done.set()

    spool.stop = stop
    spool.cut.set()
    return spool, stopped


def test_streams_that_are_thrown_away_are_stopped(tmp_path: Path) -> None:
    spool, stopped = running(tmp_path)
    found = ShardCuts(lambda *_: spool, [SHARD], tmp_path, ManualClock())
    with closing(found):
        found.request()
        found.wait_cut()
        assert not stopped
    assert stopped == ["docs"]
    found.close()
    assert stopped == ["docs"]


class Points:
    """A live collection of two shards, whose first stream breaks."""

    def __init__(self, *spools: ShardSpool) -> None:
        self.spools = list(spools)

    def reader(self) -> Points:
        return self

    def facts(self, names: list[str]) -> PointStoreFacts:
        docs = CollectionFacts("docs", {}, {}, (), (SHARD, SHARD), 0)
        return PointStoreFacts("1.17.0", (), (docs,))

    def spool(self, shard: ShardRef, directory: Path) -> ShardSpool:
        return self.spools.pop(0)


def test_a_copy_that_fails_stops_its_streams(tmp_path: Path) -> None:
    broke, _ = running(tmp_path)
    other, stopped = running(tmp_path)
    broke.done.set()
    points: Any = Points(broke, other)
    switch = Switch(None, points, tmp_path, 1.0, SilentReporter(), ManualClock())
    with pytest.raises(Failed, match="spool file holds"):
        switch.copy("docs", "docs_before")
    assert stopped == ["docs"]
