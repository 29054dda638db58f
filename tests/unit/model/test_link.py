"""Payload paths and what a link says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.model.link import Link, PayloadPath, RowSource

NODE = {"_node_content": json.dumps({"relationships": {"1": {"hash": "abc"}}}), "list": [1, [2]]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("_node_content|json.relationships.1.hash", "abc"),
        ("_node_content|json.relationships.2.hash", None),
        ("_node_content.relationships", None),
        ("list.0", 1),
        ("list.1.0", 2),
        ("list.2", None),
        ("list.-1", None),
        ("list.²", None),
        ("list.99999999999999999999", None),
        ("list|json", None),
        ("absent.deeper", None),
    ],
)
def test_extract(path: str, value: object) -> None:
    assert PayloadPath.parse(path).extract(NODE) == value


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "NaN}"])
def test_text_that_is_no_json_has_no_value(text: str) -> None:
    assert PayloadPath.parse("a|json.b").extract({"a": text}) is None


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "|json", "a|jsonx", "a|json|json"])
def test_bad_paths(text: str) -> None:
    with pytest.raises(ValueError, match="bad payload path"):
        PayloadPath.parse(text)


@given(st.lists(st.from_regex(r"[a-z_]{1,5}(\|json)?", fullmatch=True), min_size=1))
def test_paths_are_printed_as_they_are_written(parts: list[str]) -> None:
    text = ".".join(parts)
    assert str(PayloadPath.parse(text)) == text


def test_what_a_server_can_see_of_a_path() -> None:
    plain, parsed = PayloadPath.parse("a.b"), PayloadPath.parse("a.b|json.c")
    assert (plain.root, plain.indexable) == ("a.b", True)
    assert (parsed.root, parsed.indexable) == ("a.b", False)


def test_a_link_is_keyed_when_both_sides_say_a_version() -> None:
    link = Link("a", "a", (RowSource(table="t", key=("id",)),))
    versioned = replace(link, version=PayloadPath.parse("v"))
    assert link.by_id
    assert not replace(link, ref=(PayloadPath.parse("r"),)).by_id
    assert not link.keyed
    assert not versioned.keyed
    assert replace(versioned, rows=(RowSource(table="t", key=("id",), version="v"),)).keyed
    assert replace(versioned, rows=(RowSource(sql="select 1 as key"),)).keyed
