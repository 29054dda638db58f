"""Snapshots unpacked: nothing outside, nothing but files, holes stay holes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vbackup.errors import Damaged, Failed
from vbackup.qdrant import unpack as module
from vbackup.qdrant.unpack import unpack

Change = Callable[[tarfile.TarInfo], None]


def _tar(path: Path, *members: tuple[str, bytes], change: Change = lambda _: None) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content))
    return path


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


SEGMENT = "segments/5f0c/files"
SNAPSHOT = (
    (f"{SEGMENT}/vector_storage-a/vectors/chunk_0.mmap", b"v" * 9000),
    (f"{SEGMENT}/vector_storage/matrix.dat", b"head" + b"v" * 9000),
    (f"{SEGMENT}/vector_storage-a/vectors/config.json", b"{}"),
    (f"{SEGMENT}/payload_storage/page_0.dat", b"p" * 9000),
    ("wal/closed-1", b"w"),
    ("shard_config.json", b"{}"),
)


def test_files_go_where_the_engine_looks(tmp_path: Path) -> None:
    unpack(_tar(tmp_path / "s.tar", *SNAPSHOT), tmp_path / "out", vectors=True)

    assert _files(tmp_path / "out") == {
        name.replace("/files", ""): content for name, content in SNAPSHOT
    }


def test_without_vectors_their_bytes_are_left_out(tmp_path: Path) -> None:
    unpack(_tar(tmp_path / "s.tar", *SNAPSHOT), tmp_path / "out", vectors=False)

    found = _files(tmp_path / "out")
    assert {name: len(content) for name, content in found.items()} == {
        name.replace("/files", ""): len(content) for name, content in SNAPSHOT
    }
    assert {name for name, content in found.items() if b"v" in content} == set()
    assert found["segments/5f0c/vector_storage/matrix.dat"].startswith(b"head\0")
    assert found["segments/5f0c/payload_storage/page_0.dat"] == b"p" * 9000


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "segments/../../x", "segments/a/files/../../../../x"]
)
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    tar = _tar(tmp_path / "s.tar", (name, b"x"))

    with pytest.raises(Damaged, match="outside"):
        unpack(tar, tmp_path / "a" / "b", vectors=True)
    assert {path.name for path in tmp_path.rglob("*")} <= {"s.tar", "a", "b"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_only_files_and_directories_are_taken(tmp_path: Path, kind: bytes) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    with pytest.raises(Damaged, match="neither file nor directory"):
        unpack(_tar(tmp_path / "s.tar", ("x", b""), change=change), tmp_path / "o", vectors=True)
    assert _files(tmp_path / "o") == {}


def test_one_file_twice_is_damaged(tmp_path: Path) -> None:
    tar = _tar(tmp_path / "s.tar", ("a", b"1"), ("a", b"2"))

    with pytest.raises(Failed):
        unpack(tar, tmp_path / "o", vectors=True)


def _sparse(name: str, size: int, extents: list[tuple[int, bytes]]) -> bytes:
    """One GNU sparse member with up to four extents."""
    stored = b"".join(content for _, content in extents)
    info = tarfile.TarInfo(name)
    info.size = len(stored)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    for number, (start, content) in enumerate(extents):
        at = 386 + 24 * number
        header[at : at + 24] = f"{start:011o}\0{len(content):011o}\0".encode()
    header[483:495] = f"{size:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + stored + bytes(-len(stored) % 512) + bytes(1024)


def test_holes_stay_holes(tmp_path: Path) -> None:
    size = 256 << 20
    tar = tmp_path / "s.tar"
    tar.write_bytes(_sparse("big", size, [(4096, b"x" * 512), (size - 512, b"y" * 512)]))

    unpack(tar, tmp_path / "o", vectors=True)

    found = tmp_path / "o" / "big"
    assert found.stat().st_size == size
    assert found.stat().st_blocks * 512 < 1 << 20
    with found.open("rb") as file:
        file.seek(4096)
        assert file.read(513) == b"x" * 512 + b"\0"
        file.seek(-512, io.SEEK_END)
        assert file.read() == b"y" * 512


@pytest.mark.parametrize(
    ("size", "extents"),
    [(100, [(0, b"x" * 512)]), (2**33 - 1, [(2**33 - 100, b"x" * 512)])],
)
def test_extents_outside_of_their_file_are_damaged(
    tmp_path: Path, size: int, extents: list[tuple[int, bytes]]
) -> None:
    tar = tmp_path / "s.tar"
    tar.write_bytes(_sparse("big", size, extents))

    with pytest.raises(Damaged):
        unpack(tar, tmp_path / "o", vectors=True)


def test_absurd_sizes_and_numbers_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = bytearray(tarfile.TarInfo("big").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    tar = tmp_path / "s.tar"
    tar.write_bytes(bytes(header))
    with pytest.raises(Damaged):
        unpack(tar, tmp_path / "o", vectors=True)

    monkeypatch.setattr(module, "MOST", 3)
    many = _tar(tmp_path / "m.tar", *((f"f{n}", b"") for n in range(4)))
    with pytest.raises(Damaged, match="more than 3"):
        unpack(many, tmp_path / "p", vectors=True)


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(range(256)) * 4])
def test_what_is_no_tar_is_damaged(tmp_path: Path, content: bytes) -> None:
    tar = tmp_path / "s.tar"
    tar.write_bytes(content)

    with pytest.raises(Damaged, match="readable tar"):
        unpack(tar, tmp_path / "o", vectors=True)


def test_a_disk_that_fails_is_no_damage(tmp_path: Path) -> None:
    tar = _tar(tmp_path / "s.tar", *SNAPSHOT)
    (tmp_path / "o").write_text("a file is in the way")

    with pytest.raises(Failed) as caught:
        unpack(tar, tmp_path / "o", vectors=True)
    assert not isinstance(caught.value, Damaged)
    assert "work_dir" in caught.value.hint
