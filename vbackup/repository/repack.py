"""Repacking: what is still in use of half-empty packs moves into new ones, verified on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vbackup.errors import Damaged, Failed, NotFound
from vbackup.repository.blobs import Blob, open_blob, open_chunk
from vbackup.repository.marks import Marks
from vbackup.repository.packs import Entries, by_blob, chunk_ids, entries_of, pack_id, pack_key
from vbackup.repository.repository import Repository
from vbackup.repository.uploader import Append


def repack(repository: Repository, packs: Iterable[bytes], marks: Marks) -> tuple[set[bytes], int]:
    """The packs whose used chunks are all stored anew, and the bytes of the packs that this took.

    A pack with a used chunk that cannot be verified is left as it is. Raises Failed when the
    store did not keep what was written."""
    uploader = repository.uploader(repository.index())
    try:
        with uploader.lane() as append:
            moved = {pack for pack in packs if _move(repository, append, pack, marks.chunks(pack))}
        uploader.flush()
        for pack in uploader.packs:  # The originals are about to go: trust only what reads back.
            if pack_id(_whole(repository, pack)) != pack:
                raise Failed(f"{pack_key(pack)} was not stored as it was written")
    finally:
        uploader.close()
    sizes = repository.index().packs
    return moved, sum(sizes[pack] for pack in uploader.packs)


def _move(repository: Repository, append: Append, pack: bytes, chunks: set[bytes]) -> bool:
    """Store a pack's used chunks anew. What was stored before something cannot be verified is
    only there twice."""
    moved = 0
    try:
        data = memoryview(_whole(repository, pack))
        for entries in by_blob(entries_of(repository.seal, data, len(data))):
            used = [at for at, chunk in enumerate(chunk_ids(entries)) if chunk in chunks]
            if used:
                _move_blob(repository, append, data, entries, used)
            moved += len(used)
    except (Damaged, NotFound):
        return False
    return moved == len(chunks)


def _move_blob(
    repository: Repository,
    append: Append,
    data: memoryview,
    entries: Entries,
    used: Sequence[int],
) -> None:
    place, ids = entries[0], chunk_ids(entries)
    stored = data[int(place["offset"]) : int(place["offset"]) + int(place["stored"])]
    content = open_blob(repository.seal, int(place["codec"]), int(place["content"]), stored)
    ids = [ids[at] for at in used]
    parts = [
        open_chunk(repository.hasher, chunk, content, int(one["start"]), int(one["length"]))
        for chunk, one in zip(ids, entries[used], strict=True)
    ]
    if len(used) == len(entries):
        append([Blob(stored, ids, list(map(len, parts)), int(place["codec"]))])
    else:
        append(list(repository.blobs.make(ids, parts)))


def _whole(repository: Repository, pack: bytes) -> bytes:
    """All of a pack, and no more than it should have. Raises NotFound."""
    return repository.store.get(pack_key(pack), 0, repository.index().packs[pack] + 1)
