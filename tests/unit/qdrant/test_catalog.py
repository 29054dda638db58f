"""Which collections are meant, and who streams their shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults import ManualClock
from vbackup.config import QdrantConfig
from vbackup.errors import Failed, NotFound, Refused, Unreachable
from vbackup.qdrant.catalog import selected, store_facts
from vbackup.qdrant.cluster import Cluster, lowest, version_number

NAMES = ["a", "a[1]", "a1", "b", "docs", "docs_v2"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], NAMES),
        (["*"], NAMES),
        (["!docs*"], ["a", "a[1]", "a1", "b"]),
        (["docs*", "!docs_v2"], ["docs"]),
        (["a[1]"], ["a[1]"]),
        (["a[0-9]"], ["a1"]),
        (["b", "a"], ["a", "b"]),
        (["D*"], []),
        (["?"], ["a", "b"]),
        (["*", "!*"], []),
        (["!none"], NAMES),
    ],
)
def test_patterns(patterns: list[str], found: list[str]) -> None:
    assert selected(NAMES, patterns, {}, ignore_missing=False) == found


COPIED = ["docs", "docs_before_20260304110000", "docs_restored_abc123", "docs_restored_def456_2"]


@pytest.mark.parametrize(
    ("collections", "aliases", "found"),
    [
        (["*"], {}, COPIED[:1]),
        (["*"], {"live": "docs_restored_abc123"}, [COPIED[0], COPIED[2]]),
        (["*"], {"a": "docs_restored_def456_2", "b": COPIED[1]}, [*COPIED[:2], COPIED[3]]),
        # What the configuration itself leaves out stays out.
        (["*", "!docs_restored_*"], {"live": "docs_restored_abc123"}, COPIED[:1]),
        (["docs"], {"live": "docs_restored_abc123"}, COPIED[:1]),
        (["docs*"], {"live": "other", "docs_restored_abc123": "docs"}, COPIED[:1]),
    ],
)
def test_copies_are_left_out_until_an_alias_makes_them_live(
    collections: list[str], aliases: dict[str, str], found: list[str]
) -> None:
    patterns = QdrantConfig(collections=tuple(collections)).patterns
    assert selected(COPIED, patterns, aliases, ignore_missing=False) == found


def test_a_plain_name_must_be_there() -> None:
    with pytest.raises(NotFound, match="'none'") as caught:
        selected(NAMES, ["a", "none"], {}, ignore_missing=False)
    assert "docs_v2" in caught.value.hint
    with pytest.raises(NotFound) as caught:
        selected(NAMES, ["live"], {"live": "docs"}, ignore_missing=False)
    assert "alias" in caught.value.hint
    assert "docs" in caught.value.hint
    assert selected(NAMES, ["a", "none"], {}, ignore_missing=True) == ["a"]
    with pytest.raises(NotFound, match="none"):
        selected([], ["none"], {}, ignore_missing=False)


def test_versions_are_numbers() -> None:
    assert lowest(["1.17.0", "1.9.3", "1.16.3-dev"]) == "1.9.3"
    assert version_number("1.17.0-dev+abc") == (1, 17, 0)


def _shard(number: int, state: str = "Active", peer: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"shard_id": number, "state": state, "points_count": 3}
    return found if peer is None else found | {"peer_id": peer}


def _serve(server: Any, peer: int, local: list[Any], remote: list[Any], **more: Any) -> None:
    server.on("GET", "/", (200, b'{"title":"qdrant - x","version":"1.17.0"}', {}))
    server.results("GET", "/collections", {"collections": [{"name": "docs"}]})
    server.results(
        "GET", "/aliases", {"aliases": [{"alias_name": "live", "collection_name": "docs"}]}
    )
    server.results(
        "GET",
        "/collections/docs",
        {"config": {"params": {"shard_number": 2}}, "payload_schema": {"k": {}}},
    )
    server.results("POST", "/collections/docs/points/count", {"count": 6})
    server.results("GET", "/cluster", {"status": "enabled", "peers": {"3": {"uri": "http://n3/"}}})
    told = {
        "peer_id": peer,
        "shard_count": 2,
        "local_shards": local,
        "remote_shards": remote,
        "shard_transfers": [],
    }
    server.results("GET", "/collections/docs/cluster", told | more)


@pytest.fixture
def cluster() -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(*servers: Any, extra: tuple[str, ...] = ()) -> Cluster:
        urls = (*extra, *(server.url for server in servers))
        made.append(Cluster(QdrantConfig(nodes=urls), ManualClock()))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_load_is_spread_over_the_nodes(servers: Any, cluster: Any) -> None:
    one, two = servers(), servers()
    _serve(one, 1, [_shard(0), _shard(1)], [_shard(0, peer=2), _shard(1, peer=2)])
    _serve(two, 2, [_shard(0), _shard(1)], [_shard(0, peer=1), _shard(1, peer=1)])

    facts = store_facts(cluster(one, two), ["*"], ignore_missing=False)

    (docs,) = facts.collections
    assert [shard.id for shard in docs.shards] == [0, 1]
    assert {shard.node for shard in docs.shards} == {one.url, two.url}
    assert (docs.points, docs.aliases, docs.payload_schema) == (6, ("live",), {"k": {}})


def test_a_replica_that_is_not_active_is_not_asked(servers: Any, cluster: Any) -> None:
    one, two = servers(), servers()
    _serve(one, 1, [_shard(0, "Dead")], [_shard(0, peer=2)])
    _serve(two, 2, [_shard(0)], [_shard(0, "Dead", peer=1)])

    facts = store_facts(cluster(one, two), ["*"], ignore_missing=False)

    assert [shard.node for shard in facts.collections[0].shards] == [two.url]


def test_no_active_replica_is_refused(server: Any, cluster: Any) -> None:
    _serve(server, 1, [_shard(0, "Dead"), _shard(1)], [_shard(0, "Recovery", peer=2)])

    with pytest.raises(Refused, match=r"no Active replica \(Dead, Recovery\)"):
        store_facts(cluster(server), ["*"], ignore_missing=False)


def test_a_shard_that_is_elsewhere_is_refused_with_its_address(server: Any, cluster: Any) -> None:
    _serve(server, 1, [_shard(0)], [_shard(1, peer=3)])

    with pytest.raises(Refused, match=r"3 \(http://n3/\)") as caught:
        store_facts(cluster(server), ["*"], ignore_missing=False)
    assert "nodes" in caught.value.hint


def test_a_node_that_is_down_is_left_out(server: Any, cluster: Any) -> None:
    _serve(server, 1, [_shard(0), _shard(1)], [])
    made = cluster(server, extra=("http://127.0.0.1:9",))

    facts = store_facts(made, ["docs"], ignore_missing=False)

    assert facts.nodes == (server.url,)
    with pytest.raises(Unreachable):
        store_facts(cluster(extra=("http://127.0.0.1:9",)), ["*"], ignore_missing=False)
    assert made.node(server.url).location == server.url
    with pytest.raises(Failed):
        made.node("http://elsewhere")


def test_a_collection_that_vanishes_meanwhile_is_left_out(server: Any, cluster: Any) -> None:
    _serve(server, 1, [_shard(0)], [])
    text = b'{"status":{"error":"Not found: Collection `docs` doesn\'t exist!"}}'
    server.on("GET", "/collections/docs", (404, text, {}))

    assert store_facts(cluster(server), ["*"], ignore_missing=False).collections == ()
    with pytest.raises(NotFound):
        store_facts(cluster(server), ["docs"], ignore_missing=False)


def test_moving_shards_are_named(server: Any, cluster: Any) -> None:
    moving = [{"shard_id": 1, "from": 1, "to": 2, "sync": True}]
    _serve(server, 1, [_shard(0)], [], shard_transfers=moving, resharding_operations=[{}])

    busy = cluster(server).busy("docs")

    assert "shard 1 is being moved" in busy
    assert "resharded" in busy
