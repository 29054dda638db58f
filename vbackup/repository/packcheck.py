"""One pack read back in full: its hash, its index, every chunk in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from vbackup.errors import Damaged, NotFound
from vbackup.repository import index as index_objects
from vbackup.repository.blobs import open_blob, open_chunk
from vbackup.repository.packs import (
    ENTRY,
    HEADER,
    Entries,
    by_blob,
    chunk_ids,
    entries_of,
    pack_id,
    pack_key,
)
from vbackup.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class PackCheck:
    """`problem` is empty when every byte is as it was written; else `bad` are the ids of the
    chunks that cannot be had from this pack."""

    pack: bytes
    problem: str = ""
    bad: frozenset[bytes] = frozenset()


def check_pack(repository: Repository, pack: bytes, size: int) -> PackCheck:
    """Read the pack, which has `size` bytes; once more when something is wrong, since bytes also
    flip on the way."""
    found = _check(repository, pack, size)
    return _check(repository, pack, size) if found.problem else found


def _check(repository: Repository, pack: bytes, size: int) -> PackCheck:
    try:
        data = memoryview(repository.store.get(pack_key(pack), 0, size + 1))
    except NotFound:
        expected = _indexed_entries(repository, pack)
        return PackCheck(pack, "the pack is missing", frozenset(chunk_ids(expected)))
    problem = ""
    if pack_id(data) != pack or data[: len(HEADER)] != HEADER:
        problem = "the pack's bytes are not those that were written"
    try:
        entries = entries_of(repository.seal, data, len(data))
    except Damaged as error:
        # The chunks may still be good, and the repository's index lead to them.
        problem, entries = str(error), _indexed_entries(repository, pack)
    bad = frozenset(_bad(repository, data, entries))
    if bad and not problem:
        problem = f"{len(bad)} chunks do not hold what their ids say"
    return PackCheck(pack, problem, bad)


def _bad(repository: Repository, data: memoryview, entries: Entries) -> Iterator[bytes]:
    for blob in by_blob(entries):
        place, ids = blob[0], chunk_ids(blob)
        stored = data[int(place["offset"]) : int(place["offset"]) + int(place["stored"])]
        try:
            content = open_blob(repository.seal, int(place["codec"]), int(place["content"]), stored)
        except Damaged:
            yield from ids
            continue
        for chunk, start, length in zip(ids, blob["start"], blob["length"], strict=True):
            try:
                open_chunk(repository.hasher, chunk, content, int(start), int(length))
            except Damaged:
                yield chunk


def _indexed_entries(repository: Repository, pack: bytes) -> Entries:
    """What the index objects say of a pack whose own index is lost."""
    for stat in repository.store.scan(index_objects.PREFIX):
        with suppress(Damaged, NotFound):
            for found, _, entries in index_objects.read(
                repository.store, repository.seal, stat.key
            ):
                if found == pack:
                    return entries
    return np.empty(0, dtype=ENTRY)
