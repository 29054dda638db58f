"""Collections of every kind survive: out as shard streams, back in under another name."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from vbackup.progress import SilentReporter

pytestmark = pytest.mark.integration

Points = list[dict[str, Any]]


def _random(seed: int = 7) -> random.Random:
    return random.Random(seed)


def _vector(source: random.Random, size: int = 8) -> list[float]:
    return [round(source.uniform(-1, 1), 4) for _ in range(size)]


def _dense(**more: Any) -> dict[str, Any]:
    return {"vectors": {"size": 8, "distance": "Cosine", **more.pop("vectors", {})}, **more}


def _ints(count: int = 200) -> Points:
    source = _random()
    return [{"id": i, "vector": _vector(source), "payload": {"n": i}} for i in range(count)]


def _largest_ids() -> Points:
    source = _random()
    ids = [0, 1, 2**53 + 1, 2**63, 2**64 - 1]
    return [{"id": i, "vector": _vector(source), "payload": {"n": str(i)}} for i in ids]


def _uuids(count: int = 200) -> Points:
    source = _random()
    return [
        {"id": str(UUID(int=source.getrandbits(128))), "vector": _vector(source), "payload": {}}
        for _ in range(count)
    ]


def _payloads() -> Points:
    source = _random()
    values: list[Any] = [
        None,
        {},
        {"a": None},
        {"text": "naïve “quotes” \u0000 \n 😀", "ключ": "значение", 'k"e"y': 1},
        {"deep": {"list": [1, 2.5, True, None, {"x": [[]]}], "big": 2**62, "tiny": 1e-300}},
        {"long": "x" * 100_000},
    ]
    return [{"id": n, "vector": _vector(source), "payload": v} for n, v in enumerate(values)]


def _named() -> Points:
    source = _random()
    points: Points = [
        {"id": i, "vector": {"a": _vector(source), "b": _vector(source, 4)}} for i in range(100)
    ]
    points += [{"id": 1000 + i, "vector": {"a": _vector(source)}} for i in range(20)]
    points += [{"id": 2000 + i, "vector": {}} for i in range(5)]
    return points


def _sparse() -> Points:
    source = _random()
    return [
        {
            "id": i,
            "vector": {
                "words": {
                    "indices": sorted(source.sample(range(5000), 1 + i % 7)),
                    "values": _vector(source, 1 + i % 7),
                }
            },
        }
        for i in range(100)
    ]


def _multi() -> Points:
    source = _random()
    return [
        {"id": i, "vector": {"tokens": [_vector(source, 4) for _ in range(1 + i % 5)]}}
        for i in range(100)
    ]


def _everything() -> Points:
    named, sparse, multi = _named()[:100], _sparse(), _multi()
    return [
        {"id": n["id"], "vector": n["vector"] | s["vector"] | m["vector"], "payload": {"i": i}}
        for i, (n, s, m) in enumerate(zip(named, sparse, multi, strict=True))
    ]


_NAMED = {"a": {"size": 8, "distance": "Dot"}, "b": {"size": 4, "distance": "Euclid"}}
_TOKENS = {
    "tokens": {
        "size": 4,
        "distance": "Cosine",
        "multivector_config": {"comparator": "max_sim"},
    }
}
_WORDS = {"words": {"modifier": "idf"}}

SHAPES: dict[str, tuple[dict[str, Any], Callable[[], Points]]] = {
    "integers": (_dense(), _ints),
    "largest ids": (_dense(), _largest_ids),
    "uuids": (_dense(), _uuids),
    "payloads": (_dense(), _payloads),
    "no points": (_dense(), list),
    "one point": (_dense(), lambda: _ints(1)),
    "named": ({"vectors": _NAMED}, _named),
    "sparse": ({"sparse_vectors": _WORDS}, _sparse),
    "multi": ({"vectors": _TOKENS}, _multi),
    "all vectors": ({"vectors": _NAMED | _TOKENS, "sparse_vectors": _WORDS}, _everything),
    "float16": (_dense(vectors={"datatype": "float16"}), _ints),
    "manhattan": ({"vectors": {"size": 8, "distance": "Manhattan"}}, _ints),
    "scalar": (_dense(quantization_config={"scalar": {"type": "int8", "quantile": 0.9}}), _ints),
    "binary": (_dense(quantization_config={"binary": {"always_ram": True}}), _ints),
    "product": (_dense(quantization_config={"product": {"compression": "x4"}}), _ints),
    "on disk": (_dense(vectors={"on_disk": True}, on_disk_payload=False), _ints),
    "four shards": (_dense(shard_number=4), lambda: _ints(1000) + _uuids(1000)),
    "settings": (
        _dense(
            hnsw_config={"m": 8, "ef_construct": 32, "payload_m": 4},
            optimizers_config={"indexing_threshold": 5000, "default_segment_number": 3},
            wal_config={"wal_capacity_mb": 16},
            metadata={"owner": "search", "Ünïcode": [1, {"a": None}]},
        ),
        _ints,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_collection_comes_back_as_it_was(store: Any, tmp_path: Path, shape: str) -> None:
    body, points = SHAPES[shape]
    name = store.make(body)
    store.put(name, points())
    saved = store.save(name, tmp_path)

    restored = store.restore(saved)

    assert store.everything(restored) == store.everything(name)
    assert store.facts(restored).config == store.facts(name).config
    assert store.facts(restored).points == len(points())


def test_a_large_collection_comes_back_as_it_was(store: Any, tmp_path: Path) -> None:
    if store.server.version != "1.17.0":
        pytest.skip("large enough once")
    store.page = 10_000
    name = store.make(_dense(shard_number=2))
    store.put(name, _ints(60_000), batch=5_000)

    restored = store.restore(store.save(name, tmp_path))

    assert store.facts(restored).points == 60_000
    assert store.everything(restored) == store.everything(name)


@pytest.mark.parametrize(("older", "newer"), [("1.16.3", "1.17.0"), ("1.17.0", "1.16.3")])
@pytest.mark.parametrize("shape", ["all vectors", "four shards", "scalar", "settings"])
def test_collection_moves_between_versions(
    stores: Any, tmp_path: Path, shape: str, older: str, newer: str
) -> None:
    body, points = SHAPES[shape]
    origin, destination = stores(older), stores(newer)
    name = origin.make(body)
    origin.put(name, points())

    restored = destination.restore(origin.save(name, tmp_path))

    assert destination.everything(restored) == origin.everything(name)


@pytest.mark.parametrize(
    "suffix", [" spaces", "'quotes'`", "ünïcødé", "日本語", "%41+&#;", "a.b,c"]
)
def test_any_name_survives(store: Any, tmp_path: Path, suffix: str) -> None:
    name = store.make(_dense(), suffix)
    store.put(name, _ints(3))

    restored = store.restore(store.save(name, tmp_path), suffix)

    assert store.everything(restored) == store.everything(name)
    assert {name, restored} <= set(store.source.collections())


def test_queries_answer_the_same(store: Any, tmp_path: Path) -> None:
    """Enough points that an HNSW index is built, and searched after the restore."""
    source = _random()
    name = store.make(
        {
            "vectors": {"size": 64, "distance": "Cosine"},
            "optimizers_config": {"indexing_threshold": 1, "default_segment_number": 1},
        }
    )
    store.put(
        name,
        [{"id": i, "vector": _vector(source, 64), "payload": {"g": i % 3}} for i in range(3000)],
    )
    store.target.settle(name, timeout=120)
    assert store.call("GET", store.path(name))["indexed_vectors_count"] > 0

    restored = store.restore(store.save(name, tmp_path))

    for _ in range(5):
        query = {
            "query": _vector(source, 64),
            "limit": 10,
            "filter": {"must": [{"key": "g", "match": {"value": 1}}]},
        }
        there = store.call("POST", store.path(restored, "/points/query"), query)
        assert there == store.call("POST", store.path(name, "/points/query"), query)
        assert len(there["points"]) == 10


INDEXES: dict[str, Any] = {
    "keyword": "keyword",
    "tenant": {"type": "keyword", "is_tenant": True, "on_disk": True},
    "integer": "integer",
    "lookup": {"type": "integer", "lookup": True, "range": False},
    "ranged": {"type": "integer", "lookup": False, "range": True, "is_principal": True},
    "float": "float",
    "bool": "bool",
    "geo": "geo",
    "datetime": "datetime",
    "uuid": {"type": "uuid", "is_tenant": True},
    "text": {
        "type": "text",
        "tokenizer": "word",
        "min_token_len": 2,
        "max_token_len": 20,
        "lowercase": True,
        "phrase_matching": True,
        "stopwords": {"languages": ["english"], "custom": ["foo"]},
        "stemmer": {"type": "snowball", "language": "english"},
    },
    "nested.key[].x": "keyword",
    '"quoted key"': "keyword",
}


def test_payload_indexes_come_back_with_their_parameters(store: Any, tmp_path: Path) -> None:
    name = store.make(_dense())
    for field, schema in INDEXES.items():
        body = {"field_name": field, "field_schema": schema}
        store.call("PUT", store.path(name, "/index"), body, wait="true")
    store.put(name, [p | {"payload": {"keyword": "a", "integer": 5}} for p in _ints(20)])

    restored = store.restore(store.save(name, tmp_path))

    assert store.facts(restored).payload_schema == store.facts(name).payload_schema
    assert len(store.facts(name).payload_schema) == len(INDEXES)


def test_strict_mode_is_back_only_after_the_restore(store: Any, tmp_path: Path) -> None:
    strict = {"enabled": True, "upsert_max_batchsize": 3, "max_query_limit": 50}
    name = store.make(_dense(strict_mode_config=strict))
    for point in _ints(5):
        store.put(name, [point])
    saved = store.save(name, tmp_path)

    restored = store.name()
    store.target.create(saved.part, restored)
    assert "strict_mode_config" not in store.facts(restored).config or not store.facts(
        restored
    ).config["strict_mode_config"].get("enabled")
    store.target.recover(saved.part, restored, saved.open, SilentReporter())
    store.target.settle(restored, timeout=60)

    assert store.facts(restored).config == store.facts(name).config
    store.target.upsert(restored, store.source.fetch_ids(name, [0, 1, 2, 3, 4]))
    store.page = 50
    assert store.everything(restored) == store.everything(name)


def test_restore_into_an_existing_collection_replaces_its_points(
    store: Any, tmp_path: Path
) -> None:
    name = store.make(_dense(shard_number=2))
    store.put(name, _ints(300))
    index = {"field_name": "n", "field_schema": "integer"}
    store.call("PUT", store.path(name, "/index"), index, wait="true")
    before = store.everything(name)
    saved = store.save(name, tmp_path)
    store.put(name, [{"id": 9_999, "vector": [1.0] * 8, "payload": {"new": True}}])
    store.call("POST", store.path(name, "/points/delete"), {"points": [1, 2, 3]}, wait="true")
    store.call("DELETE", store.path(name, "/index/n"), wait="true")
    other = {"field_name": "other", "field_schema": "keyword"}
    store.call("PUT", store.path(name, "/index"), other, wait="true")

    assert store.target.preflight(saved.part, name, existing=True) == []
    store.target.recover(saved.part, name, saved.open, SilentReporter())

    assert store.target.settle(name, timeout=60) == 300
    assert store.everything(name) == before
    assert store.facts(name).payload_schema.keys() == {"n"}
