"""Blobs: chunks stored together, found one by one, and read back however they are scattered."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from vbackup.model.manifest import Artifact
from vbackup.repository.blobs import BlobMaker, open_blob
from vbackup.repository.codec import Compression
from vbackup.repository.index import ChunkIndex, Parts
from vbackup.repository.packs import PackBuilder, by_blob, chunk_ids, parse_entries
from vbackup.repository.repository import Repository, RepositoryOptions


def ids(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(start, start + count)]


@pytest.mark.parametrize(
    ("lengths", "blobs"),
    [
        ([], []),
        ([5], [1]),
        ([40, 40, 40], [2, 1]),
        ([100, 1], [1, 1]),
        ([300, 10, 10], [1, 2]),
        ([10, 300, 10], [1, 1, 1]),
        ([1] * 250, [100, 100, 50]),
    ],
)
def test_chunks_share_blobs_in_their_order(
    repository: Repository, lengths: list[int], blobs: list[int]
) -> None:
    rng = random.Random(1)
    chunks = [rng.randbytes(length) for length in lengths]
    maker = BlobMaker(repository.seal, Compression(1), 100)
    made = list(maker.make(ids(len(chunks)), chunks))
    assert [len(blob.ids) for blob in made] == blobs
    assert [chunk for blob in made for chunk in blob.ids] == ids(len(chunks))
    contents = [
        open_blob(repository.seal, blob.codec, sum(blob.lengths), blob.data) for blob in made
    ]
    assert b"".join(contents) == b"".join(chunks)


def test_blobs_of_equal_content_look_different(repository: Repository) -> None:
    maker = BlobMaker(repository.seal, Compression(1), 100)
    first, second = (next(maker.make(ids(1), [b"x" * 50])) for _ in range(2))
    assert bytes(first.data) != bytes(second.data)


def test_entries_say_where_each_chunk_is(repository: Repository) -> None:
    maker = BlobMaker(repository.seal, Compression(1), 100)
    chunks = [bytes([number]) * (10 + number) for number in range(20)]
    builder = PackBuilder()
    for blob in maker.make(ids(20), chunks):
        builder.append(blob)
    pack = builder.finish(repository.seal)
    assert chunk_ids(pack.entries) == ids(20)
    found = []
    for entries in by_blob(pack.entries):
        place = entries[0]
        stored = pack.data[int(place["offset"]) : int(place["offset"]) + int(place["stored"])]
        content = open_blob(repository.seal, int(place["codec"]), int(place["content"]), stored)
        assert len(set(entries["offset"].tolist())) == 1
        starts, stops = entries["start"], entries["start"] + entries["length"]
        found += [content[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
    assert found == chunks


def test_the_index_knows_chunks_in_every_run() -> None:
    """Packs are added one by one, and merged only now and then."""
    index = ChunkIndex()
    for number in range(40):
        index.add(bytes([number]) * 32, 1000, entries(ids(30, 30 * number)))
        known, packs = index.known([*ids(30 * number + 30), *ids(5, 9999)])
        assert known == [True] * (30 * number + 30) + [False] * 5
        assert packs == {bytes([n]) * 32 for n in range(number + 1)}
    assert len(index) == 1200
    place = index.find(ids(1, 754)[0])
    assert place is not None
    assert (place.pack, place.start, place.length) == (bytes([25]) * 32, 12, 3)
    index.settle()
    assert index.parts(ids(1, 754)) == [Parts(place, ids(1, 754), [12], [3])]
    assert [parts.chunks for parts in index.parts(ids(2, 1199))] == [ids(1, 1199)]


def test_chunks_are_gathered_by_blob_whatever_their_order() -> None:
    index = ChunkIndex()
    for number in (2, 1):
        index.add(bytes([number]) * 32, 1000, entries(ids(10, 10 * number)))
    asked = [ids(20, 10)[at] for at in (17, 3, 19, 15, 0)] + ids(1, 9999)
    found = index.parts(asked)
    assert [(p.blob.pack[0], p.blob.offset) for p in found] == [(1, 8), (2, 28)]
    assert [p.chunks for p in found] == [[asked[1], asked[4]], [asked[0], asked[2], asked[3]]]
    assert [p.starts for p in found] == [[9, 0], [6, 12, 0]]
    assert [p.lengths for p in found] == [[3, 3], [3, 3, 3]]
    assert index.parts([]) == []


def test_a_copy_in_an_avoided_pack_does_not_count() -> None:
    index = ChunkIndex()
    index.add(b"a" * 32, 1000, entries(ids(10)))
    index.avoid(b"a" * 32)
    assert index.known(ids(2)) == ([False, False], set())
    assert [parts.blob.pack for parts in index.parts(ids(1))] == [b"a" * 32]
    index.add(b"b" * 32, 1000, entries(ids(10)))
    assert index.known(ids(2)) == ([True, True], {b"b" * 32})
    assert [parts.blob.pack for parts in index.parts(ids(1))] == [b"b" * 32]
    assert index.known([]) == ([], set())


def entries(chunks: list[bytes]) -> Any:
    """Blobs of five chunks of three bytes, a pack of them."""
    count = len(chunks) // 5
    blobs = [(8 + 20 * n, 20, 15, 5, 0) for n in range(count)]
    head = np.array([count, len(chunks)], dtype="<u4").tobytes()
    table = np.array(blobs, dtype="<u4,<u4,<u4,<u4,u1").tobytes()
    listed = b"".join(chunk + (3).to_bytes(4, "little") for chunk in chunks)
    return parse_entries(head + table + listed, 2**20)


def test_many_generations_read_back_with_few_requests(kit: Any, monkeypatch: Any) -> None:
    """Ten backups of rows that change here and there: the last lies in blobs of all of them."""
    store = kit.store(kit.clock())
    options = RepositoryOptions(chunk_size=1024, blob_size=16_384, pack_size=2**20)
    repository = Repository.create(store, passphrase="pw", options=options, clock=store.clock)
    rng = random.Random(3)
    rows = [rng.randbytes(100) for _ in range(5000)]
    for number in range(10):
        kit.back_up(repository, f"b{number}", rows=b"".join(rows))
        for at in rng.sample(range(5000), 50):
            rows[at] = rng.randbytes(100)
        last = b"".join(rows)
    kit.back_up(repository, "last", rows=last)
    opened = Repository.open(store, passphrase="pw", options=options, clock=store.clock)
    artifact: Artifact = opened.load("last").artifacts()[0]
    pieces = list(opened.reader.pieces(artifact))
    blobs = {(place.pack, place.offset) for piece in pieces for place in places(opened, piece)}
    assert len({pack for pack, _ in blobs}) >= 10
    requests = kit.counted(store, monkeypatch)
    assert b"".join(opened.read(artifact)) == last
    assert len(requests) < 40 < len(pieces)


def places(repository: Repository, piece: Any) -> Any:
    return repository.reader.places(piece.chunk)[:1]
