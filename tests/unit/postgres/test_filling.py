"""The script of a table's archive, taken apart wherever its blocks end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vbackup.errors import Failed
from vbackup.postgres import filling
from vbackup.postgres.filling import MOST, Script
from vbackup.postgres.restore import LEAST, shares

HEAD = b"""--
-- PostgreSQL database dump
--

\\restrict h4yNGjSjf1

-- Dumped from database version 18.1

SET statement_timeout = 0;
SET transaction_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: a
--

"""
SETTINGS = HEAD.replace(b"\\restrict h4yNGjSjf1\n", b"")
COPY = b"COPY public.t (id, body) FROM stdin;\n"
TAIL = b"""

--
-- Name: t_id_seq; Type: SEQUENCE SET; Schema: public; Owner: a
--

SELECT pg_catalog.setval('public.t_id_seq', 7, true);


--
-- PostgreSQL database dump complete
--

\\unrestrict h4yNGjSjf1

"""
SETVAL = b"SELECT pg_catalog.setval('public.t_id_seq', 7, true);"


def blocks(text: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The text in blocks of these sizes, the last one again and again."""
    at = 0
    while at < len(text):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        yield text[at : at + size]
        at += size


# Values that look like the end, or begin as it does.
VALUE = st.sampled_from([b"", b"a", b"\\N", b"\\\\.", b"\\.x", b"x\\.", b"\\\\", b"\\"])
ROW = st.tuples(VALUE, VALUE).map(lambda row: b"\t".join(row) + b"\n")


@given(st.lists(ROW, max_size=300), st.lists(st.integers(1, 40), min_size=1), st.booleans())
@example([b"x\\\\.\n"] * 80 + [b"\n"], [1], True)
@example([b"x\\\\.\n"] * 80 + [b"x\n"], [1], True)
@example([b"x\\\\.\n"] * 80 + [b"xx\n"], [1], True)
@example([b"x\\\\.\n"] * 80 + [b"xxx\n"], [1], True)
@example([b"x\\\\.\n"] * 80 + [b"xxxx\n"], [1], True)
def test_rows_are_what_stands_between(rows: list[bytes], sizes: list[int], hold: bool) -> None:
    script = Script(blocks(HEAD + COPY + b"".join(rows) + b"\\.\n" + TAIL, sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "MOST", len(HEAD) + len(COPY) if hold else MOST)
        head = script.head()
        assert (head.settings, head.copy) == (SETTINGS, COPY)
        assert b"".join(script.rows()) == b"".join(rows)
    assert script.tail() == SETVAL


@given(st.integers(1, 40))
def test_a_table_without_sequences_leaves_nothing_to_say(size: int) -> None:
    script = Script(blocks(HEAD + COPY + b"\\.\n\n\n--\n-- complete\n--\n\n", [size]))
    script.head()
    assert not list(script.rows())
    assert script.tail() == b""


def test_a_name_may_hold_anything() -> None:
    copy = b'COPY public."COPY x\nCOPY "" FROM stdin;\n" ("a"" FROM stdin;\n") FROM stdin;\n'
    script = Script(blocks(HEAD + copy + b"1\n\\.\n", [13]))
    assert script.head().copy == copy
    assert list(script.rows()) == [b"1\n"]


@given(st.integers(1, 40))
def test_a_script_that_breaks_off_fails(size: int) -> None:
    script = Script(blocks(HEAD + COPY + b"1\ta\n\\.", [size]))
    script.head()
    with pytest.raises(Failed, match="does not end after its rows"):
        list(script.rows())


@pytest.mark.parametrize("text", [b"", HEAD, b"-" * (MOST + 2)])
def test_a_script_without_rows_fails(text: bytes) -> None:
    with pytest.raises(Failed, match="no rows where they should be"):
        Script(blocks(text, [1 << 16])).head()


def test_a_script_that_goes_on_after_its_rows_fails() -> None:
    script = Script(blocks(HEAD + COPY + b"1\ta\n\\.\n" + b"x" * (2 * MOST), [1 << 16]))
    script.head()
    with pytest.raises(Failed, match="does not end after its rows"):
        list(script.rows())


def test_rows_do_not_wait_for_the_end() -> None:
    """All but the last megabyte or so is handed on."""
    rows = b"1\ta\n" * (MOST // 2)
    script = Script(blocks(HEAD + COPY + rows + b"\\.\n", [1 << 16]))
    script.head()
    *early, last = script.rows()
    assert b"".join([*early, last]) == rows
    assert len(last) <= MOST + (1 << 16)


def test_large_tables_share_the_sessions_by_their_bytes() -> None:
    big = 100 * LEAST
    assert shares([big], 4) == [4]
    assert shares([3 * big, big], 8) == [6, 2]
    assert shares([big, big, big], 2) == [1, 1, 1]
    assert shares([2 * LEAST - 1], 4) == [1]
    assert shares([0], 4) == [1]
    assert shares([], 4) == []
