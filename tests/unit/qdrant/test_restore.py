"""What a restore asks of a server, and what it refuses to ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults import ManualClock
from vbackup.config import QdrantConfig
from vbackup.errors import Failed, Refused, Unreachable
from vbackup.model.blocks import Point
from vbackup.model.manifest import Artifact, CollectionPart, ShardPart
from vbackup.qdrant import write
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.collections import create_collection, creation, differences
from vbackup.qdrant.pooled import Pooled
from vbackup.qdrant.recover import placed
from vbackup.qdrant.rest import tls_context
from vbackup.qdrant.settle import settle_collection
from vbackup.qdrant.target import QdrantTarget
from vbackup.qdrant.wire import NotConnected, Wire
from vbackup.qdrant.write import delete_points, upsert_points

AT = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = {"size": 4, "distance": "Cosine"}


def _part(keys: list[Any], **params: Any) -> CollectionPart:
    return CollectionPart(
        name="docs",
        config={"params": {"vectors": VECTORS, "shard_number": len(keys), **params}},
        payload_schema={},
        aliases=(),
        shards=tuple(
            ShardPart(10 + n, key, Artifact(f"docs/{n}", 1, "00"), AT, AT)
            for n, key in enumerate(keys)
        ),
        points=0,
        bytes=0,
        custom_sharding=any(keys),
    )


def test_a_collection_is_made_of_its_saved_configuration() -> None:
    part = _part([None])
    part.config.update(
        hnsw_config={"m": 8, "payload_m": None},
        optimizer_config={"flush_interval_sec": 5, "memmap_threshold": None},
        wal_config={"wal_capacity_mb": 32},
        quantization_config=None,
        strict_mode_config={"enabled": True},
        metadata={"a": None, "b": {"c": None}},
    )
    part.config["params"] |= {"replication_factor": 2, "read_fan_out_factor": 3, "unknown": 1}

    assert creation(part) == {
        "vectors": VECTORS,
        "shard_number": 1,
        "replication_factor": 2,
        "hnsw_config": {"m": 8},
        "optimizers_config": {"flush_interval_sec": 5},
        "wal_config": {"wal_capacity_mb": 32},
        "metadata": {"a": None, "b": {"c": None}},
    }


def test_a_collection_of_sparse_vectors_alone() -> None:
    part = _part([None], sparse_vectors={"s": {}})
    del part.config["params"]["vectors"]

    assert creation(part)["vectors"] == {}


@pytest.fixture
def cluster(server: Any) -> Iterator[Cluster]:
    made = Cluster(QdrantConfig(url=server.url), ManualClock())
    yield made
    made.close()


def _serve(server: Any, keys: list[Any], config: Any = None, **params: Any) -> None:
    found = {"vectors": VECTORS, **params}
    info = {
        "config": {"params": found} | (config or {}),
        "payload_schema": {},
        "status": "green",
        "optimizer_status": "ok",
    }
    server.results("GET", "/collections/docs", info)
    shards = [
        {"shard_id": 20 + n, "state": "Active", "points_count": 0} | ({"shard_key": k} if k else {})
        for n, k in enumerate(keys)
    ]
    told = {"peer_id": 1, "local_shards": shards, "remote_shards": [], "shard_transfers": []}
    server.results("GET", "/collections/docs/cluster", told)


@pytest.mark.parametrize(
    "params",
    [
        {"vectors": {"size": 4, "distance": "Cosine", "on_disk": True, "hnsw_config": {"m": 4}}},
        {"vectors": VECTORS | {"datatype": "float32"}},
        {"sparse_vectors": {}},
    ],
)
def test_settings_that_do_not_shape_vectors_may_differ(
    server: Any, cluster: Cluster, params: dict[str, Any]
) -> None:
    _serve(server, [None, None], **params)

    assert differences(cluster, _part([None, None]), "docs") == []


def test_other_modifiers_are_other_vectors(server: Any, cluster: Cluster) -> None:
    _serve(server, [None], sparse_vectors={"s": {"modifier": "idf"}})

    saved = _part([None], sparse_vectors={"s": {"index": {"on_disk": True}}})

    assert differences(cluster, saved, "docs") == ["collection 'docs' has other sparse vectors"]


def test_shards_of_one_key_go_to_that_key(server: Any, cluster: Cluster) -> None:
    _serve(server, ["b", "a", "b"])

    found = placed(cluster, _part(["a", "b", "b"]), "docs")

    assert {place.part.id: place.shard for place in found} == {10: 21, 11: 20, 12: 22}


@pytest.mark.parametrize("keys", [["a"], ["a", "a", "b"], ["a", "b", "c"], [None, None, None]])
def test_other_keys_are_refused(server: Any, cluster: Cluster, keys: list[Any]) -> None:
    _serve(server, ["a", "b", "b"])

    with pytest.raises(Refused):
        placed(cluster, _part(keys), "docs")


def test_settling_waits_for_one_thing_after_the_other(server: Any, cluster: Cluster) -> None:
    clock = ManualClock()

    def told(state: str, points: int, *moving: dict[str, int]) -> dict[str, Any]:
        shard = {"shard_id": 0, "state": state, "points_count": points}
        return {
            "peer_id": 1,
            "local_shards": [shard],
            "remote_shards": [],
            "shard_transfers": list(moving),
        }

    def info(status: str) -> dict[str, Any]:
        return {"status": status, "optimizer_status": "ok", "config": {"params": {}}}

    active = told("Active", 5)
    server.results(
        "GET",
        "/collections/docs/cluster",
        *(told("Dead", 0), told("Recovery", 0), told("Partial", 0)),
        *(active, told("Active", 5, {"shard_id": 0})),
        active,
    )
    server.results("GET", "/collections/docs", info("grey"), info("yellow"), info("green"))
    server.results("PATCH", "/collections/docs", True)
    server.results("POST", "/collections/docs/points/count", {"count": 5})

    assert settle_collection(cluster, "docs", clock, timeout=60) == 5
    assert len(clock.sleeps) == 6
    # Grey means that the optimizers sleep; an update wakes them.
    assert [r.json for r in server.asked("PATCH", "/collections/docs")] == [
        {"optimizers_config": {}}
    ]


PEERS = {"1": {"uri": "http://a:1/"}, "2": {"uri": "http://b:1/"}, "3": {"uri": "http://c:1/"}}


@pytest.mark.parametrize(
    ("role", "failing", "shards", "lost"),
    [
        ("Leader", "http://c:1/", 2, "http://c:1/"),
        ("Leader", "http://c:1/", 1, None),  # it may well be placed elsewhere
        ("Leader", "http://b:1/", 2, None),  # it answers us
        ("Follower", "http://c:1/", 2, None),  # followers remember failures of long ago
        ("Leader", None, 2, None),
    ],
)
def test_a_lost_member_of_the_cluster_is_told_before_anything_is_created(
    servers: Any, role: str, failing: str | None, shards: int, lost: str | None
) -> None:
    nodes = [servers(), servers()]
    for peer, node in enumerate(nodes, start=1):
        node.on("GET", "/", (200, b'{"title": "qdrant", "version": "1.17.0"}', {}))
        node.results("GET", "/aliases", {"aliases": []})
        told = {"status": "enabled", "peer_id": peer, "peers": PEERS, "message_send_failures": {}}
        if peer == 1:
            told |= {"raft_info": {"role": role}}
            told |= {"message_send_failures": {failing: {"count": 3}} if failing else {}}
        node.results("GET", "/cluster", told)
    target = QdrantTarget(QdrantConfig(nodes=tuple(node.url for node in nodes)), ManualClock())
    try:
        part = _part([None] * shards, replication_factor=2)
        problems = target.preflight(part, "docs", existing=False)
    finally:
        target.close()
    assert len(problems) == (lost is not None)
    assert all(f"member {lost} of the Qdrant cluster" in problem for problem in problems)


def test_settling_gives_up_and_says_what_is_missing(server: Any, cluster: Cluster) -> None:
    _serve(server, [None])
    bad = {
        "status": "red",
        "optimizer_status": {"error": "no space left"},
        "config": {"params": {}},
    }
    server.results("GET", "/collections/docs", bad)

    with pytest.raises(Failed, match="no space left") as caught:
        settle_collection(cluster, "docs", ManualClock(), timeout=5)
    assert caught.value.retryable


def test_replicas_that_disagree_are_waited_for(servers: Any) -> None:
    one, two = servers(), servers()
    for server, peer, counts in ((one, 1, [7]), (two, 2, [0] * 9 + [7])):
        told = [
            {
                "peer_id": peer,
                "local_shards": [{"shard_id": 0, "state": "Active", "points_count": count}],
                "remote_shards": [],
                "shard_transfers": [],
            }
            for count in counts
        ]
        server.results("GET", "/collections/docs/cluster", *told)
        info = {"status": "green", "optimizer_status": "ok"}
        server.results("GET", "/collections/docs", info)
        server.results("POST", "/collections/docs/points/count", {"count": 7})
    cluster = Cluster(QdrantConfig(nodes=(one.url, two.url)), ManualClock())
    clock = ManualClock()
    try:
        assert settle_collection(cluster, "docs", clock, timeout=60) == 7
    finally:
        cluster.close()
    assert clock.sleeps


def test_points_are_written_in_batches_that_servers_take(
    server: Any, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(server, [None, "k"])
    server.results("PUT", "/collections/docs/points", {"status": "completed"})
    monkeypatch.setattr(write, "REQUEST_BYTES", 3000)
    points = [Point(n, [0.5], {"t": "x" * 1000}) for n in range(5)]
    points += [Point(n, None, {}, shard_key="k") for n in range(5, 8)]

    upsert_points(cluster, "docs", points)
    upsert_points(cluster, "docs", [])

    sent = [request.json for request in server.asked("PUT", "/collections/docs/points")]
    assert [len(each["points"]) for each in sent] == [2, 2, 1, 3]
    assert [point["id"] for each in sent for point in each["points"]] == list(range(8))
    assert [each.get("shard_key") for each in sent] == [None, None, None, "k"]
    assert sent[3]["points"][0] == {"id": 5, "vector": {}, "payload": {}}
    assert all("wait=true" in r.path for r in server.asked("PUT", "/collections/docs/points"))


def test_deletes_name_all_shard_keys(server: Any, cluster: Cluster) -> None:
    _serve(server, ["a", "b", "a"], sharding_method="custom")
    server.results("POST", "/collections/docs/points/delete", {"status": "completed"})

    delete_points(cluster, "docs", list(range(1500)))
    delete_points(cluster, "docs", [])

    sent = [request.json for request in server.asked("POST", "/collections/docs/points/delete")]
    assert [len(each["points"]) for each in sent] == [1000, 500]
    assert sent[0]["shard_key"] == ["a", "b"]


CREATED: tuple[int, bytes, dict[str, str]] = (200, b'{"result":true}', {})
TAKEN = b'{"status":{"error":"Wrong input: Collection `docs` already exists!"}}'


@pytest.mark.parametrize("answer", ["late", 0, 503])
def test_a_creation_that_may_have_been_taken_is_not_made_on_another_node(
    servers: Any, answer: int | str
) -> None:
    """Its collection would look like somebody else's there, and would be left behind."""
    one, two, release = servers(), servers(), threading.Event()

    def late(_: Any) -> Any:
        release.wait(30)
        return CREATED

    one.on("PUT", "/collections/docs", late if answer == "late" else (answer, b"", {}))
    two.on("PUT", "/collections/docs", (409, TAKEN, {}))
    options = QdrantConfig(nodes=(one.url, two.url), timeout=0.2)
    with closing(QdrantTarget(options, ManualClock())) as target:
        with pytest.raises(Unreachable):
            target.create(_part([None]), "docs")
        release.set()
    assert len(one.requests) == 1
    assert not two.requests


def test_a_creation_goes_to_the_next_node_when_one_is_down(servers: Any) -> None:
    one, two = servers(), servers()
    one.close()
    two.on("PUT", "/collections/docs", CREATED)
    cluster = Cluster(QdrantConfig(nodes=(one.url, two.url)), ManualClock())
    with closing(cluster):
        create_collection(cluster, _part([None]), "docs")
    assert len(two.requests) == 1


def test_what_may_be_repeated_goes_to_the_next_node_in_any_case(servers: Any) -> None:
    one, two = servers(), servers()
    one.on("DELETE", "/collections/docs", (0, b"", {}))
    two.on("DELETE", "/collections/docs", CREATED)
    options = QdrantConfig(nodes=(one.url, two.url))
    with closing(QdrantTarget(options, ManualClock())) as target:
        target.drop("docs")
    assert len(two.requests) == 1


def test_both_transports_say_that_nobody_took_the_connection(server: Any) -> None:
    server.close()
    tls = tls_context(QdrantConfig())
    for transport in (
        Wire(server.url, {}, tls, ManualClock()),
        Pooled(server.url, {}, tls, local=True),
    ):
        with closing(transport), pytest.raises(NotConnected) as caught:
            transport.request("GET", "/", None, 5.0)
        assert not isinstance(caught.value, TimeoutError)
