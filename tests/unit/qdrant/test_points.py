"""How live points are asked for: pages, chunks, and what is not asked again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults import ManualClock
from vbackup.config import QdrantConfig
from vbackup.errors import Failed
from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.points import FIRST_PAGE, LIMITS_HOLD, PAGE_BYTES, LivePoints, next_limit

SCROLL = "/collections/docs/points/scroll"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def points(server: Any, clock: ManualClock) -> Iterator[LivePoints]:
    cluster = Cluster(QdrantConfig(url=server.url), clock)
    yield LivePoints(cluster)
    cluster.close()


def _info(server: Any, strict: dict[str, Any] | None = None, **schema: Any) -> None:
    server.results(
        "GET",
        "/collections/docs",
        {
            "config": {"params": {}, "strict_mode_config": strict},
            "payload_schema": schema,
            "points_count": 10,
        },
    )


def _link(*ref: str, **more: Any) -> Link:
    return Link("l", "docs", (), ref=tuple(map(PayloadPath.parse, ref)), **more)


def _page(ids: list[int], start: int | None = None, text: str = "") -> dict[str, Any]:
    return {
        "points": [{"id": id_, "payload": {"k": str(id_), "text": text}} for id_ in ids],
        "next_page_offset": start,
    }


@pytest.mark.parametrize(
    ("answered", "count", "most", "limit"),
    [
        (100_000, 1000, 10_000, 10_000),
        (PAGE_BYTES, 1000, 10_000, 1000),
        (8 * PAGE_BYTES, 1000, 10_000, 125),
        (8 * PAGE_BYTES, 1, 10_000, 1),
        (50, 0, 77, 77),
    ],
)
def test_pages_are_as_large_as_points_allow(
    answered: int, count: int, most: int, limit: int
) -> None:
    assert next_limit(answered, count, most) == limit


def test_a_scan_asks_for_ids_and_what_the_link_needs(server: Any, points: LivePoints) -> None:
    _info(server)
    server.results("POST", SCROLL, _page([1, 2], 3), _page([3], 9), _page([]))

    blocks = list(points.points(_link("k", filter={"kind": "a"}), "docs"))

    assert [block.ids for block in blocks] == [[1, 2], [3], []]
    asked = [request.json for request in server.asked("POST", SCROLL)]
    assert [body.get("offset") for body in asked] == [None, 3, 9]
    assert [body["limit"] for body in asked] == [FIRST_PAGE, 10_000, 10_000]
    assert {body["with_vector"] for body in asked} == {False}
    assert asked[0]["with_payload"] == ['"k"']
    assert asked[0]["filter"] == {"must": [{"key": '"kind"', "match": {"value": "a"}}]}


def test_long_payloads_make_short_pages(server: Any, points: LivePoints) -> None:
    _info(server)
    server.results("POST", SCROLL, _page([1], 2, "x" * PAGE_BYTES), _page([2]))

    list(points.points(_link("k"), "docs"))

    assert [request.json["limit"] for request in server.asked("POST", SCROLL)] == [FIRST_PAGE, 1]


def test_filters_that_strict_mode_forbids_are_tested_here(server: Any, points: LivePoints) -> None:
    strict = {"enabled": True, "unindexed_filtering_retrieve": False, "max_query_limit": 7}
    _info(server, strict)
    page = {"points": [{"id": 1, "payload": {"kind": "a"}}, {"id": 2, "payload": {}}]}
    server.results("POST", SCROLL, page)

    (block,) = points.points(_link(filter={"kind": "a"}), "docs")

    assert block.ids == [1]
    (body,) = [request.json for request in server.asked("POST", SCROLL)]
    assert "filter" not in body
    assert body["limit"] == 7


def test_an_error_on_the_way_is_raised(server: Any, points: LivePoints) -> None:
    _info(server)
    broken: tuple[int, bytes, dict[str, str]] = (500, b'{"status":{"error":"disk"}}', {})
    server.on("POST", SCROLL, server.result(_page([1], 2)), broken)
    blocks = points.points(_link(), "docs")

    assert next(blocks).ids == [1]
    with pytest.raises(Failed, match="disk"):
        next(blocks)


def test_limits_are_remembered_for_a_while(
    server: Any, points: LivePoints, clock: ManualClock
) -> None:
    _info(server)
    server.results("POST", "/collections/docs/points", [])

    points.fetch_ids("docs", [1])
    points.fetch_ids("docs", [2])
    assert len(server.asked("GET", "/collections/docs")) == 1

    clock.advance(LIMITS_HOLD)
    points.fetch_ids("docs", [3])
    assert len(server.asked("GET", "/collections/docs")) == 2


def test_many_keys_without_an_index_are_one_scan(server: Any, points: LivePoints) -> None:
    _info(server)
    server.results("POST", SCROLL, _page(list(range(20))))

    found = points.owned(_link("k"), "docs", [str(n) for n in range(10, 5000)])

    assert found.ids == list(range(10, 20))
    (body,) = [request.json for request in server.asked("POST", SCROLL)]
    assert "filter" not in body


def test_with_an_index_keys_are_asked_in_chunks(server: Any, points: LivePoints) -> None:
    _info(server, k={"data_type": "keyword", "points": 10})
    server.results("POST", SCROLL, _page(list(range(20))))

    found = points.owned(_link("k"), "docs", [f"{n:04}" for n in range(2500)])

    assert found.ids == []
    bodies = [request.json for request in server.asked("POST", SCROLL)]
    values = [body["filter"]["must"][0]["should"][0]["match"]["any"] for body in bodies]
    assert [len(each) for each in values] == [1000, 1000, 500]


def test_a_condition_that_strict_mode_refuses_becomes_a_scan(
    server: Any, points: LivePoints
) -> None:
    _info(server, k={"data_type": "keyword", "points": 3})
    text = b'{"status":{"error":"Bad request: Index required. Help: Create an index"}}'
    server.on("POST", SCROLL, (400, text, {}), server.result(_page(list(range(20)))))

    assert points.owned(_link("k"), "docs", ["7", "x"]).ids == [7]
    assert "filter" not in server.asked("POST", SCROLL)[-1].json


def test_keys_that_cannot_be_ids_are_not_asked_for(server: Any, points: LivePoints) -> None:
    _info(server)

    assert points.fetch(_link(), "docs", ["x", "-1"]) == {}
    assert len(points.owned(_link(), "docs", ["x", "-1"])) == 0
    assert server.asked("POST", "/collections/docs/points") == []
