"""Unpacks a shard snapshot for offline reading: nothing but plain files, nowhere but below.

Members are mapped to where the engine looks for them, and holes of sparse files stay holes. When
only ids and payload are wanted, the vectors (most of the bytes) become holes as well: without
their files the engine refuses a segment that has an HNSW index, and with another index type in
`segment.json` it would silently look for the points in the wrong files.
"""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from vbackup.errors import Damaged, Failed

LARGEST = 1 << 42
"""Bytes. No file of a shard is larger; a header that says so is damaged."""
MOST = 1_000_000
"""Members. Segments have a few dozen files each."""
_COPY = 1 << 20
_MATRIX_HEADER = 4


def unpack(tar: Path, directory: Path, *, vectors: bool) -> None:
    """Unpack the snapshot `tar` into `directory`, which must be new or empty.

    Raises Damaged for anything that is not a shard snapshot, Failed when the disk is full.
    """
    try:
        with tarfile.open(tar, "r:") as archive:
            _members(archive, tar, directory, vectors)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise Damaged(f"{tar.name} is not a readable tar: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "set [watermark] work_dir to a disk with room for the payload of the collections"
        raise Failed(f"cannot unpack {tar.name} into {directory}: {reason}", hint=hint) from error


def _members(archive: tarfile.TarFile, tar: Path, directory: Path, vectors: bool) -> None:
    for number, member in enumerate(archive):
        if number >= MOST:
            raise Damaged(f"{tar.name} has more than {MOST} members")
        path = _place(member, tar)
        target = directory / path
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        elif member.isreg() or member.issparse():
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(archive, member, target, None if vectors else _kept(path))
        else:
            raise Damaged(f"{tar.name} holds {member.name!r}, which is neither file nor directory")


def _place(member: tarfile.TarInfo, tar: Path) -> PurePosixPath:
    """Where the member goes: streamed segments keep their files one level further down."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise Damaged(f"{tar.name} holds a member outside of itself: {member.name!r}")
    if not 0 <= member.size <= LARGEST:
        raise Damaged(f"{tar.name} holds {member.name!r} of {member.size} bytes")
    parts = path.parts
    if len(parts) > 2 and parts[0] == "segments" and parts[2] == "files":
        parts = parts[:2] + parts[3:]
    return PurePosixPath(*parts)


def _kept(path: PurePosixPath) -> int | None:
    """How many bytes of a file are needed to read ids and payload; None: all of them."""
    if not any(part.startswith("vector_storage") for part in path.parts):
        return None
    if path.name == "matrix.dat":
        return _MATRIX_HEADER
    return 0 if path.name.startswith("chunk_") and path.suffix == ".mmap" else None


def _copy(
    archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, kept: int | None
) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise Damaged(f"{member.name!r} has no content")
    # The type stub knows the raw header bytes only; once opened, it is the list of extents.
    sparse: Any = member.sparse
    extents: list[tuple[int, int]] = [(0, member.size)] if sparse is None else sparse
    with source, target.open("xb") as file:
        for start, size in extents:
            if start < 0 or size < 0 or start + size > member.size:
                raise Damaged(f"{member.name!r} has a part outside of itself")
            if kept is not None:
                size = max(0, min(size, kept - start))
            source.seek(start)
            file.seek(start)
            _copy_bytes(source, file, size)
        file.truncate(member.size)


def _copy_bytes(source: IO[bytes], file: BinaryIO, size: int) -> None:
    while size:
        data = source.read(min(size, _COPY))
        if not data:
            raise Damaged("the tar is cut off inside a member")
        file.write(data)
        size -= len(data)
