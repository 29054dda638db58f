"""The process that reads a shard: frames, and every way in which it can end."""

from __future__ import annotations

import io
import struct
import sys
import tarfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vbackup.errors import Damaged, Failed
from vbackup.model.blocks import PointBlock
from vbackup.model.columns import Integers, Numbers, Uuids
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.qdrant import edge_process
from vbackup.qdrant.edge_process import EdgeProcess
from vbackup.qdrant.edge_protocol import (
    Columns,
    Lookup,
    Owned,
    Scan,
    Trouble,
    Whole,
    WholePoints,
    receive_answer,
    receive_request,
    send,
)

LINK = Link(
    name="l",
    collection="c*",
    rows=(RowSource(table="t", key=("id",)),),
    ref=(PayloadPath.parse("a.b|json.c"),),
    version=PayloadPath.parse("v"),
    cardinality="many",
    filter={"x": 1, "y": True, "z": "s"},
    must_not={"n": 5},
)


@pytest.mark.parametrize(
    "request_",
    [
        Scan(LINK, None, 10),
        Scan(LINK, 2**64 - 1, 10, "u"),
        Lookup(LINK, [1, "u"]),
        Owned(LINK, ["k"], "u", 5),
        Whole([1, "u"]),
    ],
)
def test_requests_survive_the_pipe(request_: Scan | Lookup | Owned | Whole) -> None:
    pipe = io.BytesIO()
    send(pipe, request_)
    pipe.seek(0)

    assert receive_request(pipe) == request_
    assert receive_request(pipe) is None


@pytest.mark.parametrize(
    "answer",
    [
        Columns([1, "u"], ["r", None], ["v", None], None, start=7),
        WholePoints([(1, {"a": [0.5]}, {"k": {"x": None}})]),
        Trouble("no", ours=True),
    ],
)
def test_answers_survive_the_pipe(answer: Columns | WholePoints | Trouble) -> None:
    pipe = io.BytesIO()
    send(pipe, answer)
    pipe.seek(0)

    assert receive_answer(pipe) == answer


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<I", 5) + b"abc", b"\xff" * 40])
def test_half_a_frame_is_none(data: bytes) -> None:
    assert receive_answer(io.BytesIO(data)) is None


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], EdgeProcess]]:
    """`reader(code)`: an EdgeProcess whose child runs this instead of Qdrant's engine."""
    tar = tmp_path / "docs-0.snapshot"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("shard_config.json"))
    made: list[EdgeProcess] = []

    def make(code: str) -> EdgeProcess:
        script = tmp_path / "child.py"
        script.write_text(
            "import os, sys\n"
            "from vbackup.qdrant.edge_protocol import *\n"
            "out, inp = sys.stdout.buffer, sys.stdin.buffer\n"
            f"assert receive_request(inp) == Open({edge_process.LARGE})\n" + textwrap.dedent(code)
        )
        monkeypatch.setattr(edge_process, "COMMAND", (sys.executable, str(script)))
        made.append(EdgeProcess(tar, tmp_path / "work", vectors=False))
        return made[-1]

    yield make
    for process in made:
        process.close()
    if (tmp_path / "work").exists():
        assert list((tmp_path / "work").iterdir()) == []


BLOCKS = [
    PointBlock([], [], None),
    PointBlock([1, "u"], ["k", None], ["v", None], [None, "t"]),
    PointBlock(
        Numbers(np.array([0, 2**64 - 1], np.uint64)),
        ["0", str(2**64 - 1)],
        Integers(np.array([-1, 2**63 - 1])),
    ),
    PointBlock(Uuids.of_bytes(bytes(range(32))), Uuids.of_bytes(bytes(range(32)))),
]


@pytest.mark.parametrize("block", BLOCKS)
def test_columns_survive_the_pipe_as_lists_and_as_arrays(block: PointBlock) -> None:
    pipe = io.BytesIO()
    send(pipe, Columns.of(block, 7))
    pipe.seek(0)

    answer = receive_answer(pipe)
    assert isinstance(answer, Columns)
    assert answer.start == 7
    assert answer.block() == block
    assert type(answer.block().ids) is type(block.ids)


ANSWERING = """
    send(out, Ready(1))
    while (request := receive_request(inp)) is not None:
        send(out, Columns(list(request.ids), [str(os.getpid())] * len(request.ids)))
"""


def test_a_request_gets_its_answer(reader: Callable[[str], EdgeProcess]) -> None:
    process = reader(ANSWERING)

    first = process.ask(Lookup(LINK, [1, 2]), Columns)
    second = process.ask(Lookup(LINK, [3]), Columns)

    assert (first.ids, second.ids) == ([1, 2], [3])
    assert first.block().refs[0] == second.block().refs[0]


def test_what_loads_is_waited_for_once_it_is_asked(reader: Callable[[str], EdgeProcess]) -> None:
    process = reader(ANSWERING)

    assert process.begin() == 0  # of an empty shard
    process.load()
    process.load()

    assert process.ready().points == 1
    assert process.ask(Lookup(LINK, [1]), Columns).ids == [1]
    process.rest()
    assert process.ready().points == 1


def test_threads_take_turns(reader: Callable[[str], EdgeProcess]) -> None:
    process = reader(ANSWERING)
    found: dict[int, Sequence[int | str]] = {}

    def ask(number: int) -> None:
        found[number] = process.ask(Lookup(LINK, [number] * number), Columns).block().ids

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {n: [n] * n for n in range(1, 20)}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("send(out, Trouble('OutputTooSmall'))", "OutputTooSmall"),
        (
            "sys.stderr.write('thread panicked\\nmemory allocation failed\\n'); os.abort()",
            "signal 6",
        ),
        ("sys.stderr.write('thread panicked\\nmemory allocation failed\\n'); os.abort()", "alloc"),
        ("sys.exit(3)", "exit 3"),
        ("send(out, Ready(1)); receive_request(inp); os.kill(os.getpid(), 9)", "signal 9"),
        ("send(out, Ready(1)); receive_request(inp); out.write(b'xx')", "exit 0"),
        ("send(out, Ready(1)); receive_request(inp); send(out, Trouble('panic'))", "panic"),
    ],
)
def test_every_end_is_damage_of_that_shard(
    reader: Callable[[str], EdgeProcess], code: str, said: str
) -> None:
    process = reader(code)

    with pytest.raises(Damaged, match=said) as caught:
        process.ask(Lookup(LINK, [1]), Columns)
    assert "docs-0.snapshot" in str(caught.value)
    assert caught.value.hint


def test_our_own_mistakes_are_no_damage(reader: Callable[[str], EdgeProcess]) -> None:
    process = reader("send(out, Trouble('TypeError: x', ours=True))")

    with pytest.raises(Failed, match="TypeError") as caught:
        process.ask(Lookup(LINK, [1]), Columns)
    assert not isinstance(caught.value, Damaged)


def test_closing_ends_the_process(reader: Callable[[str], EdgeProcess]) -> None:
    process = reader(ANSWERING)
    process.ask(Lookup(LINK, [1]), Columns)
    child = process._process
    assert child is not None

    process.close()
    process.close()

    assert child.returncode is not None
