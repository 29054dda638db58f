"""What test_decoding writes, taken apart; and change bases as text."""

from __future__ import annotations

import pytest

from vbackup.errors import Usage
from vbackup.postgres.feeds import Base
from vbackup.postgres.slot import decoded


@pytest.mark.parametrize(
    ("text", "tuples"),
    [
        ("id[integer]:1 v[integer]:null", [{"id": "1"}]),
        ("id[integer]:3", [{"id": "3"}]),
        ("(no-tuple-data)", []),
        ("", []),
        ("a[text]:'it''s b[integer]:2' b[integer]:7", [{"a": "it's b[integer]:2", "b": "7"}]),
        ('"K ""y"[character varying]:\'x\'', [{'K "y': "x"}]),
        ("t[text[]]:'{a,b}' big[text]:unchanged-toast-datum k[oid]:5", [{"t": "{a,b}", "k": "5"}]),
        ("old-key: id[bigint]:6 new-tuple: id[bigint]:7", [{"id": "6"}, {"id": "7"}]),
        ("s[text]:'new-tuple: ' id[bigint]:7", [{"s": "new-tuple: ", "id": "7"}]),
        ("n[text]:'1\n2' b[bit]:B'01' id[int]:-1", [{"n": "1\n2", "b": "B'01'", "id": "-1"}]),
    ],
)
def test_changes_are_taken_apart(text: str, tuples: list[dict[str, str]]) -> None:
    assert list(decoded(text)) == tuples


def test_a_base_is_read_as_it_was_written() -> None:
    for base in (Base("7"), Base("7", {}, 3), Base("0", {"t.at": "2026-01-01 00:00:00+00"}, 0)):
        assert Base.parse(str(base)) == base
    assert str(Base("7")) == "7"


@pytest.mark.parametrize("text", ["", "7 x", "7 [1]", "7 [1, 2]", "7 1", " 7", "4294967296"])
def test_what_is_no_base_is_a_mistake(text: str) -> None:
    with pytest.raises(Usage, match="not a change base"):
        Base.parse(text)
