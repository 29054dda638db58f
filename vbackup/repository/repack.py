"""Repacking: what is still in use of half-empty packs moves into new ones, verified on the way."""

from __future__ import annotations

from collections.abc import Iterable

from vbackup.errors import Damaged, Failed, NotFound
from vbackup.repository.marks import Marks
from vbackup.repository.packs import entries_of, open_chunk, pack_id, pack_key
from vbackup.repository.repository import Repository
from vbackup.repository.uploader import PackUploader


def repack(repository: Repository, packs: Iterable[bytes], marks: Marks) -> tuple[set[bytes], int]:
    """The packs whose used chunks are all stored anew, and the bytes that this took.

    A pack with a used chunk that cannot be verified is left as it is. Raises Failed when the
    store did not keep what was written."""
    uploader = repository.uploader(repository.index())
    try:
        moved = {pack for pack in packs if _move(repository, uploader, pack, marks.offsets(pack))}
        uploader.flush()
        for pack in uploader.packs:  # The originals are about to go: trust only what reads back.
            if pack_id(repository.store.get(pack_key(pack))) != pack:
                raise Failed(f"{pack_key(pack)} was not stored as it was written")
    finally:
        uploader.close()
    return moved, uploader.bytes_uploaded


def _move(repository: Repository, uploader: PackUploader, pack: bytes, offsets: set[int]) -> bool:
    try:
        data = memoryview(repository.store.get(pack_key(pack)))
        entries = entries_of(repository.seal, data, len(data))
        used = [entry for entry in entries if int(entry["offset"]) in offsets]
        blobs = []
        for entry in used:
            chunk, codec, length = bytes(entry["id"]), int(entry["codec"]), int(entry["length"])
            begin = int(entry["offset"])
            blob = data[begin : begin + int(entry["stored"])]
            open_chunk(repository.seal, repository.hasher, chunk, codec, length, blob)
            blobs.append((chunk, blob, length, codec))
    except (Damaged, NotFound):
        return False
    for chunk, blob, length, codec in blobs:
        uploader.append(chunk, blob, length, codec)
    return len(used) == len(offsets)
