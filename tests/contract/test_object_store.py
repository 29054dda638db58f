"""What every object store does, fake or real."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.contract.conftest import Opened
from vbackup.errors import AlreadyExists, Failed, NotFound, Refused
from vbackup.ports import ObjectStore

AWKWARD_KEYS = [
    "plain",
    "with space/and more",
    "per%20cent/100%",
    "plus+sign/a&b=c",
    "hash#and?query",
    "quote'and\"double",
    "ümlaut/ключ/鍵/🔑",
    "e\u0301/decomposed",
    "deep/a/b/c/d/e/f/g",
    "tilde~and.dot/.hidden",
    "UPPER/lower",
    "colon:semi;comma,at@",
]


def _keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [found.key for found in store.scan(prefix)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_put_is_got(store: ObjectStore, kind: type) -> None:
    data = bytes(range(256)) * 40
    store.put("a/b", kind(data))
    assert store.get("a/b") == data
    assert type(store.get("a/b")) is bytes


def test_stat_tells_size_and_time(store: ObjectStore) -> None:
    store.put("a", b"12345")
    found = store.stat("a")
    assert found is not None
    assert (found.key, found.size) == ("a", 5)
    assert found.modified.tzinfo is UTC
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=10)


def test_absent_objects(store: ObjectStore) -> None:
    assert store.stat("none") is None
    for start, length in ((0, None), (5, 3), (0, 0)):
        with pytest.raises(NotFound):
            store.get("none", start, length)
    assert _keys(store) == []
    store.delete(["none", "nor/this"])
    store.delete([])


def test_put_replaces(store: ObjectStore) -> None:
    store.put("a", b"first and longer")
    store.put("a", b"second")
    assert store.get("a") == b"second"
    found = store.stat("a")
    assert found is not None
    assert found.size == 6


def test_empty_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.get("empty", 0, 10) == b""
    assert store.get("empty", 3) == b""
    found = store.stat("empty")
    assert found is not None
    assert found.size == 0
    assert _keys(store) == ["empty"]


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, None), (0, 4), (3, 4), (6, None), (9, 1), (8, 100), (10, None), (10, 5), (50, 1), (4, 0)],
)
def test_ranges(store: ObjectStore, start: int, length: int | None) -> None:
    data = b"0123456789"
    store.put("a", data)
    expected = data[start:] if length is None else data[start : start + length]
    assert store.get("a", start, length) == expected


def test_awkward_keys(opened: Opened) -> None:
    store, keys = opened.store, AWKWARD_KEYS
    if "lists & and ' escaped twice" in opened.defects:
        keys = [key for key in keys if not set(key) & set("&'")]
    for at, key in enumerate(keys):
        store.put(key, b"%d" % at)
    assert _keys(store) == sorted(keys)
    for at, key in enumerate(keys):
        assert store.get(key) == b"%d" % at, key
        found = store.stat(key)
        assert found is not None, key
        assert found.key == key
    store.delete(keys)
    assert _keys(store) == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a\0b"])
def test_keys_that_no_store_takes(opened: Opened, key: str) -> None:
    if opened.beside is None:
        pytest.skip("the fake takes any key")
    with pytest.raises(Refused):
        opened.store.put(key, b"x")
    with pytest.raises(Refused):
        opened.store.get(key)


def test_scan_is_in_key_order_and_by_prefix(opened: Opened) -> None:
    store = opened.store
    keys = ["a-b", "a.b", "a/1", "a/2/x", "a/2.x", "a0", "ab", "b/a", "b/a.", "é", "z"]
    for key in random.Random(7).sample(keys, len(keys)):
        store.put(key, b"x")
    if "lists out of order" in opened.defects:
        with pytest.raises(Failed, match="out of order"):
            _keys(store)
        return
    assert _keys(store) == sorted(keys)
    for prefix in ("a", "a/", "a/2", "a/2/", "b/a", "é", "none", "a/1/", "zz"):
        assert _keys(store, prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix


def test_lists_longer_than_a_page(opened: Opened) -> None:
    """S3 pages end at 1000 keys."""
    store = opened.store
    if "one page only" in opened.defects:
        pytest.skip("this server answers 500 to a continuation token")
    if "minutes for a thousand objects" in opened.defects:
        pytest.skip("this server is too slow")
    keys = [f"many/{number:05d}" for number in range(1203)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert _keys(store, "many/") == keys
    store.delete(iter(keys[:1101]))
    assert _keys(store) == keys[1101:]


def test_scan_may_be_followed_by_deletes(store: ObjectStore) -> None:
    for number in range(20):
        store.put(f"d{number % 4}/{number:02d}", b"x")
    store.delete(found.key for found in store.scan("d"))
    assert _keys(store) == []


def test_prefixes_are_isolated(opened: Opened, fresh_prefix: str) -> None:
    if opened.beside is None:
        pytest.skip("the fake has no prefix")
    neighbour = opened.beside(f"{fresh_prefix}0")
    inner = opened.beside(f"{fresh_prefix}/inner")
    opened.store.put("a", b"mine")
    neighbour.put("a", b"theirs")
    inner.put("a", b"inner")
    assert _keys(opened.store) == ["a", "inner/a"]
    assert _keys(neighbour) == ["a"]
    opened.store.delete(["a"])
    assert neighbour.get("a") == b"theirs"
    assert opened.store.get("inner/a") == b"inner"


def test_large_object(store: ObjectStore) -> None:
    data = random.Random(3).randbytes(20 * 1024 * 1024)
    store.put("large", data)
    got = store.get("large")
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    assert store.get("large", 12_345_678, 1_000_000) == data[12_345_678:13_345_678]
    assert store.get("large", len(data) - 5) == data[-5:]


def test_conditional_says_what_is_true(opened: Opened) -> None:
    """Probed; and the probe leaves nothing behind."""
    said = opened.store.conditional
    assert opened.conditional is None or said is opened.conditional
    assert _keys(opened.store) == []


def test_create_only_put_refuses_a_taken_key(opened: Opened) -> None:
    store = opened.store
    store.put("a", b"first", if_absent=True)
    if opened.beside is None and not store.conditional:
        pytest.skip("the overwriting fake does not look first")
    with pytest.raises(AlreadyExists):
        store.put("a", b"second", if_absent=True)
    assert store.get("a") == b"first"
    store.delete(["a"])
    store.put("a", b"third", if_absent=True)
    assert store.get("a") == b"third"


def test_exactly_one_of_concurrent_creators_wins(opened: Opened) -> None:
    store = opened.store
    if "conditions race" in opened.defects or not store.conditional:
        pytest.skip("this store enforces no conditions")

    def create(number: int) -> int | None:
        try:
            store.put("race", b"%d" % number, if_absent=True)
        except AlreadyExists:
            return None
        return number

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(create, range(8)) if number is not None]
        assert len(winners) == 1
        assert store.get("race") == b"%d" % winners[0]
        store.delete(["race"])


def test_concurrent_puts_of_one_key_leave_one_whole_object(store: ObjectStore) -> None:
    contents = [bytes([number]) * 300_000 for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda data: store.put("same", data), contents))
    assert store.get("same") in contents


def test_location_names_the_place(opened: Opened, fresh_prefix: str) -> None:
    location = opened.store.location
    assert "://" in location
    if opened.beside is not None:
        assert location.endswith(fresh_prefix)
