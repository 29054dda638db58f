"""Manifests, packs and indexes that somebody with the keys wrote to do harm; headers and leases
that anybody wrote who may write the bucket."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vbackup.errors import Damaged, Locked, Refused, Usage, VbackupError
from vbackup.model.manifest import Artifact
from vbackup.repository import checks, header, lease, manifest, packs, quarantine, recipe, sealed
from vbackup.repository import index as index_objects
from vbackup.repository.blobs import Blob, open_blob, open_chunk, seal_blob
from vbackup.repository.catalog import load_index
from vbackup.repository.check import verify
from vbackup.repository.codec import RAW, ZSTD
from vbackup.repository.index import ChunkIndex
from vbackup.repository.packs import ENTRY, HEADER, PackBuilder, pack_key
from vbackup.repository.repository import Repository

Reopen = Callable[[], Repository]
HEX = "ab" * 16


def rewrite(repository: Repository, change: Callable[[Any], None]) -> None:
    """Replace the manifest of b1 by a genuine one with other content."""
    loose = json.loads(msgspec.json.encode(repository.load("b1")))
    change(loose)
    raw = json.dumps(loose).encode()
    data = sealed.encode(repository.seal, sealed.MANIFEST, "b1", raw)
    repository.store.put("backups/b1/manifest", data)


def artifact(loose: Any) -> Any:
    return loose["postgres"]["dumps"][0]["artifact"]


HOSTILE: dict[str, Callable[[Any], None]] = {
    "absolute name": lambda m: artifact(m).update(name="/etc/cron.d/x"),
    "climbing name": lambda m: artifact(m).update(name="../../x"),
    "climbing in the middle": lambda m: artifact(m).update(name="a/../../x"),
    "nul in a name": lambda m: artifact(m).update(name="a\0b"),
    "backslash": lambda m: artifact(m).update(name="..\\x"),
    "empty name": lambda m: artifact(m).update(name=""),
    "endless name": lambda m: artifact(m).update(name="a" * 100_000),
    "huge length": lambda m: artifact(m).update(length=2**63),
    "negative length": lambda m: artifact(m).update(length=-1),
    "length as text": lambda m: artifact(m).update(length="10"),
    "deep recipe": lambda m: artifact(m).update(depth=10_000),
    "negative depth": lambda m: artifact(m).update(depth=-1),
    "many roots": lambda m: artifact(m).update(root=[HEX] * 1000),
    "root is no digest": lambda m: artifact(m).update(root=["../../vbackup.json"]),
    "root without length": lambda m: artifact(m).update(length=0),
    "no digest": lambda m: artifact(m).update(sha256="zz"),
    "another id": lambda m: m.update(id="b2"),
    "missing member": lambda m: m.pop("watermark"),
    "version 0": lambda m: m.update(version=0),
    "version as text": lambda m: m.update(version="1"),
    "no version": lambda m: m.pop("version"),
    "naive time": lambda m: m.update(created_at="2026-01-01T00:00:00"),
    "climbing collection": lambda m: m.update(qdrant=collection("../x")),
    "collection with a slash": lambda m: m.update(qdrant=collection("a/b")),
}


def collection(name: str) -> Any:
    part = {"name": name, "config": {}, "payload_schema": {}, "aliases": [], "shards": []}
    return {"server_version": "1", "nodes": 1, "collections": [{**part, "points": 0, "bytes": 0}]}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_damaged(repository: Repository, kit: Any, name: str) -> None:
    kit.back_up(repository, "b1", data=kit.noise(5000))
    rewrite(repository, HOSTILE[name])
    with pytest.raises(Damaged, match="b1"):
        repository.load("b1")
    assert repository.backups()[0].unreadable


def test_a_newer_manifest_is_refused_and_unknown_members_are_not(
    repository: Repository, kit: Any
) -> None:
    kit.back_up(repository, "b1", data=b"x")
    rewrite(repository, lambda m: m.update(later={"a": 1}))
    assert repository.load("b1").id == "b1"
    rewrite(repository, lambda m: m.update(version=2))
    with pytest.raises(Refused, match="version 2"):
        repository.load("b1")


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b'{"version":1}', b"1e999"])
def test_a_manifest_that_is_no_manifest(repository: Repository, kit: Any, raw: bytes) -> None:
    kit.back_up(repository, "b1", data=b"x")
    data = sealed.encode(repository.seal, sealed.MANIFEST, "b1", raw)
    repository.store.put("backups/b1/manifest", data)
    with pytest.raises(Damaged):
        repository.load("b1")


def test_a_manifest_bomb_costs_no_memory(repository: Repository, kit: Any) -> None:
    kit.back_up(repository, "b1", data=b"x")
    data = sealed.encode(repository.seal, sealed.MANIFEST, "b1", bytes(400 * 1024**2))
    repository.store.put("backups/b1/manifest", data)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="more than"):
            repository.load("b1")
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["..", "a/../b", "a b", "ü/ö", "", "%", ".", "x\0y", "…" * 50])
def test_any_text_becomes_an_artifact_name(text: str) -> None:
    name = manifest.artifact_name("table", text or "empty")
    assert manifest.check_name(name) == name
    assert name.count("/") == 1


def test_different_texts_become_different_names() -> None:
    texts = ["..", ".", "%2E", "%2E%2E", "a/b", "a%2Fb", "a", "A"]
    assert len({manifest.artifact_name(text) for text in texts}) == len(texts)


def test_empty_parts_are_no_name() -> None:
    with pytest.raises(Usage):
        manifest.check_name(manifest.artifact_name("table", ""))


# ---------------------------------------------------------------- deep JSON

DEEP = [b"[" * 60_000, b'{"x":' + b"[" * 60_000, b'{"detail":' * 6_000]


@pytest.mark.parametrize("raw", DEEP)
def test_a_deep_header_is_damaged(store: Any, raw: bytes) -> None:
    store.put(header.KEY, raw)
    with pytest.raises(Damaged, match="malformed") as caught:
        header.load(store, None)
    assert "another copy" in caught.value.hint


@pytest.mark.parametrize("raw", DEEP)
def test_a_deep_claim_is_one_that_nobody_can_read(
    repository: Repository, store: Any, clock: Any, kit: Any, raw: bytes
) -> None:
    store.put("leases/writer/deep", raw)
    assert [claim.record for claim in repository.holders()] == [None]
    with pytest.raises(Locked, match="deep"):
        repository.begin("b1")
    clock.advance(lease.TTL + 1)
    kit.back_up(repository, "b1", data=b"x")


@pytest.mark.parametrize("raw", DEEP)
def test_a_deep_manifest_is_damaged(repository: Repository, kit: Any, raw: bytes) -> None:
    kit.back_up(repository, "b1", data=b"x")
    data = sealed.encode(repository.seal, sealed.MANIFEST, "b1", raw)
    repository.store.put("backups/b1/manifest", data)
    with pytest.raises(Damaged, match="malformed"):
        repository.load("b1")


@pytest.mark.parametrize("raw", DEEP)
def test_a_deep_check_record_costs_no_listing(repository: Repository, kit: Any, raw: bytes) -> None:
    kit.back_up(repository, "b1", data=b"x")
    key = "backups/b1/checks/20260101T000000000000Z-chunks"
    repository.store.put(key, sealed.encode(repository.seal, sealed.CHECK, key, raw))
    assert repository.backups()[0].verified is None
    assert checks.newest_passed(repository, "chunks") is None
    assert "malformed" in str(verify(repository, "b1").damage[0])


@pytest.mark.parametrize("raw", DEEP)
def test_a_deep_record_of_unused_packs_counts_as_none(repository: Repository, raw: bytes) -> None:
    key = quarantine.UNUSED_KEY
    repository.store.put(key, sealed.encode(repository.seal, sealed.UNUSED, key, raw))
    assert quarantine.unused_packs(repository.store, repository.seal) == {}


# ---------------------------------------------------------------- recipes


def planted(
    repository: Repository, contents: list[bytes], called: list[bytes] | None = None
) -> list[bytes]:
    """Genuine chunks of any content; their ids, or the ones that they are `called`."""
    builder = PackBuilder()
    ids = called or [repository.hasher.id(content) for content in contents]
    for chunk, content in zip(ids, contents, strict=True):
        data = seal_blob(repository.seal, RAW, len(content), content)
        builder.append(Blob(data, [chunk], [len(content)], RAW))
    pack = builder.finish(repository.seal)
    repository.store.put(pack_key(pack.id), pack.data)
    index_objects.write(
        repository.store, repository.seal, [(pack.id, len(pack.data), pack.entries)]
    )
    return ids


def entries(*pairs: tuple[bytes, int]) -> bytes:
    return b"".join(recipe.ENTRY.pack(chunk, span) for chunk, span in pairs)


@pytest.mark.parametrize(
    ("content", "length", "depth"),
    [
        (lambda c: entries((c, 2**63)), 2**50, 1),
        (lambda c: entries((c, 100), (c, 0)), 100, 1),
        (lambda c: entries((c, 100))[:-1], 100, 1),
        (lambda c: b"\0" * 100, 100, 1),
        (lambda c: entries((c, 100), (c, 100)), 150, 1),
        (lambda c: entries((c, 100)), 200, 1),
        (lambda c: entries((c, 17 * 1024**2)), 17 * 1024**2, 1),
        (lambda c: entries(*[(c, 1)] * 100), 100, 6),
        (lambda c: entries((c, 99)), 99, 1),
    ],
    ids=[
        "huge span",
        "no span",
        "half an entry",
        "zeros",
        "too long",
        "too short",
        "chunk too long",
        "deeper than it is",
        "not the chunk's length",
    ],
)
def test_a_hostile_recipe_is_damaged(
    repository: Repository,
    reopen: Reopen,
    content: Callable[[bytes], bytes],
    length: int,
    depth: int,
) -> None:
    data = b"d" * 100
    chunk, root = planted(repository, [data, content(repository.hasher.id(data))])
    assert chunk
    hostile = Artifact("x", length, "0" * 64, (root.hex(),), depth)
    with pytest.raises(Damaged, match="x: bytes"):
        for _ in reopen().read(hostile):
            pass


def test_good_chunks_in_another_order_are_not_the_artifact(
    repository: Repository, reopen: Reopen
) -> None:
    """The lengths add up, and every chunk is what its id says: only the root tells."""
    first, second = planted(repository, [b"a" * 100, b"b" * 100])
    right = entries((first, 100), (second, 100))
    root = repository.hasher.id(right)
    artifact = Artifact(
        "x", 200, root=(root.hex(),), depth=1, blake3=blake3(b"a" * 100 + b"b" * 100).hexdigest()
    )
    planted(repository, [entries((second, 100), (first, 100))], called=[root])
    with pytest.raises(Damaged, match="x: bytes 0-200 are damaged"):
        b"".join(reopen().read(artifact))
    assert [found[:2] for found in reopen().reader.damage(artifact)] == [(0, 200)]

    planted(repository, [right])
    assert b"".join(reopen().read(artifact)) == b"a" * 100 + b"b" * 100


@pytest.mark.parametrize(("spans", "total"), [([5, 5], 11), ([5, 5], 9), ([], 0), ([0], 0)])
def test_spans_add_up(spans: list[int], total: int) -> None:
    with pytest.raises(Damaged):
        recipe.parse(entries(*[(b"c" * 16, span) for span in spans]), span=total, depth=1)


def test_a_recipe_that_repeats_itself_is_read_in_constant_memory(
    repository: Repository, reopen: Reopen
) -> None:
    """A small recipe may stand for very much: it must stream, not pile up."""
    data = bytes(8192)
    chunk = repository.hasher.id(data)
    level1 = entries(*[(chunk, 8192)] * 100)
    id1 = repository.hasher.id(level1)
    level2 = entries(*[(id1, 819_200)] * 50)
    planted(repository, [data, level1, level2])
    big = Artifact("x", 40_960_000, "0" * 64, (repository.hasher.id(level2).hex(),), 2)
    opened = reopen()
    assert list(opened.read_range(big, 0, 1))
    tracemalloc.start()
    try:
        total = sum(len(data) for data in opened.read_range(big, 0, big.length))
        assert total == big.length
        assert tracemalloc.get_traced_memory()[1] < 36 * 1024**2
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- packs and indexes


BLOB = {"offset": 8, "stored": 40, "content": 10, "chunks": 1, "codec": RAW}
CHUNK = ("c" * 16, 10)


def table(*chunks: tuple[str, int], counted: tuple[int, int] | None = None, **blob: int) -> bytes:
    """A stored pack index of one blob with these chunks."""
    blobs, count = counted or (1, len(chunks))
    place = {**BLOB, "chunks": len(chunks), **blob}
    listed = [struct.pack("<16sI", chunk.encode(), length) for chunk, length in chunks]
    return struct.pack("<IIIIIIB", blobs, count, *place.values()) + b"".join(listed)


def test_a_pack_index_is_what_docs_say() -> None:
    found = packs.parse_entries(table(("a" * 16, 4), ("b" * 16, 6)), 48)
    assert [bytes(chunk) for chunk in found["id"]] == [b"a" * 16, b"b" * 16]
    assert found["start"].tolist() == [0, 4]
    assert set(found["offset"].tolist()) == {8}
    assert packs.dump_entries(found) == table(("a" * 16, 4), ("b" * 16, 6))


@pytest.mark.parametrize(
    "raw",
    [
        table(CHUNK, offset=2**32 - 1),
        table(CHUNK, offset=0),
        table(CHUNK, stored=2**32 - 1),
        table(CHUNK, content=2**32 - 1),
        table(("c" * 16, 2**32 - 1), content=2**32 - 1),
        table(("c" * 16, 17 * 1024**2), content=17 * 1024**2),
        table(("c" * 16, 0), content=0),
        table(CHUNK, ("d" * 16, 0)),
        table(CHUNK, content=9),
        table(CHUNK, content=11),
        table(CHUNK, codec=77),
        table(CHUNK, chunks=0),
        table(CHUNK, chunks=2),
        table(CHUNK, chunks=2**32 - 1),
        table(CHUNK, CHUNK, content=20, chunks=1),
    ],
)
def test_hostile_entries_are_damaged(repository: Repository, raw: bytes) -> None:
    with pytest.raises(Damaged, match="impossible"):
        packs.parse_entries(raw, 1000)
    with pytest.raises(Damaged):
        index_objects._parse(struct.pack("<32sQI", b"p" * 32, 1000, len(raw)) + raw)
    pack = bytearray(HEADER + bytes(1000))
    sealed_index = repository.seal.seal(b"pack index", b"s" * 16, raw, HEADER)
    pack += sealed_index + struct.pack("<16sI4s", b"s" * 16, len(sealed_index), b"KPBV")
    with pytest.raises(Damaged):
        packs.entries_of(repository.seal, pack, len(pack))


def test_a_trailer_makes_nobody_read_more_than_an_index_can_have(
    repository: Repository, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody who may write the bucket can write a pack that no index names."""
    size = 8 * 1024**2
    trailer = struct.pack("<16sI4s", bytes(16), size - 32, b"KPBV")
    key = pack_key(b"p" * 32)
    store.put(key, HEADER + bytes(size - len(HEADER) - len(trailer)) + trailer)
    asked: list[int] = []
    get = store.get

    def counting(key: str, start: int = 0, length: int | None = None) -> bytes:
        asked.append(size if length is None else length)
        return bytes(get(key, start, length))

    monkeypatch.setattr(store, "get", counting)
    assert "index" in repository.load_catalog().unreadable[key]
    assert sum(asked) < 4 * 1024**2


def test_the_largest_index_of_a_pack_is_read(repository: Repository, store: Any) -> None:
    """Every chunk in a blob of its own."""
    builder = PackBuilder()
    for number in range(packs.MAX_ENTRIES):
        builder.append(Blob(b"b", [number.to_bytes(16, "big")], [1], RAW))
    pack = builder.finish(repository.seal)
    store.put(pack_key(pack.id), pack.data)
    found = packs.read_entries(store, repository.seal, pack.id, len(pack.data))
    assert len(found) == packs.MAX_ENTRIES


def test_an_index_object_under_anothers_name_is_damaged(repository: Repository, kit: Any) -> None:
    kit.back_up(repository, "b1", data=b"x" * 3000)
    key = next(stat.key for stat in repository.store.scan("index/"))
    other = "index/" + "0" * 64
    repository.store.put(other, repository.store.get(key))
    assert index_objects.read(repository.store, repository.seal, key)
    with pytest.raises(Damaged, match="name"):
        index_objects.read(repository.store, repository.seal, other)


def test_index_objects_that_are_larger_than_listed_are_not_read_together(
    repository: Repository, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several are fetched at a time because they are listed as small."""
    kit.back_up(repository, "b1", data=b"x" * 3000)
    store: Any = repository.store
    keys = store.names("index/")
    asked: list[int] = []
    honest = store.get

    def endless(key: str, start: int = 0, length: int | None = None) -> bytes:
        if key not in keys:
            return bytes(honest(key, start, length))
        assert length is not None
        asked.append(length)
        return bytes(length)

    monkeypatch.setattr(store, "get", endless)
    unreadable = load_index(store, repository.seal).unreadable
    assert list(unreadable) == keys
    assert "larger" in unreadable[keys[0]]
    assert max(asked) <= store.stat(keys[0]).size + 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x",
        bytes(8),
        bytes(45),
        table(CHUNK)[:-1],
        table(CHUNK) + b"x",
        table(CHUNK, counted=(2, 1)),
        table(CHUNK, counted=(1, 2)),
        table(CHUNK, counted=(0, 1)),
        table(CHUNK, counted=(2**32 - 1, 2**32 - 1)),
        table(*[(f"{n:016}", 1) for n in range(65_537)], content=65_537),
    ],
)
def test_entries_of_impossible_length(raw: bytes) -> None:
    with pytest.raises(Damaged, match="length"):
        packs.parse_entries(raw, 2**30)


def test_a_chunk_under_anothers_id_is_damaged(repository: Repository) -> None:
    chunk = repository.hasher.id(b"right")
    assert open_chunk(repository.hasher, chunk, b"wrong right wrong", 6, 5) == b"right"
    for content, start, length in ((b"wrong", 0, 5), (b"right", 0, 4), (b"right", 1, 5)):
        with pytest.raises(Damaged, match="id"):
            open_chunk(repository.hasher, chunk, content, start, length)


def test_a_blob_sealed_as_another_length_is_damaged(repository: Repository) -> None:
    blob = seal_blob(repository.seal, RAW, 5, b"right")
    assert open_blob(repository.seal, RAW, 5, blob) == b"right"
    for codec, length in ((ZSTD, 5), (RAW, 2**24)):
        with pytest.raises(Damaged):
            open_blob(repository.seal, codec, length, blob)
    for cut in (b"", blob[:10], blob[:16], blob[:-1]):
        with pytest.raises(Damaged):
            open_blob(repository.seal, RAW, 5, cut)


@given(data=st.binary(max_size=400), size=st.integers(0, 2**40))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_garbage_is_no_pack_and_no_index(repository: Repository, data: bytes, size: int) -> None:
    for claimed in (len(data), size):
        with pytest.raises(Damaged):
            packs.entries_of(repository.seal, data + b"KPBV", claimed)
    with pytest.raises(Damaged):
        index_objects._parse(data + b"\1")


@given(
    data=st.data(),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=8),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_changed_nothing_wrong_is_ever_restored(
    kit: Any, data: st.DataObject, flips: list[tuple[int, int]]
) -> None:
    store = kit.store(kit.clock())
    options = replace(kit.small, pack_size=8192)
    streams = {"a": kit.noise(9000), "b": kit.text(9000)}
    repository = Repository.create(store, passphrase="pw", options=options, clock=store.clock)
    kit.back_up(repository, "b1", **streams)
    for position, mask in flips:
        key = data.draw(st.sampled_from(store.names()))
        content = bytearray(store.get(key))
        content[position % len(content)] ^= mask
        store.put(key, content)
    try:
        opened = Repository.open(store, passphrase="pw", options=options, clock=store.clock)
        restored = kit.contents(opened, "b1")
    except VbackupError:
        return
    assert restored == streams


# ---------------------------------------------------------------- vbackup.json


@given(st.binary(max_size=300))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_garbage_is_no_header(kit: Any, raw: bytes) -> None:
    store = kit.store(kit.clock())
    store.put(header.KEY, raw)
    with pytest.raises((Damaged, Refused)):
        header.load(store, None)


@pytest.mark.parametrize(
    "values",
    [
        {"n": 2**30},
        {"n": 3},
        {"n": 2**16, "r": 1},
        {"r": 10_000},
        {"p": 10_000},
        {"salt": "zz"},
        {"wrapped": "00"},
    ],
)
def test_a_key_slot_that_would_cost_absurd_memory_or_cannot_be_is_damaged(
    store: Any, clock: Any, values: dict[str, Any]
) -> None:
    Repository.create(store, passphrase="pw", clock=clock)
    loose = json.loads(store.get(header.KEY))
    loose["slots"][0].update(values)
    store.put(header.KEY, json.dumps(loose).encode())
    with pytest.raises(Damaged, match="key slot"):
        Repository.open(store, passphrase="pw", clock=clock)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["slots"][0].update(label="another"),
        lambda h: h.update(slots=h["slots"] * 2),
        lambda h: h["chunker"].update(minimum=40_000),
        lambda h: h.update(created_at="2020-01-01T00:00:00Z"),
        lambda h: h.update(mac=h["mac"].upper()),
        lambda h: h.update(extra=1),
    ],
)
def test_a_header_that_was_changed_is_damaged(
    store: Any, clock: Any, change: Callable[[Any], None]
) -> None:
    Repository.create(store, passphrase="pw", clock=clock)
    loose = json.loads(store.get(header.KEY))
    change(loose)
    store.put(header.KEY, msgspec.json.encode(loose))
    with pytest.raises(Damaged, match="changed"):
        Repository.open(store, passphrase="pw", clock=clock)


def test_a_header_only_reformatted_is_damaged_too(store: Any, clock: Any) -> None:
    Repository.create(store, passphrase="pw", clock=clock)
    store.put(header.KEY, store.get(header.KEY) + b"\n")
    with pytest.raises(Damaged, match="changed"):
        Repository.open(store, passphrase="pw", clock=clock)


def test_a_huge_header_is_not_read(store: Any) -> None:
    store.put(header.KEY, b" " * 2_000_000)
    with pytest.raises(Damaged, match="larger"):
        header.load(store, None)


# ---------------------------------------------------------------- size


def test_a_million_chunks_fit_into_little_memory() -> None:
    """100 GB and more: the index stays under 150 MiB, also while it is loaded."""
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        index = ChunkIndex()
        probes = []
        for number in range(250):
            found = np.zeros(4000, dtype=ENTRY)
            found["id"] = np.frombuffer(rng.bytes(16 * 4000), dtype="V16")
            found["offset"], found["stored"], found["length"] = 8, 100, number + 1
            found["content"] = 16 * (number + 1)
            found["start"] = np.tile(np.arange(16) * (number + 1), 250)
            probes.append((bytes(found["id"][17]), number + 1))
            index.learn([(number.to_bytes(32, "big"), 2**24, found)])
        index.settle()
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == 1_000_000
    assert current < 48 * 1024**2
    assert peak < 130 * 1024**2
    for chunk, length in probes:
        place = index.find(chunk)
        assert place is not None
        assert place.length == length
    assert index.find(b"\0" * 16) is None
    rows = index.rows_of([chunk for chunk, _ in probes] + [b"\0" * 16])
    assert (rows[:-1] >= 0).all()
    assert rows[-1] == -1
