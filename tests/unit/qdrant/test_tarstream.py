"""Tars, whole and cut off, in pieces of any size."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.errors import Damaged
from vbackup.qdrant.shards import ShardContents
from vbackup.qdrant.tarstream import BLOCK, Member, TarStream, number, pax_records


def _tar(
    members: list[tuple[str, bytes | None]], kind: int = tarfile.GNU_FORMAT, end: int = 2
) -> bytes:
    """A tar of files (None: a directory), with `end` zero blocks."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        length = tar.offset
    return file.getvalue()[:length] + bytes(BLOCK * end)


def _sparse(name: str, extents: int, stored: int) -> bytes:
    """A GNU sparse member with so many extents: four in the header, 21 in each that follows."""
    info = tarfile.TarInfo(name)
    info.size = stored
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[482] = 1 if extents > 4 else 0
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    more = max(0, -(-(extents - 4) // 21))
    blocks = b"".join(
        bytes(504) + bytes([1 if number < more - 1 else 0]) + bytes(7) for number in range(more)
    )
    return bytes(header) + blocks + b"x" * stored + bytes(-stored % BLOCK)


def _read(data: bytes, step: int = 1 << 20) -> list[Member]:
    found: list[Member] = []
    stream = TarStream(found.append)
    for at in range(0, len(data), step):
        stream.feed(data[at : at + step])
    stream.finish()
    assert stream.length == len(data)
    return found


LONG = "segments/" + "d" * 120 + "/" + "ü" * 80


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 512, 513, 10**6])
def test_members_are_seen_whatever_the_pieces(kind: int, step: int) -> None:
    members: list[tuple[str, bytes | None]] = [
        ("a", b""),
        ("dir/", None),
        (LONG, b"y" * 700),
        ("exact", b"z" * 1024),
        ("last", b"1"),
    ]

    found = _read(_tar(members, kind), step)

    assert [member.name.rstrip("/") for member in found] == ["a", "dir", LONG, "exact", "last"]
    assert [member.stored for member in found] == [0, 0, 700, 1024, 1]


@pytest.mark.parametrize("extents", [1, 4, 5, 25, 26, 70])
def test_sparse_maps_are_not_taken_for_content(extents: int) -> None:
    data = _sparse("s", extents, 600) + _tar([("next", b"x")])

    assert [(m.name, m.kind, m.stored) for m in _read(data, 100)] == [
        ("s", "S", 600),
        ("next", "0", 1),
    ]


def test_sizes_beyond_octal_are_read() -> None:
    size = 9 * 1024**3
    header = bytearray(tarfile.TarInfo("big").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    found: list[Member] = []

    TarStream(found.append).feed(bytes(header))

    assert found == [Member("big", "0", size)]


def test_pax_sizes_and_names_win() -> None:
    info = tarfile.TarInfo("short")
    info.pax_headers = {"path": "the real name", "size": "3"}
    info.size = 3
    data = info.tobuf(tarfile.PAX_FORMAT) + b"abc" + bytes(BLOCK - 3) + bytes(2 * BLOCK)

    assert _read(data) == [Member("the real name", "0", 3)]


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5), st.data())
def test_every_shortened_tar_is_refused(contents: list[bytes], data: st.DataObject) -> None:
    tar = _tar([(f"m{n}", content) for n, content in enumerate(contents)])
    assert len(_read(tar)) == len(contents)

    kept = data.draw(st.integers(0, len(tar) - 1))

    with pytest.raises(Damaged) as caught:
        _read(tar[:kept])
    assert caught.value.retryable


def test_what_follows_the_end() -> None:
    tar = _tar([("a", b"x")])

    assert len(_read(tar + bytes(7 * BLOCK))) == 1
    with pytest.raises(Damaged, match="goes on"):
        _read(tar + tar)
    with pytest.raises(Damaged):
        _read(tar + b"\0")


@pytest.mark.parametrize(
    "data",
    [b"<html>" * 200, bytes(range(256)) * 8, b"\xff" * 1024, b"\0" * 511 + b"1" + bytes(512)],
)
def test_what_is_no_tar_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        _read(data)


def test_a_name_of_absurd_length_is_damaged() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 1 << 30

    with pytest.raises(Damaged, match="name of"):
        _read(info.tobuf(tarfile.GNU_FORMAT))


@given(st.binary(max_size=3000))
def test_no_bytes_break_it(data: bytes) -> None:
    with pytest.raises(Damaged):
        _read(data)


def test_numbers() -> None:
    assert number(b"0000644\0") == 0o644
    assert number(b"        ") == 0
    assert number(b"\x80" + bytes(10) + b"\x07") == 7
    with pytest.raises(Damaged):
        number(b"8")


def test_pax_records_end_where_they_are_malformed() -> None:
    assert pax_records(b"12 path=a/b\n9 size=1\n") == {"path": "a/b", "size": "1"}
    assert pax_records(b"12 path=a/b\n99 size=1\n") == {"path": "a/b"}
    assert pax_records(b"nonsense") == {}
    assert pax_records(b"1 ") == {}


SNAPSHOT: list[tuple[str, bytes | None]] = [
    ("newest_clocks.json", b"{}"),
    ("segments/1/files/segment.json", b"{}"),
    ("wal", None),
    ("wal/closed-1", b"w"),
    ("replica_state.json", b"{}"),
    ("shard_config.json", b"{}"),
]


def test_a_shard_snapshot_is_cut_at_its_first_segment() -> None:
    data = _tar(SNAPSHOT)
    contents = ShardContents()
    seen = []
    for at in (slice(0, 3 * BLOCK - 1), slice(3 * BLOCK - 1, None)):
        contents.feed(data[at])
        seen.append(contents.cut)

    assert seen == [False, True]
    contents.finish()
    assert contents.length == len(data)


@pytest.mark.parametrize("without", ["segments", "wal", "replica_state.json", "shard_config.json"])
def test_a_snapshot_that_lacks_a_part_is_refused(without: str) -> None:
    contents = ShardContents()
    contents.feed(_tar([each for each in SNAPSHOT if not each[0].startswith(without)]))

    with pytest.raises(Damaged, match=without) as caught:
        contents.finish()
    assert caught.value.retryable


def test_a_snapshot_in_another_order_is_refused() -> None:
    contents = ShardContents()
    contents.feed(_tar([*SNAPSHOT, ("more", b"x")]))

    with pytest.raises(Damaged, match="last member"):
        contents.finish()


def test_a_segments_folder_alone_is_no_cut() -> None:
    contents = ShardContents()
    contents.feed(_tar([("segments", None), ("segments.json", b"")]))

    assert not contents.cut
