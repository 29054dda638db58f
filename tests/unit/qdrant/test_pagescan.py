"""Pages read as bytes: what the JSON decoder would say, or nothing."""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.model.columns import Integers, Numbers, Uuids
from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant.pagescan import PageScan, rest_of
from vbackup.qdrant.projection import Answer, Projection, decode_page

NUMBERS = st.integers(0, 10**18 - 1) | st.integers(0, 20)
UUIDS = st.uuids().map(str)
ODD = st.sampled_from(
    [None, -1, 0.5, 1e5, "", "7", "x" * 36, True, 10**18, 2**64 - 1, [1], {"id": 3}, "a{b", "é"]
) | st.uuids().map(lambda u: str(u).upper())


def link(*ref: str, version: str | None = None) -> Link:
    path = PayloadPath.parse(version) if version else None
    return Link("l", "c", (), ref=tuple(map(PayloadPath.parse, ref)), version=path)


def spelled(points: list[dict[str, Any]], start: object = None) -> bytes:
    """As Qdrant spells an answer: the id comes first."""
    ordered = [{"id": point["id"]} | point for point in points]
    answer = {
        "result": {"points": ordered, "next_page_offset": start},
        "status": "ok",
        "time": 0.01,
    }
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()


def decoded(raw: bytes, of: Link) -> Any:
    return Projection(of, filtered=True).page(decode_page(raw).result.points)


def columns(block: Any) -> tuple[list[Any], list[Any], list[Any] | None]:
    versions = None if block.versions is None else list(block.versions)
    return list(block.ids), list(block.refs), versions


LINKS = [link(), link(version="v"), link("k"), link("k", version="v"), link("k", version="k")]


@given(st.data(), st.sampled_from([NUMBERS, UUIDS]), st.sampled_from([NUMBERS, UUIDS]))
def test_pages_of_numbers_and_uuids(
    data: st.DataObject, ids: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]
) -> None:
    record = st.fixed_dictionaries({"id": ids, "payload": st.fixed_dictionaries({"k": keys})})
    bare = st.fixed_dictionaries({"id": ids})
    of, records = data.draw(
        st.sampled_from([(link("k"), record), (link("k", version="k"), record), (link(), bare)])
    )
    raw = spelled(data.draw(st.lists(records, min_size=1, max_size=30)))
    found = PageScan(of).block(raw)
    assert found is not None
    assert columns(found) == columns(decoded(raw, of))
    assert isinstance(found.ids, Numbers | Uuids)
    assert isinstance(found.refs, Integers | Uuids)


@given(st.data())
def test_any_page_is_read_as_it_is_decoded_or_not_at_all(data: st.DataObject) -> None:
    value = data.draw(st.sampled_from([NUMBERS, UUIDS]))
    odd = value | ODD if data.draw(st.booleans()) else value
    payload = st.fixed_dictionaries({"k": odd, "v": NUMBERS | odd}) | st.dictionaries(
        st.sampled_from(["k", "v", "id", 'a"b', "é", ""]), odd
    )
    record = st.fixed_dictionaries(
        {"id": data.draw(st.sampled_from([NUMBERS, UUIDS, NUMBERS | UUIDS]))},
        optional={"payload": payload | st.none(), "shard_key": st.just("s")},
    )
    raw = spelled(data.draw(st.lists(record, max_size=8)))
    of = data.draw(st.sampled_from(LINKS))
    found = PageScan(of).block(raw)
    if found is not None:
        assert columns(found) == columns(decoded(raw, of))


def test_records_of_one_length_may_hold_values_of_several() -> None:
    points = [{"id": 10, "payload": {"v": 100}}, {"id": 100, "payload": {"v": 10}}] * 3
    of = link(version="v")
    raw = spelled(points)
    found = PageScan(of).block(raw)
    assert found is not None
    assert columns(found) == columns(decoded(raw, of))


def test_capitals_are_left_to_the_decoder() -> None:
    """It keeps the text of an id as it stands; only keys are compared by what they mean."""
    raw = spelled([{"id": str(uuid.UUID(int=n)).replace("0a", "0A")} for n in (1, 10, 170)])
    assert PageScan(link()).block(raw) is None


@given(st.data())
def test_a_changed_byte_is_read_as_it_is_decoded_or_not_at_all(data: st.DataObject) -> None:
    raw = bytearray(
        spelled([{"id": str(uuid.UUID(int=n)), "payload": {"v": n}} for n in (1, 22, 333)])
        if data.draw(st.booleans())
        else spelled([{"id": 10 * n, "payload": {"v": n}} for n in (1, 22, 333)], 7)
    )
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'{}",:-0e.')))
    of = link(version="v")
    found = PageScan(of).block(bytes(raw))
    try:
        expected = columns(decoded(bytes(raw), of))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Damage behind the points shows when that part is decoded.
        assert found is None or rest_of(bytes(raw)) is None
    else:
        assert found is None or columns(found) == expected


@pytest.mark.parametrize("start", [None, 7, 2**64 - 1, str(uuid.UUID(int=9))])
@pytest.mark.parametrize("kept", [1, '],"next_page_offset":5}'])
def test_where_the_next_page_starts(start: object, kept: object) -> None:
    points = [{"id": 1, "payload": {"v": kept}}, {"id": 2, "payload": {"v": kept}}]
    answer = Answer(Projection(link(version="v")), spelled(points, start))
    assert answer.start == start
    assert list(answer.block().ids) == [1, 2]
    assert answer.points(2) == 2


def test_an_answer_in_another_order_is_decoded() -> None:
    raw = b'{"result":{"next_page_offset":4,"points":[{"id":1},{"id":2}]},"status":"ok"}'
    answer = Answer(Projection(link()), raw)
    assert (answer.start, answer.points(10), list(answer.block().ids)) == (4, 2, [1, 2])


@pytest.mark.parametrize(
    "of",
    [
        link("a", "b"),
        link("a.b"),
        link("k", version="a|json.b"),
        Link("l", "c", (), tenant=PayloadPath.parse("t")),
    ],
)
def test_links_that_need_more_are_decoded(of: Link) -> None:
    raw = spelled([{"id": 1, "payload": {"k": 1, "a": 2, "b": 3, "t": 4}}])
    assert PageScan(of).block(raw) is None


def test_large_pages_in_one_piece() -> None:
    points = [{"id": n * 10**13 + n, "payload": {"v": n % 7}} for n in range(10_000)]
    of = link(version="v")
    raw = spelled(points, 10**17)
    found = PageScan(of).block(raw)
    assert found is not None
    assert columns(found) == columns(decoded(raw, of))
