"""Three nodes: every shard from an Active replica, back to a holder, to more or fewer nodes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from vbackup.clock import SystemClock
from vbackup.config import QdrantConfig
from vbackup.engine.apply import apply_patch
from vbackup.errors import NotFound, Refused
from vbackup.model.link import Link
from vbackup.model.patch import Upsert
from vbackup.progress import SilentReporter
from vbackup.qdrant.edit import LiveEditor
from vbackup.qdrant.source import QdrantSource

pytestmark = pytest.mark.integration

BODY = {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 4, "replication_factor": 2}


def _points(count: int = 400) -> list[dict[str, Any]]:
    return [{"id": n, "vector": [1.0, n % 9, 2.0, 3.0], "payload": {"n": n}} for n in range(count)]


class Warnings(SilentReporter):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, object]]] = []

    def warn(self, event: str, **fields: object) -> None:
        self.seen.append((event, fields))


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
def test_three_nodes_to_one_and_back(stores: Any, tmp_path: Path, version: str) -> None:
    three, one = stores(version, 3), stores(version)
    name = three.make(BODY)
    three.put(name, _points())
    three.target.settle(name, timeout=60)
    truth = three.everything(name)
    saved = three.save(name, tmp_path / "three")
    assert sorted(shard.id for shard in saved.part.shards) == [0, 1, 2, 3]
    assert len({shard.node for shard in three.facts(name).shards}) > 1

    alone = one.name()
    warnings = Warnings()
    one.target.create(saved.part, alone)
    one.target.recover(saved.part, alone, saved.open, warnings)
    assert one.target.settle(alone, timeout=60) == 400
    assert one.everything(alone) == truth
    assert [fields["found"] for _, fields in warnings.seen] == [1]

    back = three.restore(one.save(alone, tmp_path / "one"))
    assert three.everything(back) == truth
    replicas = three.target._cluster.replicas(back)
    assert len(replicas) == 8
    assert {replica.state for replica in replicas} == {"Active"}
    for url in three.server.urls:
        alone_source = QdrantSource(QdrantConfig(url=url), SystemClock())
        assert sum(len(b) for b in alone_source.points(_link(), back)) == 400
        alone_source.close()


def _link() -> Link:
    return Link(name="all", collection="*", rows=())


def test_offline_reads_the_shards_of_all_nodes(stores: Any, tmp_path: Path) -> None:
    three = stores("1.17.0", 3)
    name = three.make(BODY)
    three.put(name, _points())
    with three.source.offline(three.spool(name, tmp_path), tmp_path / "work") as offline:
        ids = sorted(id_ for block in offline.points(_link(), name) for id_ in block.ids)

    assert ids == list(range(400))


def test_a_shard_on_a_node_that_is_not_configured_is_refused(stores: Any, tmp_path: Path) -> None:
    three = stores("1.17.0", 3)
    name = three.make(BODY | {"replication_factor": 1})
    three.put(name, _points())
    saved = three.save(name, tmp_path)
    first = stores("1.17.0", 3, only=0)

    with pytest.raises(Refused, match="not configured") as caught:
        first.source.facts([name])
    assert "nodes" in caught.value.hint

    target = first.name()
    first.target.create(saved.part, target)
    with pytest.raises(Refused, match="no configured Qdrant node"):
        first.target.recover(saved.part, target, saved.open, SilentReporter())


def test_one_node_is_enough_where_it_holds_every_shard(stores: Any, tmp_path: Path) -> None:
    three = stores("1.17.0", 3)
    name = three.make(BODY | {"replication_factor": 3})
    three.put(name, _points())
    three.target.settle(name, timeout=60)
    first = stores("1.17.0", 3, only=0)

    restored = first.restore(first.save(name, tmp_path))

    assert three.everything(restored) == three.everything(name)


def test_a_node_that_is_down_is_done_without(stores: Any, tmp_path: Path) -> None:
    three = stores("1.17.0", 3)
    name = three.make(BODY | {"replication_factor": 3})
    three.put(name, _points())
    three.target.settle(name, timeout=60)
    urls = ("http://127.0.0.1:1", *three.server.urls)
    source = QdrantSource(QdrantConfig(nodes=urls), SystemClock())

    facts = source.facts([name])

    assert facts.nodes == three.server.urls
    assert len(facts.collections[0].shards) == 4
    assert sum(len(block) for block in source.points(_link(), name)) == 400
    source.close()


KEYS: list[str | int] = ["ä key", "b", 7]


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
@pytest.mark.parametrize("nodes", [1, 3])
def test_shard_keys_come_back(stores: Any, tmp_path: Path, version: str, nodes: int) -> None:
    origin = stores(version, 3)
    target = stores(version, nodes, cluster=True)
    name = origin.make(
        {
            "vectors": {"size": 4, "distance": "Dot"},
            "sharding_method": "custom",
            "shard_number": 2,
            "replication_factor": 1,
        }
    )
    for key in KEYS:
        origin.call("PUT", origin.path(name, "/shards"), {"shard_key": key})
        offset = 1000 * KEYS.index(key)
        points = [point | {"id": point["id"] + offset} for point in _points(50)]
        origin.put(name, points, shard_key=key)
    saved = origin.save(name, tmp_path)
    assert saved.part.custom_sharding
    assert {shard.key for shard in saved.part.shards} == set(KEYS)

    restored = target.restore(saved)

    assert target.everything(restored) == origin.everything(name)
    for key in KEYS:
        counted = {"exact": True, "shard_key": key}
        assert target.call("POST", target.path(restored, "/points/count"), counted)["count"] == 50
    points = target.source.fetch_ids(restored, [0, 1000, 2000])
    assert {point.shard_key for point in points} == set(KEYS)
    target.target.delete(restored, [0, 1000, 2000])
    target.target.upsert(restored, points)
    assert target.everything(restored) == origin.everything(name)


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
@pytest.mark.parametrize("nodes", [1, 3])
def test_a_patch_brings_points_of_a_key_that_came_during_the_backup(
    stores: Any, tmp_path: Path, version: str, nodes: int
) -> None:
    """Its shard is not among those that were cut, so the restored collection lacks it."""
    store = stores(version, nodes, cluster=True)
    shards = {"sharding_method": "custom", "shard_number": 2, "replication_factor": nodes}
    name = store.make({"vectors": {"size": 4, "distance": "Dot"}} | shards)
    store.call("PUT", store.path(name, "/shards"), {"shard_key": "old"})
    store.put(name, _points(5), shard_key="old")
    saved = store.save(name, tmp_path)
    store.call("PUT", store.path(name, "/shards"), {"shard_key": 7})
    store.put(name, [point | {"id": 100 + point["id"]} for point in _points(5)], shard_key=7)
    images = store.source.fetch_ids(name, [0, *range(100, 105)])
    patch = [
        Upsert(name, "docs", str(p.id), "1", p.id, p.vector, p.payload, p.shard_key) for p in images
    ]

    restored = store.restore(saved)
    with SilentReporter().step("apply patch") as step:
        done = apply_patch(
            iter(patch),
            {name: restored},
            store.target,
            store.source.fetch_ids,
            BytesIO(),
            step,
        )
    store.target.settle(restored, timeout=60)

    assert done.upserts == 6
    assert store.everything(restored) == store.everything(name)
    assert _sharding(store, restored) == _sharding(store, name)


def _sharding(store: Any, name: str) -> list[tuple[str, str]]:
    return sorted((str(one.key), one.state) for one in store.target._cluster.replicas(name))


def test_a_repair_brings_a_shard_key_back_with_its_points(stores: Any) -> None:
    """The application dropped a tenant that is in the backup, and its rows came back since."""
    store = stores("1.17.0", 1, cluster=True)
    name = store.make({"vectors": {"size": 4, "distance": "Dot"}, "sharding_method": "custom"})
    for key in ("old", "gone"):
        store.call("PUT", store.path(name, "/shards"), {"shard_key": key})
    store.put(name, _points(3), shard_key="gone")
    points, truth = store.source.fetch_ids(name, [0, 1, 2]), store.everything(name)
    store.call("POST", store.path(name, "/shards/delete"), {"shard_key": "gone"})
    assert store.everything(name) == {}

    LiveEditor(store.target._cluster).write_unchanged(name, points, {})

    assert store.everything(name) == truth
    assert {point.shard_key for point in store.source.fetch_ids(name, [0, 1, 2])} == {"gone"}


def test_a_repair_deletes_points_under_their_shard_key(stores: Any) -> None:
    store = stores("1.17.0", 1, cluster=True)
    name = store.make({"vectors": {"size": 4, "distance": "Dot"}, "sharding_method": "custom"})
    for key in KEYS:
        store.call("PUT", store.path(name, "/shards"), {"shard_key": key})
        at = 10 * KEYS.index(key)
        store.put(name, [p | {"id": at + p["id"]} for p in _points(3)], shard_key=key)
    doomed = store.source.fetch_ids(name, [0, 10, 20, 21])
    change = {"payload": {"n": 99}, "points": [21], "shard_key": KEYS[2]}
    store.call("POST", store.path(name, "/points/payload"), change, wait="true")

    LiveEditor(store.target._cluster).delete_unchanged(name, doomed)

    assert sorted(store.everything(name)) == [1, 2, 11, 12, 21, 22]


def test_shard_keys_need_cluster_mode(stores: Any, tmp_path: Path) -> None:
    origin, plain = stores("1.17.0", 3), stores("1.17.0")
    name = origin.make(
        {"vectors": {"size": 4, "distance": "Dot"}, "sharding_method": "custom"},
    )
    origin.call("PUT", origin.path(name, "/shards"), {"shard_key": "a"})
    saved = origin.save(name, tmp_path)
    restored = plain.name()

    assert "cluster mode" in plain.target.preflight(saved.part, restored, existing=False)[0]
    with pytest.raises(Refused, match="shard keys"):
        plain.target.create(saved.part, restored)
    assert not plain.target.exists(restored)
    with pytest.raises(NotFound):
        plain.source.facts([restored])
