"""Verification: every kind of damage is found, named, and healed by the next backup."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from vbackup.errors import Damaged, NotFound, Refused, Usage, VbackupError
from vbackup.model.manifest import CheckRecord
from vbackup.repository.check import verify
from vbackup.repository.chunker import Chunker
from vbackup.repository.packcheck import PackCheck
from vbackup.repository.packs import pack_key
from vbackup.repository.reader import ChunkReader
from vbackup.repository.reindex import repair_index
from vbackup.repository.repository import Repository
from vbackup.repository.sample import Sample, choose
from vbackup.repository.shelf import Shelf

REOPEN = Any


def flip(store: Any, key: str, position: int, mask: int = 0x01) -> None:
    data = bytearray(store.get(key))
    data[position] ^= mask
    store.put(key, data)


def restores(repository: Repository, backup_id: str, kit: Any) -> bool:
    try:
        kit.contents(repository, backup_id)
    except VbackupError:
        return False
    return True


@pytest.mark.parametrize("level", ["manifest", "chunks"])
def test_a_whole_backup_passes(repository: Repository, kit: Any, level: Any) -> None:
    kit.back_up(repository, "b1", data=kit.noise(150_000), empty=b"")
    repository.pin("b1")
    repository.record("b1", CheckRecord("chunks", repository.clock.now(), ok=True))
    found = verify(repository, "b1", level=level)
    assert found.ok, found
    assert not found.damage
    assert {check.name for check in found.checks} >= {"manifest", "records", "index", "contents"}


def test_no_such_backup(repository: Repository) -> None:
    with pytest.raises(NotFound):
        verify(repository, "nope")


def test_every_flipped_byte_is_found_by_verify(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    """Each byte of each object of a small repository, one at a time."""
    kit.back_up(repository, "b1", data=kit.noise(300), text=b"abc " * 500)
    repository.pin("b1")
    repository.record("b1", CheckRecord("chunks", repository.clock.now(), ok=True))
    whole = dict(store.objects)
    survivors = []
    for key in store.names():
        for position in range(len(whole[key][0])):
            store.objects = dict(whole)
            flip(store, key, position, 1 << position % 8)
            try:
                found = verify(reopen(), "b1", level="chunks").ok
            except VbackupError:
                found = False
            if found:
                survivors.append((key, position))
    assert survivors == []


def test_every_flipped_byte_that_matters_is_found_by_a_restore(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    """What a restore reads without complaint is what was backed up, whatever was flipped."""
    streams = {"data": kit.noise(300), "text": b"abc " * 500}
    kit.back_up(repository, "b1", **streams)
    whole = dict(store.objects)
    for key in store.names():
        for position in range(len(whole[key][0])):
            store.objects = dict(whole)
            flip(store, key, position, 1 << position % 8)
            try:
                restored = kit.contents(reopen(), "b1")
            except VbackupError:
                continue
            assert restored == streams, (key, position)


@pytest.mark.parametrize("prefix", ["packs/", "backups/", "vbackup.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "swapped"])
def test_objects_that_are_gone_cut_or_exchanged(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any, prefix: str, damage: str
) -> None:
    kit.back_up(repository, "b0", data=kit.noise(100_000, 1))
    kit.back_up(repository, "b1", data=kit.noise(100_000))
    used = [key for key in store.names(prefix) if "/b0/" not in key]
    other = [key for key in store.names() if key not in used]
    if prefix == "packs/":  # Packs of b1 only.
        b0 = set(Repository.index(reopen()).packs)
        assert b0
    for key in used:
        data = store.get(key)
        if damage == "missing":
            store.delete([key])
        elif damage == "truncated":
            store.put(key, data[: len(data) // 2])
        elif damage == "empty":
            store.put(key, b"")
        else:
            store.put(key, store.get(other[0]))
    try:
        ok = verify(reopen(), "b1", level="chunks").ok
    except VbackupError:
        ok = False
    assert not ok
    with suppress(VbackupError):
        assert not restores(reopen(), "b1", kit)


def test_a_manifest_under_another_name_is_refused(
    repository: Repository, store: Any, kit: Any
) -> None:
    kit.back_up(repository, "b0", data=kit.noise(3000, 1))
    kit.back_up(repository, "b1", data=kit.noise(3000))
    store.put("backups/b1/manifest", store.get("backups/b0/manifest"))
    with pytest.raises(Damaged):
        repository.load("b1")


def test_damage_names_artifact_and_range(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    data = kit.noise(100_000)
    kit.back_up(repository, "b1", good=kit.noise(50_000, 1), data=data)
    artifact = repository.load("b1").artifacts()[1]
    pieces = list(repository.reader.pieces(artifact))
    place = repository.reader.places(pieces[7].chunk)[0]
    # Chunks that are stored as one blob are lost together.
    lost = [
        piece
        for piece in pieces
        if (at := repository.reader.places(piece.chunk)[0]).pack == place.pack
        and at.offset == place.offset
    ]
    assert 0 < len(lost) < 6
    first, last = lost[0], lost[-1]
    key = f"packs/{place.pack.hex()[:2]}/{place.pack.hex()}"
    flip(store, key, place.offset + place.stored // 2)

    found = verify(reopen(), "b1", level="chunks")
    ranges = {(damage.artifact, damage.start, damage.stop) for damage in found.damage}
    assert ranges == {("data", piece.start, piece.start + piece.span) for piece in lost}
    with pytest.raises(Damaged, match=f"data: bytes {first.start}-{first.start + first.span}"):
        b"".join(reopen().read(artifact))
    rest = reopen().read_range(artifact, last.start + last.span, 100_000)
    assert b"".join(rest) == data[last.start + last.span :]


def test_an_artifact_that_is_not_what_came_in_is_damaged(repository: Repository, kit: Any) -> None:
    """Whole chunks under a genuine root that are not the stream: a fault of ours, when storing."""
    artifact = kit.back_up(repository, "b1", data=kit.noise(50_000)).artifacts()[0]
    wrong = replace(artifact, blake3="0" * 64)
    with pytest.raises(Damaged, match="BLAKE3"):
        b"".join(repository.read(wrong))
    ((start, stop, why),) = repository.reader.damage(wrong)
    assert (start, stop, "BLAKE3" in why) == (0, 50_000, True)
    assert list(repository.reader.damage(artifact)) == []


def test_a_stream_that_is_cut_wrongly_is_not_what_came_in(
    repository: Repository, reopen: REOPEN, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Chunker.windows

    def lossy(self: Chunker, stream: Any) -> Any:
        for window in cut(self, stream):
            yield replace(window, data=memoryview(b"X" + bytes(window.data)[1:]))

    monkeypatch.setattr(Chunker, "windows", lossy)
    artifact = kit.back_up(repository, "b1", data=kit.noise(50_000)).artifacts()[0]
    with pytest.raises(Damaged, match="BLAKE3"):
        b"".join(reopen().read(artifact))
    assert not verify(reopen(), "b1", level="chunks").ok


def test_a_byte_that_flips_on_the_way_once_is_no_damage(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kit.noise(100_000)
    kit.back_up(repository, "b1", data=data)
    get, seen = store.get, set()

    def noisy(key: str, start: int = 0, length: int | None = None) -> bytes:
        found = bytearray(get(key, start, length))
        if key.startswith("packs/") and (key, start) not in seen and found:
            seen.add((key, start))
            found[len(found) // 2] ^= 0x40
        return bytes(found)

    monkeypatch.setattr(store, "get", noisy)
    assert kit.contents(reopen(), "b1") == {"data": data}
    seen.clear()
    assert verify(reopen(), "b1", level="chunks").ok


def test_damage_is_healed_by_the_next_backup(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    streams = {"data": kit.noise(150_000)}
    kit.back_up(repository, "b1", **streams)
    victim = store.names("packs/")[0]
    flip(store, victim, len(store.get(victim)) // 2)
    assert not restores(reopen(), "b1", kit)
    assert not verify(reopen(), "b1", level="chunks").ok

    healing = kit.back_up(reopen(), "b2", **streams)
    assert 0 < healing.statistics.chunks_new < healing.statistics.chunks_reused
    assert kit.contents(reopen(), "b1") == streams
    assert kit.contents(reopen(), "b2") == streams


def test_a_missing_pack_is_healed_without_being_recorded(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    streams = {"data": kit.noise(150_000)}
    kit.back_up(repository, "b1", **streams)
    store.delete(store.names("packs/")[:1])
    assert not verify(reopen(), "b1", level="manifest").ok
    kit.back_up(reopen(), "b2", **streams)
    assert verify(reopen(), "b1", level="chunks").ok
    assert kit.contents(reopen(), "b1") == streams


def test_a_pack_that_is_good_again_is_no_longer_avoided(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(50_000))
    key = store.names("packs/")[0]
    flip(store, key, 100)
    assert not verify(reopen(), "b1", level="chunks").ok
    assert len(store.names("damaged/")) == 1
    flip(store, key, 100)
    assert verify(reopen(), "b1", level="chunks").ok
    assert store.names("damaged/") == []


def test_a_reader_without_write_permission_can_verify(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(50_000))
    flip(store, store.names("packs/")[0], 100)

    def refuse(*args: object, **kwargs: object) -> None:
        raise Refused("read-only")

    monkeypatch.setattr(store, "put", refuse)
    monkeypatch.setattr(store, "delete", refuse)
    assert not verify(reopen(), "b1", level="chunks", part=Sample(1.0)).ok


def test_lost_index_objects_are_rebuilt_from_the_packs(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    streams = {"data": kit.noise(150_000), "text": kit.text(50_000)}
    kit.back_up(repository, "b1", **streams)
    store.delete(store.names("index/"))
    store.put("index/" + "0" * 64, b"garbage")
    assert not verify(reopen(), "b1").ok
    repaired = repair_index(reopen())
    assert repaired.packs == len(store.names("packs/"))
    assert repaired.unreadable == {}
    assert verify(reopen(), "b1", level="chunks").ok
    assert kit.contents(reopen(), "b1") == streams


def test_repairing_keeps_what_only_an_old_index_object_knows(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    streams = {"data": kit.noise(100_000)}
    kit.back_up(repository, "b1", **streams)
    key = store.names("packs/")[0]
    flip(store, key, len(store.get(key)) - 30)  # Its own index no longer opens.
    assert repair_index(reopen()).unreadable
    assert kit.contents(reopen(), "b1") == streams


@pytest.mark.parametrize(
    ("text", "share", "size"),
    [("5%", 0.05, None), ("1/7", 1 / 7, None), ("10GiB", 0.5, 10 * 2**30), (" 100 % ", 1.0, None)],
)
def test_samples(text: str, share: float, size: int | None) -> None:
    assert Sample.parse(text) == Sample(share, size)


@pytest.mark.parametrize("text", ["", "0%", "101%", "1/0", "8/7", "0", "many", "-5%"])
def test_samples_that_are_none(text: str) -> None:
    with pytest.raises(Usage):
        Sample.parse(text)


@pytest.mark.parametrize("text", ["1/7", "15%", "2000B"])
def test_rotating_samples_cover_everything(text: str) -> None:
    part = Sample.parse(text)
    sizes = {bytes([n]) * 32: 100 + n for n in range(0, 200, 3)}
    runs = 7 if "%" in text or "/" in text else -(-sum(sizes.values()) // 2000)
    cursor, seen = bytes([100]) * 32, set()
    for _ in range(runs):
        chosen = choose(sizes, part, cursor)
        assert sum(sizes[pack] for pack in chosen) < part.of(sum(sizes.values())) + 400
        seen.update(chosen)
        cursor = chosen[-1]
    assert seen == set(sizes)


def test_a_sample_is_remembered(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(400_000))
    packs = len(store.names("packs/"))
    flip(store, store.names("packs/")[5], 1000)
    results = [verify(reopen(), "b1", level="chunks", part=Sample.parse("1/4")) for _ in range(4)]
    assert all(0 < found.packs < packs for found in results)
    assert [found.ok for found in results].count(False) == 1


# ---------------------------------------------------------------- reading once


def watch_reads(store: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many bytes are read of each pack, read by read."""
    get, asked = store.get, defaultdict(list)

    def watched(key: str, start: int = 0, length: int | None = None) -> bytes:
        found: bytes = get(key, start, length)
        if key.startswith("packs/"):
            asked[key].append(len(found))
        return found

    monkeypatch.setattr(store, "get", watched)
    return asked


def test_a_full_verification_reads_each_pack_once(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        changed = kit.noise(200_000)[:150_000] + kit.noise(50_000, n)
        kit.back_up(repository, f"b{n}", data=changed, text=kit.text(80_000, n), empty=b"")
    needed = {
        pack_key(place.pack)
        for artifact in repository.load("b2").artifacts()
        for piece in repository.reader.pieces(artifact)
        for place in repository.reader.places(piece.chunk)
    }
    asked = watch_reads(store, monkeypatch)
    opened = reopen()
    found = verify(opened, "b2", level="chunks")
    assert found.ok
    sizes = {key: len(store.objects[key][0]) for key in needed}
    assert {key for key in needed if asked[key].count(sizes[key]) != 1} == set()
    stored = sum(sizes.values())
    beside = sum(map(sum, asked.values())) - stored
    assert beside < 0.2 * stored  # The recipes, to find out which packs are needed.
    assert found.bytes_read >= stored


@pytest.mark.parametrize("at_hand", [0, 40_000, 2**30])
def test_packs_that_were_let_go_are_read_by_range(
    repository: Repository, store: Any, kit: Any, at_hand: int
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(300_000))
    examined: list[bytes] = []
    sizes = {pack: stat.size for pack, stat in repository.load_catalog().stored.items()}

    def examine(pack: bytes) -> PackCheck:
        examined.append(pack)
        return PackCheck(pack)

    shelf = Shelf(store, repository.seal, sizes, examine, at_hand=at_hand)
    reader = ChunkReader(shelf, repository.seal, repository.hasher, repository.index)
    artifact = repository.load("b1").artifacts()[0]
    for _ in range(2):
        assert b"".join(reader.read(artifact)) == kit.noise(300_000)
    assert examined == []
    assert {pack_key(pack) for pack in shelf.checked} <= set(store.names("packs/"))


def test_many_who_want_one_pack_fetch_it_once(
    repository: Repository, store: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.back_up(repository, "b1", data=kit.noise(20_000))
    key = store.names("packs/")[0]
    sizes = {pack: stat.size for pack, stat in repository.load_catalog().stored.items()}
    asked = watch_reads(store, monkeypatch)
    shelf = Shelf(store, repository.seal, sizes, PackCheck)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda n: bytes(shelf.get(key, n, 5)), range(50)))
    assert parts == [store.objects[key][0][n : n + 5] for n in range(50)]
    assert asked[key] == [len(store.objects[key][0])]


def test_damage_is_read_around_and_examined(
    repository: Repository, store: Any, reopen: REOPEN, kit: Any
) -> None:
    """One bad pack among many: the rest of the artifact is still compared."""
    kit.back_up(repository, "b1", data=kit.noise(200_000))
    victim = max(store.names("packs/"), key=lambda key: len(store.get(key)))
    flip(store, victim, 5000)
    flip(store, victim, 9000)
    found = verify(reopen(), "b1", level="chunks")
    assert [check.ok for check in found.checks if check.name in {"packs", "streams"}] == [False] * 2
    assert 1 <= len(found.damage) <= 16  # the chunks of two blobs
    assert store.names("damaged/") == [f"damaged/{victim.rpartition('/')[2]}"]


def test_endless_damage_is_told_in_few_ranges(
    repository: Repository,
    store: Any,
    reopen: REOPEN,
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Millions of lost chunks must not fill the memory of whoever is told."""
    monkeypatch.setattr("vbackup.repository.check.MOST_RANGES", 5)
    kit.back_up(repository, "b1", data=kit.noise(300_000), more=kit.noise(100_000, 2))
    store.delete(store.names("packs/"))
    store.delete(store.names("index/"))
    kit.back_up(reopen(), "b2", data=kit.noise(150_000))
    found = verify(reopen(), "b1", level="chunks")
    assert not found.ok
    assert len(found.damage) < 15
