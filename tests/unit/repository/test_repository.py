"""The facade: what a backup is, from `begin` to `read`, and what a stranger is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from vbackup.errors import AlreadyExists, Damaged, Denied, Failed, Locked, NotFound, Refused, Usage
from vbackup.model.manifest import CheckRecord
from vbackup.repository.blobs import BlobMaker
from vbackup.repository.repository import Repository

Reopen = Callable[[], Repository]


def test_a_backup_reads_back_as_it_was_written(
    repository: Repository, reopen: Reopen, kit: Any
) -> None:
    streams = {"noise": kit.noise(300_000), "text": kit.text(200_000), "one": b"x", "empty": b""}
    written = kit.back_up(repository, "b1", **streams)
    assert kit.contents(reopen(), "b1") == streams
    assert reopen().load("b1") == written
    assert written.statistics.bytes_read == 500_001


def test_a_second_backup_of_the_same_uploads_nothing(
    repository: Repository, reopen: Reopen, kit: Any
) -> None:
    first = kit.back_up(repository, "b1", data=kit.noise(200_000))
    second = kit.back_up(reopen(), "b2", data=kit.noise(200_000))
    assert first.statistics.bytes_uploaded > 200_000
    assert second.statistics.bytes_uploaded == 0
    assert second.statistics.chunks_new == 0


def test_an_insertion_costs_a_few_chunks(repository: Repository, kit: Any) -> None:
    data = kit.noise(400_000)
    kit.back_up(repository, "b1", data=data)
    changed = kit.back_up(repository, "b2", data=data[:100_000] + b"inserted" + data[100_000:])
    assert changed.statistics.bytes_uploaded < 40_000


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_the_stream_may_come_in_any_pieces(repository: Repository, kit: Any, size: int) -> None:
    data = kit.noise(120_000)
    whole = kit.back_up(repository, "whole", data=data).artifacts()[0]
    writer = repository.begin("pieces")
    pieces = writer.add("data", (data[i : i + size] for i in range(0, len(data), size)))
    writer.abort()
    assert pieces == whole


def test_several_streams_at_once(repository: Repository, kit: Any) -> None:
    streams = {f"s{n}": kit.noise(150_000, n) for n in range(6)}
    writer = repository.begin("b1")
    artifacts: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda name=name: artifacts.append(writer.add(name, [streams[name]]))
        )
        for name in streams
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.publish(kit.manifest("b1", artifacts, repository.clock.now()))
    assert kit.contents(repository, "b1") == streams


def test_streams_that_come_at_once_fill_packs_of_their_own(
    repository: Repository, store: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read together lies together: a restore asks for few and long ranges."""
    streams = {"a": kit.noise(300_000, 1), "b": kit.noise(300_000, 2)}
    back_up_abreast(repository, kit, streams)

    packs: dict[str, set[str]] = {}
    asked = kit.counted(store, monkeypatch)
    for artifact in repository.load("b1").artifacts():
        asked.clear()
        assert b"".join(repository.read(artifact)) == streams[artifact.name]
        packs[artifact.name] = set(asked)
        # One request a pack, and a few for the list of chunks.
        assert len(asked) <= len(set(asked)) + 4
    # What was left in both open packs at the end may share one.
    assert len(packs["a"] & packs["b"]) <= 1
    assert len(packs["a"]) >= 9


def test_what_is_left_at_the_end_shares_a_pack(
    repository: Repository, store: Any, kit: Any
) -> None:
    streams = {name: kit.noise(6_000, seed) for seed, name in enumerate("abc")}
    back_up_abreast(repository, kit, streams)
    assert len(store.names("packs/")) == 1
    assert kit.contents(repository, "b1") == streams


def back_up_abreast(repository: Repository, kit: Any, streams: dict[str, bytes]) -> None:
    """A backup whose streams take turns, piece by piece."""
    writer, turn = repository.begin("b1"), threading.Barrier(len(streams), timeout=30)

    def pieces(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), 10_000):
            turn.wait()
            yield data[at : at + 10_000]

    with ThreadPoolExecutor(len(streams)) as pool:
        added = [pool.submit(writer.add, name, pieces(data)) for name, data in streams.items()]
        artifacts = [one.result() for one in added]
    writer.publish(kit.manifest("b1", artifacts, repository.clock.now()))


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 0), (0, 10), (99_999, 2), (50_000, 60_000), (199_990, 100), (300_000, 5)],
)
def test_a_range_reads_as_a_slice(
    repository: Repository, kit: Any, start: int, length: int
) -> None:
    data = kit.noise(200_000)
    artifact = kit.back_up(repository, "b1", data=data).artifacts()[0]
    assert b"".join(repository.read_range(artifact, start, length)) == data[start : start + length]


def test_a_failing_stream_fails_the_call_and_leaves_no_backup(
    repository: Repository, kit: Any
) -> None:
    def broken() -> Iterator[bytes]:
        yield kit.noise(100_000)
        raise Failed("pg_dump exited with 1")

    writer = repository.begin("b1")
    with pytest.raises(Failed, match="pg_dump exited"):
        writer.add("dump", broken())
    writer.abort()
    assert repository.backups() == []


def test_a_failed_upload_fails_everything_after(
    repository: Repository, store: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store.put

    def failing(key: str, data: bytes, *, if_absent: bool = False) -> None:
        if key.startswith("packs/"):
            raise Failed("disk full")
        put(key, data, if_absent=if_absent)

    monkeypatch.setattr(store, "put", failing)
    writer = repository.begin("b1")

    def whole_backup() -> None:
        artifact = writer.add("data", [kit.noise(400_000)])
        writer.publish(kit.manifest("b1", [artifact], repository.clock.now()))

    with pytest.raises(Failed, match="disk full"):
        whole_backup()
    writer.abort()
    assert repository.backups() == []
    assert store.names("leases/") == []


def test_a_chunk_that_was_never_stored_is_missed_before_the_manifest(
    repository: Repository, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that fails may have said that it stores what the next one relies on."""
    data = kit.noise(5000)

    def full(*_: object) -> Iterator[Any]:
        raise MemoryError

    writer = repository.begin("b1")
    with monkeypatch.context() as patched:
        patched.setattr(BlobMaker, "make", full)
        with pytest.raises(MemoryError):
            writer.add("data", [data])
    artifact = writer.add("data", [data])
    with pytest.raises(Failed, match="never stored") as caught:
        writer.publish(kit.manifest("b1", [artifact], repository.clock.now()))
    assert caught.value.retryable
    assert repository.backups() == []
    kit.back_up(repository, "b1", data=data)
    assert kit.contents(repository, "b1") == {"data": data}


def test_a_chunk_that_a_broken_stream_still_stores_is_waited_for(
    repository: Repository, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt after it relies on the chunk, and comes to its end first."""
    data = kit.noise(5000)
    claimed, go = threading.Event(), threading.Event()
    make = BlobMaker.make

    def slow(*args: Any) -> Iterator[Any]:
        claimed.set()
        go.wait(30)
        yield from make(*args)

    def broken() -> Iterator[bytes]:
        yield data
        yield bytes(3 * 1024**2)  # So that the window before it is on its way.
        claimed.wait(30)
        raise Failed("the stream broke")

    writer = repository.begin("b1")
    with monkeypatch.context() as patched:
        patched.setattr(BlobMaker, "make", slow)
        with pytest.raises(Failed, match="broke"):
            writer.add("data", broken())
    artifact = writer.add("data", [data])
    shutdown = writer._pool.shutdown

    def ending(**options: Any) -> None:
        go.set()
        shutdown(**options)

    monkeypatch.setattr(writer._pool, "shutdown", ending)
    writer.publish(kit.manifest("b1", [artifact], repository.clock.now()))
    assert kit.contents(repository, "b1") == {"data": data}


def test_a_backup_id_is_used_once(repository: Repository, kit: Any) -> None:
    kit.back_up(repository, "b1", data=b"x")
    with pytest.raises(AlreadyExists):
        repository.begin("b1")


@pytest.mark.parametrize("backup_id", ["", "..", "a/b", "a" * 65, ".hidden", "a..b", "ä"])
def test_ids_that_could_leave_the_prefix_are_refused(
    repository: Repository, backup_id: str
) -> None:
    with pytest.raises(Usage):
        repository.begin(backup_id)
    with pytest.raises(Usage):
        repository.load(backup_id)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "a/../b", "..", "a//b", "a\0b", "a\\b"])
def test_artifact_names_that_climb_are_refused(repository: Repository, name: str) -> None:
    writer = repository.begin("b1")
    with pytest.raises(Usage):
        writer.add(name, [b"x"])
    writer.abort()


def test_listing_is_newest_first(repository: Repository, clock: Any, kit: Any) -> None:
    for name in ("b1", "b2", "b3"):
        kit.back_up(repository, name, data=kit.text(10_000))
        clock.advance(3600)
    assert [summary.id for summary in repository.backups()] == ["b3", "b2", "b1"]
    assert repository.backups()[0].bytes_logical == 10_000


def test_resolve(repository: Repository, clock: Any, kit: Any) -> None:
    times = {}
    for name in ("2026-a", "2026-b"):
        kit.back_up(repository, name, data=b"x")
        times[name] = clock.now()
        clock.advance(3600)
    assert repository.resolve("latest") == "2026-b"
    assert repository.resolve("latest", at=times["2026-a"]) == "2026-a"
    assert repository.resolve("2026-a") == "2026-a"
    for wanted in ("2026", "nope", ""):
        with pytest.raises(NotFound):
            repository.resolve(wanted)
    with pytest.raises(NotFound):
        repository.resolve("latest", at=times["2026-a"] - timedelta(seconds=1))


def test_a_time_means_the_watermark(repository: Repository, clock: Any, kit: Any) -> None:
    """A backup that began before a disaster may have its watermark after it."""
    began = clock.now()
    writer = repository.begin("2026-a")
    made = kit.manifest("2026-a", [writer.add("d", [b"x"])], began)
    seen = replace(made.watermark, at=began + timedelta(minutes=10))
    writer.publish(replace(made, watermark=seen))

    assert repository.backups()[0].watermark_at == seen.at
    assert repository.resolve("latest", at=seen.at) == "2026-a"
    with pytest.raises(NotFound):
        repository.resolve("latest", at=began + timedelta(minutes=5))


def test_an_unreadable_manifest_is_listed_and_never_latest(
    repository: Repository, store: Any, clock: Any, kit: Any
) -> None:
    kit.back_up(repository, "good", data=b"x")
    clock.advance(60)
    store.put("backups/bad/manifest", b"garbage")
    listed = {summary.id: summary for summary in repository.backups()}
    assert listed["bad"].unreadable
    assert not listed["good"].unreadable
    assert repository.resolve("latest") == "good"
    with pytest.raises(Damaged, match="bad"):
        repository.load("bad")


def test_check_records_and_pins_show_in_the_listing(
    repository: Repository, clock: Any, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=b"x")
    old = CheckRecord("manifest", clock.now(), ok=True)
    new = CheckRecord("chunks", clock.now() + timedelta(hours=1), ok=False, detail="broken")
    repository.record("b1", new)
    repository.record("b1", old)
    repository.pin("b1")
    summary = repository.backups()[0]
    assert summary.verified == new
    assert summary.pinned
    repository.unpin("b1")
    assert not repository.backups()[0].pinned
    with pytest.raises(NotFound):
        repository.pin("b2")
    with pytest.raises(NotFound):
        repository.record("b2", old)


def test_no_repository_is_not_found(store: Any, clock: Any) -> None:
    with pytest.raises(NotFound) as raised:
        Repository.open(store, passphrase=None, clock=clock)
    assert "init" in raised.value.hint


def test_a_repository_is_created_once(repository: Repository, store: Any, clock: Any) -> None:
    with pytest.raises(AlreadyExists):
        Repository.create(store, passphrase=None, clock=clock)


def test_packs_without_a_header_are_not_orphaned(
    repository: Repository, store: Any, clock: Any, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(10_000))
    store.delete(["vbackup.json"])
    with pytest.raises(Refused, match="packs"):
        Repository.create(store, passphrase=None, clock=clock)


def test_passphrases(store: Any, clock: Any, kit: Any) -> None:
    repository = Repository.create(store, passphrase="first passphrase", clock=clock)
    kit.back_up(repository, "b1", data=b"secret")
    packs = {key: store.get(key) for key in store.names("packs/")}
    for wrong in ("wrong", "", None):
        with pytest.raises(Denied):
            Repository.open(store, passphrase=wrong, clock=clock)

    second = repository.add_passphrase("second passphrase", "ops team")
    opened = Repository.open(store, passphrase="second passphrase", clock=clock)
    assert opened.opened_by == second.id
    assert [slot.label for slot in opened.slots()] == ["first", "ops team"]
    assert kit.contents(opened, "b1") == {"data": b"secret"}

    opened.remove_passphrase(repository.opened_by or opened.slots()[0].id)
    with pytest.raises(Denied):
        Repository.open(store, passphrase="first passphrase", clock=clock)
    with pytest.raises(Refused, match="last"):
        opened.remove_passphrase(second.id)
    with pytest.raises(NotFound):
        opened.remove_passphrase("nope")
    assert {key: store.get(key) for key in store.names("packs/")} == packs


def test_a_passphrase_for_a_plain_repository_is_refused(store: Any, clock: Any) -> None:
    plain = Repository.create(store, passphrase=None, clock=clock)
    with pytest.raises(Refused, match="not encrypted"):
        Repository.open(store, passphrase="anything", clock=clock)
    with pytest.raises(Refused):
        plain.add_passphrase("anything")


def test_nothing_readable_is_stored_when_encrypted(store: Any, clock: Any, kit: Any) -> None:
    repository = Repository.create(store, passphrase="passphrase", clock=clock)
    kit.back_up(repository, "b1", customers=b"Alice Anderson " * 5000)
    repository.record("b1", CheckRecord("chunks", clock.now(), ok=True, detail="customers"))
    stored = b"".join(store.get(key) for key in store.names())
    for secret in (b"Alice", b"customers", b"documents", b"public", b"passphrase opens"):
        assert secret not in stored


def test_a_newer_format_is_refused(repository: Repository, store: Any, reopen: Reopen) -> None:
    data = store.get("vbackup.json").replace(b'"version":1', b'"version":2')
    store.put("vbackup.json", data)
    with pytest.raises(Refused, match="format 2"):
        reopen()


def test_publishing_without_the_lease_is_refused(
    repository: Repository, store: Any, kit: Any
) -> None:
    writer = repository.begin("b1")
    artifact = writer.add("data", [kit.noise(50_000)])
    for claim in repository.holders("writer"):
        repository.unlock(claim)
    with pytest.raises(Locked, match="lost"):
        writer.publish(kit.manifest("b1", [artifact], repository.clock.now()))
    assert repository.backups() == []


def test_two_writers_exclude_each_other(repository: Repository, reopen: Reopen) -> None:
    writer = repository.begin("b1")
    with pytest.raises(Locked, match="pid"):
        reopen().begin("b2")
    writer.abort()
    reopen().begin("b2").abort()


def test_a_writer_under_a_held_lease_does_not_take_it_again(
    repository: Repository, store: Any, kit: Any
) -> None:
    with repository.lease("writer"):
        kit.back_up(repository, "b1", data=b"x")
        assert len(store.names("leases/writer/")) == 1
    assert store.names("leases/") == []
