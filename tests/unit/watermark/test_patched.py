"""Stored points with the patch applied: as a dictionary would say, in flat memory."""

from __future__ import annotations

import gc
import tracemalloc
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from vbackup.engine.apply import Reembeds, expected_keys
from vbackup.engine.keysets import KeySets
from vbackup.engine.patched import PatchedPoints
from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.columns import Numbers, Uuids
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.model.patch import Delete, PatchLine, Reembed, Upsert, decode, encode, named

ROWS = (RowSource(table="t", key=("id",), version="v"),)
LINK = Link("docs", "docs", ROWS, ref=(PayloadPath(("key",)),), version=PayloadPath(("v",)))
MB = 2**20


def project(link: Link, ids: Sequence[PointId], payloads: Sequence[dict[str, Any]]) -> PointBlock:
    """What the adapter does: columns of the points that a filter admits."""
    kept = [(i, p) for i, p in zip(ids, payloads, strict=True) if not p.get("hidden")]
    return PointBlock(
        ids=[i for i, _ in kept],
        refs=[p.get("key") for _, p in kept],
        versions=[str(p["v"]) for _, p in kept],
    )


class Points:
    """A PointReader over a dictionary."""

    def __init__(self, points: dict[PointId, dict[str, Any]]) -> None:
        self.held = points

    def collections(self) -> Sequence[str]:
        return ["docs"]

    def block(self, ids: Iterable[PointId]) -> PointBlock:
        found = [i for i in ids if i in self.held]
        return project(LINK, found, [self.held[i] for i in found])

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        ids = list(self.held)
        for start in range(0, len(ids), 7):
            yield self.block(ids[start : start + 7])

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        return self.block(ids)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        return self.block([i for i, p in self.held.items() if p["key"] in keys])


class Packed(Points):
    """The same, its ids in columns of numbers and of UUIDs, as shards give them."""

    def block(self, ids: Iterable[PointId]) -> PointBlock:
        return replace(found := super().block(ids), ids=packed(found.ids))

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        for kind in (int, str):
            ids = [i for i in self.held if isinstance(i, kind)]
            for start in range(0, len(ids), 7):
                yield self.block(ids[start : start + 7])


def packed(ids: Sequence[PointId]) -> Sequence[PointId]:
    if all(isinstance(i, int) for i in ids):
        return Numbers(np.array(ids, np.uint64))
    if all(isinstance(i, str) for i in ids):
        return Uuids.of_bytes(b"".join(uuid.UUID(str(i)).bytes for i in ids))
    return ids


def content(*blocks: PointBlock) -> list[tuple[Any, ...]]:
    return sorted(
        (
            entry
            for block in blocks
            for entry in zip(block.ids, block.refs, block.versions or (), strict=True)
        ),
        key=str,
    )


def upsert(point: PointId, payload: dict[str, Any], collection: str = "docs") -> Upsert:
    return Upsert(collection, "docs", str(payload.get("key")), "1", point, [1.0], payload)


@pytest.mark.parametrize("reader", [Points, Packed])
@pytest.mark.parametrize("seed", range(20))
def test_it_reads_as_if_the_patch_had_been_applied(seed: int, reader: type[Points]) -> None:
    rng = Random(seed)
    names: list[PointId] = [*range(20), 2**63 + 5, 2**64 - 1]
    names += [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(20)]

    def payload() -> dict[str, Any]:
        return {"key": str(rng.randrange(9)), "v": rng.randrange(4), "hidden": rng.random() < 0.1}

    held = {name: payload() for name in names if rng.random() < 0.7}
    patch: list[PatchLine] = [
        Delete("docs", "docs", None, name, "orphan") for name in names if rng.random() < 0.2
    ]
    patch += [upsert(name, payload()) for name in names if rng.random() < 0.3]
    patch += [upsert(1, payload(), "other"), Reembed("docs", "1", "1", None, "drift")]
    wanted = dict(held)
    for line in patch:
        if isinstance(line, Delete):
            wanted.pop(line.id, None)
        elif isinstance(line, Upsert) and line.collection == "docs":
            wanted[line.id] = line.payload
    after, points = Points(wanted), PatchedPoints(reader(held), patch, project)

    assert content(*points.points(LINK, "docs")) == content(*after.points(LINK, "docs"))
    some = rng.sample(names, 15)
    assert content(points.lookup(LINK, "docs", some)) == content(after.lookup(LINK, "docs", some))
    for keys in (["1", "3"], ["8"], ["none"]):
        assert content(points.owned(LINK, "docs", keys)) == content(after.owned(LINK, "docs", keys))


def test_a_patch_of_every_point_stays_out_of_memory() -> None:
    text = "x" * 1_000
    lines = (upsert(n, {"key": str(n), "v": 1, "text": text}) for n in range(40_000))
    gc.collect()
    tracemalloc.start()
    try:
        points = PatchedPoints(Points({}), lines, project)
        seen = sum(len(block) for block in points.points(LINK, "docs"))
        assert content(points.owned(LINK, "docs", ["39999"])) == [(39_999, "39999", "1")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == 40_000
    assert peak < 24 * MB


def test_a_list_of_every_row_stays_out_of_memory() -> None:
    count = 150_000
    gc.collect()
    tracemalloc.start()
    try:
        listed = Reembeds(Reembed("docs", str(n), "1", "t" * 200, "drift") for n in range(count))
        expected = expected_keys(listed)
        assert sum(1 for _ in listed) == len(listed) == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * MB
    assert len(expected["docs"]) == count
    assert "149999" in expected["docs"]
    assert "150000" not in expected["docs"]


def test_a_row_is_expected_in_its_collection_only() -> None:
    lines = [
        Reembed("docs", "k", "1", None, "drift", "docs_en"),
        Reembed("docs", "k", "1", None, "drift", ""),
        Reembed("others", "k", "1", None, "drift"),
    ]
    expected = expected_keys(lines)
    assert set(expected["docs"]) == {named("k", "docs_en"), named("k", "")}
    assert set(expected["others"]) == {"k"}
    assert named("k", "docs_de") not in expected["docs"]
    assert "k" not in expected["docs"]
    assert list(decode(encode(line) for line in lines)) == lines


def test_a_list_may_be_read_again_and_while_it_is_read() -> None:
    lines = [Reembed("docs", str(n), None, None, "overtaken") for n in range(10)]
    listed = Reembeds(lines)
    assert list(listed) == list(listed) == lines
    assert list(zip(listed, listed, strict=True)) == list(zip(lines, lines, strict=True))
    assert list(Reembeds()) == []
    assert not Reembeds()


def test_keys_are_kept_by_link_and_in_order() -> None:
    keys = KeySets()
    keys.add("a", ["2", "1", "2"])
    keys.add("b", ["3"])
    assert list(keys.keys("a")) == ["1", "2"]
    assert {link: list(found) for link, found in keys.by_link().items()} == {
        "a": ["1", "2"],
        "b": ["3"],
    }
    assert keys.has("b", "3")
    assert not keys.has("a", "3")
