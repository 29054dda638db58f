"""A backup of the simulated pair as a whole: what moves the watermark, what the manifest says."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vbackup.engine.attempt import BackupOptions, Pair
from vbackup.engine.backup import Backup, BackupResult
from vbackup.engine.watermark import WatermarkOptions
from vbackup.errors import Denied, Failed, Interrupted, Refused, VbackupError
from vbackup.model.link import Link
from vbackup.model.manifest import Artifact, DatabaseFacts, Manifest
from vbackup.ports import (
    CollectionFacts,
    DumpStream,
    NoRoom,
    PointStoreFacts,
    ShardRef,
    ShardSpool,
)

LINK = Link("docs", "docs", ())
BLOCKED = Failed("pg_dump failed: LOCK TABLE", retryable=True)


class Writer:
    """Keeps the names of what was stored, and what was published."""

    id = "b1"

    def __init__(self) -> None:
        self.added: list[str] = []

    def add(
        self, name: str, stream: Iterable[bytes], *, step: Any = None, shape: object = None
    ) -> Artifact:
        self.added.append(name)
        return Artifact(name, sum(map(len, stream)), "")

    def publish(self, manifest: Manifest) -> Manifest:
        return manifest

    def abort(self) -> None: ...


class Repository:
    def __init__(self) -> None:
        self.writer = Writer()

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        yield

    def begin(self, backup_id: str) -> Writer:
        return self.writer


class Database:
    """The world's rows, whose dump fails a few times, with somebody waiting or not."""

    client_version = "16.1"

    def __init__(self, records: Any, failures: int = 0, waiting: bool = True) -> None:
        self.records = records
        self.failures = failures
        self.waiting = waiting
        self.points: list[str] = []
        self.followed: list[bool] = []
        self.refuse: Failed | Denied | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.records, name)

    def facts(self) -> DatabaseFacts:
        return DatabaseFacts("app", "16.1", 160001, "1", "UTF8", "C", "C")

    def restore_point(self, name: str) -> str:
        if self.refuse:
            raise self.refuse
        self.points.append(name)
        return "0/99"

    def candidate(self, links: Any) -> Any:
        found = self.records.candidate(links)
        found.dumps = lambda: [DumpStream("main", "main", self._dump)]
        if self.failures:
            asked: Iterator[list[str]] = iter([[]])
            waiting = ["app (pid 1): ALTER TABLE t"] if self.waiting else []
            # Nobody waits yet when the winner is chosen; somebody does when the dump fails.
            found.waiters = lambda: next(asked, waiting)
        return found

    def _dump(self) -> Iterator[bytes]:
        self.followed.append(self.records.following)
        if self.failures:
            self.failures -= 1
            raise BLOCKED
        yield b"rows"


class Streaming:
    """One shard, cut at once, whose stream takes a second more."""

    def __init__(self) -> None:
        self.stopped: list[bool] = []

    def facts(self, patterns: Any) -> PointStoreFacts:
        shards = (ShardRef("docs", 0, None, "http://q"),)
        docs = CollectionFacts("docs", {"params": {}}, {}, (), shards, 0)
        return PointStoreFacts("1.17.0", (), (docs,))

    def spool(self, shard: ShardRef, directory: Path) -> ShardSpool:
        path, number = directory / "shard.tar", len(self.stopped)
        path.write_bytes(b"x")
        spool = ShardSpool(shard, path, datetime.now(UTC), length=1)
        timer = threading.Timer(1.0, spool.done.set)

        def stop() -> None:
            self.stopped[number] = True
            spool.error = Interrupted("stopped")
            spool.done.set()
            timer.cancel()

        spool.stop = stop
        spool.cut.set()
        timer.start()
        self.stopped.append(False)
        return spool


def backup(
    kit: Any, database: Database, reporter: Any, points: Any = None, **options: Any
) -> BackupResult:
    world = database.records.world
    watermark = WatermarkOptions(lead_in=0.1, budget=0.5, tick=0.05, **options)
    records: Any = database
    repository: Any = Repository()
    wanted = BackupOptions(watermark=watermark)
    clock = kit.clock(world)
    return Backup(Pair(records, points), repository, [], [], wanted, reporter, clock).run()


def database(kit: Any, **changes: Any) -> Database:
    return Database(kit.records(kit.world(LINK, 1)), **changes)


def test_a_dump_that_a_schema_change_keeps_out_moves_the_watermark(kit: Any) -> None:
    reporter, blocked = kit.reporter(), database(kit, failures=1)
    manifest = backup(kit, blocked, reporter).manifest
    assert reporter.warnings == ["a dump was blocked: cutting again"]
    assert [one.closed for one in blocked.records.opened] == [True, True]
    assert manifest.watermark.snapshot == blocked.records.opened[1].snapshot
    assert manifest.watermark.timeline == 1
    # A slot would keep the server's log for as long as a dump takes.
    assert blocked.followed == [False, False]


def test_streams_of_an_attempt_that_is_thrown_away_are_stopped(kit: Any) -> None:
    """They would go on loading the servers, and fill the disk with files that are gone."""
    points = Streaming()
    manifest = backup(kit, database(kit, failures=1), kit.reporter(), points).manifest
    assert points.stopped == [True, False]
    assert manifest.qdrant is not None

    points = Streaming()
    with pytest.raises(VbackupError, match="pg_dump failed"):
        backup(kit, database(kit, failures=3), kit.reporter(), points)
    assert points.stopped == [True, True, True]


@pytest.mark.parametrize(("failures", "waiting"), [(1, False), (3, True)])
def test_other_failures_and_endless_ones_end_the_backup(
    kit: Any, failures: int, waiting: bool
) -> None:
    reporter, broken = kit.reporter(), database(kit, failures=failures, waiting=waiting)
    with pytest.raises(Exception, match="pg_dump failed") as found:
        backup(kit, broken, reporter)
    assert getattr(found.value, "retryable", False)
    assert len(reporter.warnings) == failures - 1
    assert all(one.closed for one in broken.records.opened)


def test_a_restore_point_is_made_when_asked_for(kit: Any) -> None:
    asked = database(kit)
    record = backup(kit, asked, kit.reporter(), restore_point=True).manifest.watermark
    assert asked.points == [record.restore_point] == ["vbackup-b1-1"]
    assert record.notes == ("restore point vbackup-b1-1 at 0/99",)
    silent = database(kit)
    assert backup(kit, silent, kit.reporter()).manifest.watermark.restore_point == ""
    assert silent.points == []


@pytest.mark.parametrize("why", [Denied("no EXECUTE"), Failed("wal_level is minimal")])
def test_a_backup_is_as_good_without_its_restore_point(kit: Any, why: Any) -> None:
    refusing, reporter = database(kit), kit.reporter()
    refusing.refuse = why
    record = backup(kit, refusing, reporter, restore_point=True).manifest.watermark
    assert record.restore_point == ""
    assert reporter.warnings == ["no restore point was made"]


def test_without_pg_dump_no_shard_is_stored(kit: Any) -> None:
    """It would show after hours otherwise, when all shards are stored."""
    source = database(kit)
    world = source.records.world
    shard = ShardRef("docs", 0, None, "node")
    points = kit.points(world)
    collection = CollectionFacts("docs", {}, {}, (), (shard,), 0)
    points.facts = lambda patterns: PointStoreFacts("1.17.0", ("node",), (collection,))

    def missing() -> list[DumpStream]:
        raise Refused("no pg_dump found")

    def candidate(links: Any) -> Any:
        found = source.records.candidate(links)
        found.dumps = missing
        return found

    records: Any = source
    records.candidate = candidate
    repository: Any = Repository()
    options = BackupOptions(watermark=WatermarkOptions(lead_in=0.1, budget=0.5, tick=0.05))
    pair, clock = Pair(records, points), kit.clock(world)
    with pytest.raises(Refused, match="no pg_dump"):
        Backup(pair, repository, [], [], options, kit.reporter(), clock).run()
    assert repository.writer.added == []
    assert [one.closed for one in source.records.opened] == [True]


def test_without_room_for_one_candidate_there_is_no_backup(kit: Any) -> None:
    source: Any = database(kit)

    def full(links: Any) -> Any:
        raise NoRoom("out of shared memory")

    source.candidate = full
    with pytest.raises(NoRoom, match="out of shared memory"):
        backup(kit, source, kit.reporter())
