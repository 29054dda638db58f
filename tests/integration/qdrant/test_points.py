"""Points as links read them: live and out of shard snapshots, both against plain REST."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from vbackup.model.blocks import PointBlock
from vbackup.model.link import Link, PayloadPath
from vbackup.ports import PointReader

pytestmark = pytest.mark.integration


def _link(*ref: str, version: str | None = None, **more: Any) -> Link:
    return Link(
        name="link",
        collection="*",
        rows=(),
        ref=tuple(map(PayloadPath.parse, ref)),
        version=PayloadPath.parse(version) if version else None,
        **more,
    )


def _key(number: int) -> str:
    return str(UUID(int=number))


def _payload(number: int) -> dict[str, Any]:
    node = {"relationships": {"1": {"hash": f"h{number}", "node": number // 3}}}
    return {
        "pg_id": number,
        "text id": f"doc-{number // 2}",
        "uuid": _key(number).upper() if number % 2 else UUID(int=number).hex,
        "mixed": str(number) if number % 2 else number,
        "kind": "even" if number % 2 == 0 else "odd",
        "public": number % 3 == 0,
        "tags": ["a", f"t{number % 5}"],
        "version": number * 10,
        "meta": {"doc": {"id": number // 4, "при": "x"}, "tenant": f"tenant-{number % 7}"},
        "_node": json.dumps(node),
    }


POINTS: list[dict[str, Any]] = [
    {
        "id": number if number % 2 else _key(number),
        "vector": {"a": [1.0, number % 5, 0.5, 0.25], "s": {"indices": [number], "values": [0.5]}},
        "payload": _payload(number) if number % 10 else None,
    }
    for number in range(600)
]


@pytest.fixture
def collection(store: Any) -> str:
    """600 points on two shards, integer and UUID ids; every tenth has no payload."""
    name: str = store.make(
        {
            "vectors": {"a": {"size": 4, "distance": "Dot"}},
            "sparse_vectors": {"s": {}},
            "shard_number": 2,
        }
    )
    store.put(name, POINTS)
    return name


@contextmanager
def _reader(store: Any, name: str, kind: str, directory: Path) -> Iterator[PointReader]:
    if kind == "live":
        yield store.source
        return
    spools = store.spool(name, directory)
    with store.source.offline(spools, directory / "work") as reader:
        yield reader


def _rows(*blocks: PointBlock) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for block in blocks:
        versions = block.versions if block.versions is not None else [None] * len(block)
        tenants = block.tenants if block.tenants is not None else [None] * len(block)
        found += zip(block.ids, block.refs, versions, tenants, strict=True)
    return sorted(found, key=str)


def _expected(link: Link, wanted: Any = None) -> list[tuple[Any, ...]]:
    """What a reader must find, computed from the points that were written."""
    found: list[tuple[Any, ...]] = []
    for number, point in enumerate(POINTS):
        payload = point["payload"] or {}
        if not _admitted(link, payload):
            continue
        ref = _expected_ref(link, number, payload)
        if wanted is None or ref in wanted:
            version = str(number * 10) if link.version and payload else None
            tenant = f"tenant-{number % 7}" if link.tenant and payload else None
            found.append((point["id"], ref, version, tenant))
    return sorted(found, key=str)


def _admitted(link: Link, payload: dict[str, Any]) -> bool:
    def holds(path: str, value: Any) -> bool:
        found = payload.get(path)
        return value in found if isinstance(found, list) else found == value

    return all(holds(*each) for each in link.filter.items()) and not any(
        holds(*each) for each in link.must_not.items()
    )


def _expected_ref(link: Link, number: int, payload: dict[str, Any]) -> str | None:
    if link.by_id:
        return str(number) if number % 2 else _key(number)
    if not payload:
        return None
    known = {
        "pg_id": str(number),
        "mixed": str(number),
        "text id": f"doc-{number // 2}",
        "uuid": _key(number),
        "meta.doc.id": str(number // 4),
        "kind": payload["kind"],
        "_node|json.relationships.1.node": str(number // 3),
    }
    parts = [known[str(path)] for path in link.ref]
    return parts[0] if len(parts) == 1 else json.dumps(parts, separators=(",", ":"))


LINKS = {
    "id": _link(version="version"),
    "integer": _link("pg_id", version="version"),
    "mixed types": _link("mixed"),
    "spaced key": _link("text id", version="version", cardinality="many"),
    "uuid spellings": _link("uuid"),
    "nested": _link("meta.doc.id", tenant=PayloadPath.parse("meta.tenant")),
    "composite": _link("kind", "meta.doc.id", version="version"),
    "json text": _link("_node|json.relationships.1.node", version="version"),
    "filtered": _link("pg_id", filter={"kind": "even", "public": True}),
    "filtered by tag": _link("pg_id", filter={"tags": "t3"}, must_not={"pg_id": 8}),
    "filtered by integer": _link(filter={"version": 70}),
    "must not": _link(version="version", must_not={"kind": "odd"}),
}


@pytest.mark.parametrize("kind", ["live", "offline"])
@pytest.mark.parametrize("which", LINKS)
def test_every_point_is_read_as_the_link_says(
    store: Any, collection: str, tmp_path: Path, which: str, kind: str
) -> None:
    link = LINKS[which]
    with _reader(store, collection, kind, tmp_path) as reader:
        found = _rows(*reader.points(link, collection))

        assert found == _expected(link)
        assert len(found) == len({row[0] for row in found})


@pytest.mark.parametrize("kind", ["live", "offline"])
@pytest.mark.parametrize("which", LINKS)
def test_points_are_found_by_the_keys_they_refer_to(
    store: Any, collection: str, tmp_path: Path, which: str, kind: str
) -> None:
    link = LINKS[which]
    refs = sorted({row[1] for row in _expected(link) if row[1]})
    wanted = {*refs[::3], "no such key", "-5", _key(10**12)}
    with _reader(store, collection, kind, tmp_path) as reader:
        # More than once: offline, an index is made on the way.
        for _ in range(5):
            assert _rows(reader.owned(link, collection, sorted(wanted))) == _expected(link, wanted)
        assert len(reader.owned(link, collection, [])) == 0
        assert len(reader.owned(link, collection, ["no such key"])) == 0


@pytest.mark.parametrize("index", ["integer", "keyword", "uuid", "float"])
@pytest.mark.parametrize("which", ["integer", "mixed types", "uuid spellings"])
def test_a_payload_index_changes_nothing(
    store: Any, collection: str, tmp_path: Path, which: str, index: str
) -> None:
    link = LINKS[which]
    path = link.ref[0].root
    body = {"field_name": f'"{path}"', "field_schema": index}
    store.call("PUT", store.path(collection, "/index"), body, wait="true")
    wanted = {row[1] for row in _expected(link) if row[1]} | {"no such key"}
    for kind in ("live", "offline"):
        with _reader(store, collection, kind, tmp_path) as reader:
            assert _rows(reader.owned(link, collection, sorted(wanted))) == _expected(link, wanted)


@pytest.mark.parametrize("kind", ["live", "offline"])
def test_lookup_finds_ids_and_leaves_out_the_rest(
    store: Any, collection: str, tmp_path: Path, kind: str
) -> None:
    link = LINKS["filtered"]
    wanted = [point["id"] for point in POINTS][:50]
    with _reader(store, collection, kind, tmp_path) as reader:
        found = _rows(reader.lookup(link, collection, [*wanted, *wanted[:3], 10**15, _key(10**15)]))

        assert found == [row for row in _expected(link) if row[0] in wanted]
        assert len(reader.lookup(link, collection, [])) == 0


def test_whole_points_are_as_rest_tells_them(store: Any, collection: str) -> None:
    truth = store.everything(collection)
    link = LINKS["spaced key"]

    found = store.source.fetch(link, collection, ["doc-7", "doc-8", "gone"])

    assert {key: {point.id for point in points} for key, points in found.items()} == {
        "doc-7": {_key(14), 15},
        "doc-8": {_key(16), 17},
    }
    for points in found.values():
        for point in points:
            assert point.vector == truth[point.id]["vector"]
            assert point.payload == truth[point.id]["payload"]
    by_id = store.source.fetch_ids(collection, [1, 3, _key(0), 10**9, 1])
    assert {p.id: (p.vector, p.payload) for p in by_id} == {
        id_: (truth[id_]["vector"], truth[id_].get("payload") or {}) for id_ in (1, 3, _key(0))
    }
    assert store.source.fetch_ids(collection, []) == []


def test_points_written_back_are_the_same(store: Any, collection: str) -> None:
    truth = store.everything(collection)
    points = store.source.fetch_ids(collection, list(truth))
    store.target.delete(collection, list(truth))
    assert store.facts(collection).points == 0

    store.target.upsert(collection, points)

    assert store.everything(collection) == truth


def test_pages_of_a_large_collection_join_without_gap_or_overlap(
    store: Any, tmp_path: Path
) -> None:
    name = store.make({"vectors": {"size": 1, "distance": "Dot"}, "shard_number": 2})
    store.put(name, [{"id": n, "vector": [1.0], "payload": {"v": n}} for n in range(20_001)])
    link = _link("v", version="v")
    for kind in ("live", "offline"):
        with _reader(store, name, kind, tmp_path) as reader:
            blocks = list(reader.points(link, name))
            ids = [id_ for block in blocks for id_ in block.ids]

            assert sorted(ids) == list(range(20_001))
            assert all(block.refs == block.versions for block in blocks)
            assert max(map(len, blocks)) <= 10_000


def test_strict_mode_is_obeyed(store: Any, collection: str) -> None:
    truth = {kind: _expected(LINKS[kind]) for kind in ("filtered", "spaced key")}
    strict = {
        "enabled": True,
        "max_query_limit": 100,
        "unindexed_filtering_retrieve": False,
        "condition_max_size": 20,
        "upsert_max_batchsize": 7,
    }
    store.call("PATCH", store.path(collection), {"strict_mode_config": strict})

    for kind, expected in truth.items():
        assert _rows(*store.source.points(LINKS[kind], collection)) == expected
    keys = [f"doc-{n}" for n in range(0, 300, 2)]
    owned = store.source.owned(LINKS["spaced key"], collection, keys)
    assert _rows(owned) == _expected(LINKS["spaced key"], set(keys))
    points = store.source.fetch_ids(collection, list(range(1, 200, 2)))
    assert len(points) == 100
    store.target.upsert(collection, points)


def test_a_reader_that_stops_early_leaves_no_thread(
    store: Any, collection: str, tmp_path: Path
) -> None:
    link = LINKS["id"]
    for kind in ("live", "offline"):
        with _reader(store, collection, kind, tmp_path) as reader:
            before = set(threading.enumerate())
            blocks = iter(reader.points(link, collection))
            next(blocks)
            blocks.close()  # type: ignore[attr-defined]  # a generator

            assert set(threading.enumerate()) <= before
