"""Shard snapshots read without a server: whole points, and damage that must not take us along."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import tarfile
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vbackup.errors import Damaged, Failed, NotFound, Refused
from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant import edge_process, offline
from vbackup.qdrant.edge_protocol import Columns, Scan
from vbackup.qdrant.offline import open_offline
from vbackup.qdrant.unpack import unpack

pytestmark = pytest.mark.integration

BODY = {
    "vectors": {
        "d": {"size": 4, "distance": "Cosine"},
        "h": {"size": 4, "distance": "Dot", "datatype": "float16"},
        "m": {
            "size": 3,
            "distance": "Dot",
            "multivector_config": {"comparator": "max_sim"},
        },
    },
    "sparse_vectors": {"s": {}},
}
LINK = Link(name="l", collection="*", rows=(), ref=(PayloadPath.parse("k"),))


def _points(count: int) -> list[dict[str, Any]]:
    source = random.Random(3)

    def vector(size: int) -> list[float]:
        return [source.uniform(-1, 1) for _ in range(size)]

    return [
        {
            "id": n,
            "vector": {
                "d": vector(4),
                "h": vector(4),
                "m": [vector(3) for _ in range(1 + n % 3)],
                "s": {"indices": [n, n + 7], "values": vector(2)},
            },
            "payload": {"k": f"key-{n // 2}", "more": {"x": [n, None, "ü"]}},
        }
        for n in range(count)
    ]


@pytest.fixture
def saved(store: Any, tmp_path: Path) -> tuple[str, list[Path]]:
    name = store.make(BODY | {"shard_number": 2})
    store.put(name, _points(300))
    return name, [spool.path for spool in store.spool(name, tmp_path)]


def test_whole_points_are_what_the_server_would_tell(
    store: Any, saved: tuple[str, list[Path]], tmp_path: Path
) -> None:
    name, tars = saved
    truth = store.everything(name)
    with open_offline({name: tars}, tmp_path / "work", vectors=True) as reader:
        found = {point.id: point for point in reader.fetch_ids(name, [*truth, 10**9])}
        by_key = reader.fetch(LINK, name, ["key-3", "key-9", "none"])

    assert found.keys() == truth.keys()
    for id_, point in found.items():
        assert point.payload == truth[id_]["payload"]
        assert _close(point.vector, truth[id_]["vector"])
    assert {key: {point.id for point in points} for key, points in by_key.items()} == {
        "key-3": {6, 7},
        "key-9": {18, 19},
    }


def _close(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_close(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))
    return bool(ours == pytest.approx(theirs, rel=1e-6))


def test_without_vectors_only_the_payload_is_read(
    saved: tuple[str, list[Path]], tmp_path: Path
) -> None:
    name, tars = saved
    work = tmp_path / "work"
    with open_offline({name: tars}, work) as reader:
        ids = [id_ for block in reader.points(LINK, name) for id_ in block.ids]
        assert any("payload_storage" in str(path) for path in work.rglob("*"))
        # Their vectors would be all zero: better nothing than something wrong.
        with pytest.raises(Failed, match="without their vectors"):
            reader.fetch_ids(name, [7])
        assert reader.collections() == [name]

    assert sorted(ids) == list(range(300))
    assert list(work.iterdir()) == []
    with open_offline({name: tars}, work) as reader, pytest.raises(NotFound):
        next(iter(reader.points(LINK, "other")))


def test_pages_are_whole_whatever_is_asked_between_them(
    saved: tuple[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child reads a page ahead; nothing else that it is asked may take that for its answer."""
    monkeypatch.setattr(offline, "PAGE", 7)
    name, tars = saved
    by_id = Link(name="l", collection="*", rows=())
    with open_offline({name: tars}, tmp_path / "work") as reader:
        found: dict[str, list[Any]] = {"by key": [], "by id": []}
        scans = {"by key": reader.points(LINK, name), "by id": reader.points(by_id, name)}
        while scans:
            for how, scan in list(scans.items()):
                block = next(scan, None)
                if block is None:
                    del scans[how]
                    continue
                found[how] += zip(block.ids, block.refs, strict=True)
                assert reader.lookup(by_id, name, [5, 6]).refs == ["5", "6"]
                assert sorted(reader.owned(LINK, name, ["key-3"]).ids) == [6, 7]

    assert sorted(found["by id"]) == [(n, str(n)) for n in range(300)]
    assert sorted(found["by key"]) == [(n, f"key-{n // 2}") for n in range(300)]


@pytest.fixture
def shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard is read by four processes, in pages of five points."""
    monkeypatch.setattr(offline, "PAGE", 5)
    for module in (edge_process, offline):
        monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.mark.usefixtures("shared_out")
def test_several_processes_read_a_shard_as_one_does(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store.make({"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 2})
    ids = [*range(90), 2**63, 2**64 - 1, *(str(uuid.UUID(int=n << 90)) for n in range(70))]
    points = [{"id": id_, "vector": [1, 0], "payload": {"k": f"key-{id_}"}} for id_ in ids]
    store.put(name, points)
    tars = [spool.path for spool in store.spool(name, tmp_path)]
    with open_offline({name: tars}, tmp_path / "work") as reader:
        processes = _started(monkeypatch)
        for _ in range(2):
            found = [
                pair
                for block in reader.points(LINK, name)
                for pair in zip(block.ids, block.refs, strict=True)
            ]
            assert sorted(found, key=str) == sorted(((i, f"key-{i}") for i in ids), key=str)
        # Two that stay, and for each of two scans three more a shard.
        assert len(processes) == 2 + 2 * 2 * 3
        assert reader.owned(LINK, name, ["key-2"]).ids == [2]
        scan = reader.points(LINK, name)
        next(scan)
        scan.close()  # type: ignore[attr-defined]
        assert [process.poll() for process in processes].count(None) == 2

    # A scan that is given up may not have started all of its own.
    assert len(processes) <= 2 + 3 * 2 * 3
    assert list((tmp_path / "work").iterdir()) == []


def test_files_tell_how_many_points_there_are(
    saved: tuple[str, list[Path]], tmp_path: Path
) -> None:
    """So that several processes load a large shard side by side, none waiting for the first."""
    for number, tar in enumerate(saved[1]):
        process = edge_process.EdgeProcess(tar, tmp_path / str(number), vectors=False)
        assert 0 < process.ready().points <= process.begin() < 2 * process.ready().points
        process.close()


def test_a_log_that_the_engine_is_still_preparing_is_not_shared(
    saved: tuple[str, list[Path]], tmp_path: Path
) -> None:
    """The engine renames it while others copy: it is listed, and gone when it is opened."""
    first = edge_process.EdgeProcess(saved[1][0], tmp_path / "work", vectors=False)
    count = first.ready().points
    (unpacked,) = (tmp_path / "work").iterdir()
    (unpacked / "wal" / "tmp-open-9").symlink_to("gone")
    twin = first.double()

    assert twin.ready().points == count
    twin.close()
    first.close()


def _started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def recorded(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    return started


@pytest.mark.parametrize("vectors", [False, True])
def test_reading_leaves_every_byte_of_the_segments(
    vectors: bool,
    saved: tuple[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several processes read the same files; nor does one that ends by itself write any."""
    processes = _started(monkeypatch)
    plain = tmp_path / "plain"
    plain.mkdir()
    unpack(saved[1][0], plain, vectors=vectors)
    process = edge_process.EdgeProcess(saved[1][0], tmp_path / "work", vectors=vectors)
    start, pages = None, 0
    while start is not None or not pages:
        start, pages = process.ask(Scan(LINK, start, 50), Columns).start, pages + 1
    (reader,) = processes
    assert reader.stdin
    reader.stdin.close()
    assert reader.wait() == 0
    process.rest()
    (unpacked,) = (tmp_path / "work").iterdir()

    assert pages > 1
    assert contents(unpacked / "segments") == contents(plain / "segments")


def contents(directory: Path) -> dict[str, str]:
    """Digests: pytest would look for differences in gigabytes of `repr`."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.usefixtures("shared_out")
def test_a_shard_whose_ids_would_fill_memory_is_left_to_one_process(
    saved: tuple[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "HELD", 200)
    processes = _started(monkeypatch)
    name, tars = saved
    with open_offline({name: tars}, tmp_path / "work") as reader:
        ids = [id_ for block in reader.points(LINK, name) for id_ in block.ids]
    assert sorted(ids) == list(range(300))
    assert len(processes) == 2


@pytest.mark.usefixtures("shared_out")
def test_files_are_copied_where_they_can_have_one_name_only(
    saved: tuple[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    name, tars = saved
    with open_offline({name: tars}, tmp_path / "work") as reader:
        ids = [id_ for block in reader.points(LINK, name) for id_ in block.ids]
    assert sorted(ids) == list(range(300))


@pytest.mark.usefixtures("shared_out")
def test_a_process_that_dies_ends_the_scan(
    saved: tuple[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = _started(monkeypatch)
    name, tars = saved
    with open_offline({name: tars}, tmp_path / "work") as reader:
        scan = reader.points(LINK, name)
        next(scan)
        for process in processes:
            process.kill()
        with pytest.raises(Damaged, match="signal 9"):
            list(scan)
    assert list((tmp_path / "work").iterdir()) == []


def _damaged(tar: Path, member: str, change: Any) -> Path:
    """A copy of the snapshot in which one member's bytes are changed."""
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as archive:
        places = [(m.offset_data, m.size) for m in archive if m.name.endswith(member)]
    assert places
    for start, size in places:
        data[start : start + size] = change(bytes(data[start : start + size]))
    copy = tar.with_suffix(".damaged")
    copy.write_bytes(data)
    return copy


def _flip(seed: int) -> Any:
    def change(data: bytes) -> bytes:
        source = random.Random(seed)
        found = bytearray(data)
        for _ in range(max(1, len(found) // 50)):
            found[source.randrange(len(found))] ^= 1 << source.randrange(8)
        return bytes(found)

    return change


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("segment.json", lambda data: b"x" * len(data)),
        ("version.info", lambda data: b"\xff" * len(data)),
        ("payload_storage/config.json", lambda data: b"{" * len(data)),
        ("mutable_id_tracker.mappings", lambda data: b"\x02" + b"\xff" * (len(data) - 1)),
    ],
)
def test_damage_is_reported_and_costs_only_the_child(
    saved: tuple[str, list[Path]], tmp_path: Path, member: str, change: Any
) -> None:
    name, tars = saved
    bad = [_damaged(tar, member, change) for tar in tars]
    with open_offline({name: bad, "good": tars}, tmp_path / "work") as reader:
        with pytest.raises(Damaged) as caught:
            list(reader.points(LINK, name))
        good = sum(len(block) for block in reader.points(LINK, "good"))

    assert bad[0].name.split(".")[0][:-4] in str(caught.value)
    assert good == 300
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_never_takes_us_along(
    saved: tuple[str, list[Path]], tmp_path: Path, seed: int
) -> None:
    """Some damage reads without an error (that is why hashes are checked first); what must never
    happen is a crash of this process, or an error that is not ours."""
    name, tars = saved
    bad = [_damaged(tar, "mutable_id_tracker.mappings", _flip(seed)) for tar in tars]
    bad = [_damaged(tar, "tracker.dat", _flip(seed)) if seed % 2 else tar for tar in bad]
    with open_offline({name: bad}, tmp_path / "work") as reader, suppress(Damaged):
        assert sum(len(block) for block in reader.points(LINK, name)) <= 300


@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_truncated_tar_is_damaged(
    saved: tuple[str, list[Path]], tmp_path: Path, kept: int
) -> None:
    name, tars = saved
    short = tars[0].with_suffix(".short")
    short.write_bytes(tars[0].read_bytes()[:kept])
    with open_offline({name: [short]}, tmp_path / "work") as reader, pytest.raises(Damaged):
        list(reader.points(LINK, name))


def test_a_spool_that_failed_is_its_error(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    (spool,) = store.spool(name, tmp_path)
    spool.error = Failed("the stream broke")

    with pytest.raises(Failed, match="the stream broke"), store.source.offline([spool], tmp_path):
        pass


def test_a_child_that_is_killed_is_no_end_of_the_data(
    saved: tuple[str, list[Path]], tmp_path: Path
) -> None:
    name, tars = saved
    with open_offline({name: tars[:1]}, tmp_path / "work") as reader:
        assert len(reader.lookup(LINK, name, list(range(300)))) > 0
        (process,) = reader._shards[name]
        assert process._process is not None
        process._process.kill()
        with pytest.raises(Damaged, match="signal 9"):
            list(reader.points(LINK, name))
        # The next request starts another.
        assert sum(len(block) for block in reader.points(LINK, name)) > 0


def test_shards_are_asked_by_several_threads(saved: tuple[str, list[Path]], tmp_path: Path) -> None:
    name, tars = saved
    found: list[int] = []
    with open_offline({name: tars}, tmp_path / "work") as reader:

        def look(start: int) -> None:
            wanted = list(range(start, start + 50))
            found.extend(len(reader.lookup(LINK, name, wanted)) for _ in range(10))

        threads = [threading.Thread(target=look, args=(n * 50,)) for n in range(4)]
        for thread in threads:
            thread.start()
        scanned = sum(len(block) for block in reader.points(LINK, name))
        for thread in threads:
            thread.join()

    assert found == [50] * 40
    assert scanned == 300


def test_of_many_shards_few_processes_live(
    saved: tuple[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "PROCESSES", 1)
    name, tars = saved
    with open_offline({name: tars}, tmp_path / "work") as reader:
        assert sum(len(block) for block in reader.points(LINK, name)) == 300
        assert [process._process for process in reader._shards[name]] == [None, None]
        assert len(reader.lookup(LINK, name, [1, 2, 3])) == 3


def test_without_the_engine_it_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "find_spec", lambda name: None)
    with pytest.raises(Refused) as caught, open_offline({}, tmp_path):
        pass

    assert "vbackup[edge]" in caught.value.hint
