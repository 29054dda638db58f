"""Points to columns, by the link's paths, in both forms in which points come."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.model.blocks import PointBlock
from vbackup.model.keys import canonical
from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant.limits import MATCHED, PAGE, WHOLE, WHOLE_MULTI, Limits
from vbackup.qdrant.projection import (
    Projection,
    chosen,
    decode_page,
    decode_records,
    joined,
    reference,
)


def _link(*ref: str, **more: Any) -> Link:
    return Link("l", "c", (), ref=tuple(map(PayloadPath.parse, ref)), **more)


def test_ids_are_the_references_of_links_by_id() -> None:
    projection = Projection(_link())

    block = projection.block([1, "0190a5c8-0000-7000-8000-00000000000a"], [None, {}])

    assert block.refs == ["1", "0190a5c8-0000-7000-8000-00000000000a"]
    assert block.versions is None
    assert block.tenants is None
    assert projection.keys == []


def test_columns_are_canonical_and_null_where_absent() -> None:
    link = _link("k", version=PayloadPath.parse("a.b"), tenant=PayloadPath.parse("t|json.x"))

    block = Projection(link).block(
        [1, 2, 3, 4],
        [
            {"k": 7, "a": {"b": 2.0}, "t": '{"x": "y"}'},
            {"k": "ABCDEF00-0000-7000-8000-00000000000A", "a": "text", "t": "{"},
            {"k": ["x", 1], "a": {"b": None}, "t": 5},
            None,
        ],
    )

    assert block.refs == ["7", "abcdef00-0000-7000-8000-00000000000a", '["x",1]', None]
    assert block.versions == ["2", None, None, None]
    assert block.tenants == ["y", None, None, None]


_uuids = st.uuids().flatmap(lambda u: st.sampled_from([str(u), str(u).upper(), u.hex]))
_values = st.one_of(
    st.integers(min_value=-(10**33), max_value=10**33), st.text(max_size=40), _uuids, st.booleans()
)


@given(
    st.one_of(
        st.lists(st.integers(min_value=-(10**33), max_value=10**33)),
        st.lists(_uuids),
        st.lists(st.uuids().map(str)),
        st.lists(_values),
    )
)
def test_a_column_as_a_whole_is_spelled_as_each_value_is(values: list[object]) -> None:
    block = Projection(_link("k")).block(range(len(values)), [{"k": value} for value in values])
    assert block.refs == [canonical(value) for value in values]


def test_composite_references_need_all_their_parts() -> None:
    block = Projection(_link("a", "b.c")).block(
        [1, 2], [{"a": 1, "b": {"c": "x"}}, {"a": 1, "b": {}}]
    )

    assert block.refs == ['["1","x"]', None]


@pytest.mark.parametrize(
    ("paths", "keys"),
    [
        (("a",), ['"a"']),
        (("a.b c",), ['"a"."b c"']),
        (("a|json.b", "a|json.c"), ['"a"']),
        (("a.0.b",), ['"a"']),
        (("7.x",), ['"7"."x"']),
    ],
)
def test_only_what_is_needed_is_asked_for(paths: tuple[str, ...], keys: list[str]) -> None:
    assert Projection(_link(*paths)).keys == keys


def test_filters_are_read_only_where_nobody_else_tests_them() -> None:
    link = _link("k", filter={"kind": "a"}, must_not={"x.y": 1})
    payloads: list[dict[str, Any] | None] = [
        {"k": "1", "kind": "a"},
        {"k": "2"},
        {"kind": "a", "x": {"y": 1}},
    ]

    assert Projection(link, filtered=True).keys == ['"k"']
    assert Projection(link, filtered=True).block([1, 2, 3], payloads).ids == [1, 2, 3]
    assert Projection(link).keys == ['"k"', '"kind"', '"x"."y"']
    assert Projection(link).block([1, 2, 3], payloads).ids == [1]


def test_pages_are_decoded() -> None:
    raw = json.dumps(
        {
            "result": {
                "points": [{"id": 2**64 - 1, "payload": {"k": "v"}}, {"id": "u", "payload": None}],
                "next_page_offset": 7,
            },
            "status": "ok",
            "time": 0.1,
        }
    ).encode()

    page = decode_page(raw).result

    assert page.next_page_offset == 7
    block = Projection(_link("k")).page(page.points)
    assert (block.ids, block.refs) == ([2**64 - 1, "u"], ["v", None])
    assert decode_records(b'{"result":[{"id":5}],"time":0}').result[0].payload is None
    with pytest.raises(msgspec.ValidationError):
        decode_page(b'{"result":{"points":[{"id":1.5}]}}')


def test_reference_is_that_of_the_block() -> None:
    payload = {"a": 1, "b": "x"}

    assert reference(_link(), 5, payload) == "5"
    assert reference(_link("a"), 5, payload) == "1"
    assert reference(_link("a", "b"), 5, payload) == '["1","x"]'
    assert reference(_link("none"), 5, None) is None


def test_blocks_are_chosen_and_joined() -> None:
    one = PointBlock([1, 2], ["a", "b"], ["v1", "v2"], ["t1", "t2"])
    two = PointBlock([3], ["a"], ["v3"], ["t3"])

    assert chosen(one, {"b"}) == PointBlock([2], ["b"], ["v2"], ["t2"])
    assert chosen(one, {"a", "b"}) is one
    assert chosen(PointBlock([1], [None]), {"a"}) == PointBlock([], [])
    assert joined([one]) is one
    both = joined([one, two])
    assert both == PointBlock([1, 2, 3], ["a", "b", "a"], ["v1", "v2", "v3"], ["t1", "t2", "t3"])
    assert joined([PointBlock([1], ["a"]), PointBlock([], [])]).versions is None


def _config(strict: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    return {"params": params, "strict_mode_config": strict}


def test_limits_without_strict_mode() -> None:
    assert Limits.of(_config()) == Limits()
    assert Limits.of(_config({"enabled": False, "max_query_limit": 5})) == Limits()
    multi = {"a": {"size": 1, "multivector_config": {"comparator": "max_sim"}}}
    assert Limits.of(_config(vectors=multi)).whole == WHOLE_MULTI
    assert Limits.of(_config(vectors=multi["a"])).upserted == WHOLE_MULTI


def test_limits_of_strict_mode() -> None:
    strict = {
        "enabled": True,
        "max_query_limit": 50,
        "condition_max_size": 40,
        "upsert_max_batchsize": 3,
        "unindexed_filtering_retrieve": False,
    }
    assert Limits.of(_config(strict)) == Limits(50, 10, 50, 3, False)
    assert Limits.of(_config({"enabled": True})) == Limits(PAGE, MATCHED, WHOLE, WHOLE, True)
    tight = Limits.of(_config({"enabled": True, "condition_max_size": 1, "read_rate_limit": 2}))
    assert (tight.matched, tight.whole) == (1, 2)
