"""Filters: what a server is told, and the same tests made here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant.conditions import (
    Admission,
    covering_kind,
    link_filter,
    owned_filter,
    point_ids,
    server_key,
)

UUID = "0190a5c8-0000-7000-8000-00000000000a"


def _paths(*texts: str) -> list[PayloadPath]:
    return [PayloadPath.parse(text) for text in texts]


def test_every_step_is_quoted() -> None:
    assert server_key(("a", "b c", "7")) == '"a"."b c"."7"'


def test_a_link_without_filters_has_none() -> None:
    assert link_filter(Link("l", "c", ())) == {}


def test_a_links_filters() -> None:
    link = Link("l", "c", (), filter={"a.b": 1, "x": True}, must_not={"kind": "web"})

    assert link_filter(link) == {
        "must": [
            {"key": '"a"."b"', "match": {"value": 1}},
            {"key": '"x"', "match": {"value": True}},
        ],
        "must_not": [{"key": '"kind"', "match": {"value": "web"}}],
    }


@pytest.mark.parametrize(
    ("payload", "admitted"),
    [
        ({"a": 1}, True),
        ({"a": [2, 1]}, True),
        ({"a": "1"}, False),
        ({"a": True}, False),
        ({"a": 1.0}, False),
        ({"a": {"b": 1}}, False),
        ({"a": [[1]]}, False),
        ({"a": None}, False),
        ({}, False),
        (None, False),
        ({"a": 1, "deep": {"x": "no"}}, False),
        ({"a": 1, "deep": {"x": ["yes", "no"]}}, False),
        ({"a": 1, "deep": "no"}, True),
    ],
)
def test_admission_is_typed_and_looks_into_arrays(payload: Any, admitted: bool) -> None:
    admits = Admission({"a": 1}, {"deep.x": "no"})

    assert admits(payload) is admitted
    assert not admits.everything


def test_admission_of_a_link_without_filters_is_everything() -> None:
    assert Admission({}, {}).everything


def test_only_some_keys_can_be_point_ids() -> None:
    keys = ["0", "7", str(2**64 - 1), str(2**64), "-1", "007", "1.0", "", "²", "x", UUID]

    assert point_ids([*keys, UUID.upper()]) == [0, 7, 2**64 - 1, UUID]


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.uuids().map(str)), max_size=20))
def test_canonical_ids_survive(ids: list[int | str]) -> None:
    assert point_ids(map(str, ids)) == ids


def _conditions(keys: list[str], kind: Any = None) -> list[dict[str, Any]]:
    found = owned_filter(_paths("k"), keys, [kind])
    assert found is not None
    (part,) = found["must"]
    return list(part["should"])


def test_keys_are_matched_in_every_form_a_payload_may_hold() -> None:
    conditions = _conditions(["12", "abc", UUID, "true"])

    assert {"key": '"k"', "match": {"value": True}} in conditions
    assert {"key": '"k"', "match": {"any": [12]}} in conditions
    (texts,) = [
        c["match"]["any"] for c in conditions if isinstance(c["match"].get("any", [0])[0], str)
    ]
    plain = UUID.replace("-", "")
    assert set(texts) == {"12", "abc", "true", UUID, UUID.upper(), plain, plain.upper()}


def test_a_known_type_is_the_only_one_searched() -> None:
    keys = ["12", "abc", UUID, "true"]

    assert _conditions(keys, "integer") == [{"key": '"k"', "match": {"any": [12]}}]
    assert len(_conditions(keys, "text")) == 1
    (uuids,) = _conditions(keys, "uuid")
    assert len(uuids["match"]["any"]) == 4
    assert _conditions(["abc"], "integer") == [{"has_id": []}]


@pytest.mark.parametrize("key", [str(2**63), str(-(2**63) - 1), "007", "1e3", "+1"])
def test_what_is_no_64_bit_integer_is_not_matched_as_one(key: str) -> None:
    assert _conditions([key]) == [{"key": '"k"', "match": {"any": [key]}}]


def test_composite_keys_are_matched_part_by_part() -> None:
    keys = [
        '["a","1"]',
        '["b","2"]',
        "not json",
        '["too", "many", "x"]',
        "{}",
    ]

    found = owned_filter(_paths("x", "y.z"), keys)

    assert found == {
        "must": [
            {"should": [{"key": '"x"', "match": {"any": ["a", "b"]}}]},
            {
                "should": [
                    {"key": '"y"."z"', "match": {"any": ["1", "2"]}},
                    {"key": '"y"."z"', "match": {"any": [1, 2]}},
                ]
            },
        ]
    }


def test_json_text_and_list_indexes_are_left_to_us() -> None:
    assert owned_filter(_paths("_node|json.id"), ["1"]) is None
    assert owned_filter(_paths("a.0.b"), ["1"]) is None
    found = owned_filter(_paths("x", "_node|json.id"), ['["1","2"]'])
    assert found is not None
    assert len(found["must"]) == 1


@pytest.mark.parametrize(
    ("path", "indexed", "points", "total", "kind"),
    [
        ("k", "integer", 10, 10, "integer"),
        ("k", "keyword", 10, 10, "text"),
        ("k", "uuid", 10, 10, "uuid"),
        ("k", "integer", 9, 10, None),
        ("k", "float", 10, 10, None),
        ("k", None, 0, 0, None),
        ("k|json.x", "keyword", 10, 10, None),
    ],
)
def test_an_index_covers_when_it_holds_every_point(
    path: str, indexed: str | None, points: int, total: int, kind: str | None
) -> None:
    assert covering_kind(PayloadPath.parse(path), indexed, points, total) == kind
