"""Client programs as children: bytes, failures, nothing left behind."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbackup.errors import Denied, Failed, Refused, Unreachable, VbackupError
from vbackup.postgres.process import (
    Child,
    connection_argument,
    dump_failure,
    environment,
    output,
    streamed,
)

ENV = dict(os.environ)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_bytes_come_as_they_are() -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 9000)"
    blocks = list(streamed(python(code), ENV, dump_failure))
    assert b"".join(blocks) == bytes(range(256)) * 9000
    assert max(map(len, blocks)) <= 1024**2
    assert len(blocks) == 3


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="pipes have their size")
def test_pipes_hold_a_block() -> None:
    code = "import fcntl, sys; sys.stdin.read(); print(*(fcntl.fcntl(n, 1032) for n in (0, 1)))"
    with Child(python(code), ENV, stdin=True, stdout=True) as child:
        child.feed([b"go"])
        sizes = b"".join(child.blocks()).split()
        assert child.wait() == 0
    most = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    assert [int(size) for size in sizes] == [min(1024**2, most)] * 2


def test_pipes_that_cannot_be_widened_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "too many pages in pipes")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert output(python("print('done')"), ENV) == b"done\n"


def test_a_failure_comes_after_the_bytes_with_the_last_lines() -> None:
    code = "import sys; print('x', flush=True); print('a\\nb' * 99, file=sys.stderr); sys.exit(1)"
    blocks = streamed(python(code), ENV, dump_failure)
    assert next(blocks) == b"x\n"
    with pytest.raises(Failed, match=r"failed: .*ba b$"):
        next(blocks)
    with pytest.raises(Failed, match="it said nothing"):
        output(python("raise SystemExit(3)"), ENV)


def test_a_full_stderr_does_not_block() -> None:
    code = "import sys; sys.stderr.write('e' * 5_000_000 + '\\n'); print('done')"
    assert output(python(code), ENV) == b"done\n"


def test_a_stream_given_up_ends_its_program() -> None:
    threads = threading.active_count()
    code = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    blocks = streamed(python(code), ENV, dump_failure)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads


def test_nothing_starts_before_the_first_block_is_asked_for() -> None:
    stream = streamed(["/nonexistent/pg_dump"], ENV, dump_failure)
    with pytest.raises(Failed, match="pg_dump cannot be started"):
        next(stream)


def test_feeding_a_program_that_ends_early_stops() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    with Child(python("raise SystemExit(4)"), ENV, stdin=True) as child:
        child.feed(endless())
        assert child.wait() == 4
    with Child(python("import sys; sys.exit(len(sys.stdin.read()))"), ENV, stdin=True) as child:
        child.feed([b"123", b"4"])
        assert child.wait() == 4


def test_an_error_while_feeding_ends_the_program() -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise ValueError("unreadable")

    with Child(python("import sys; sys.stdin.read()"), ENV, stdin=True) as child:
        with pytest.raises(ValueError, match="unreadable"):
            child.feed(broken())
        child.stop()
        assert child.wait() != 0


def test_a_listener_that_fails_is_heard() -> None:
    def listener(line: str) -> None:
        raise ValueError(line)

    code = "import sys; print('one', file=sys.stderr); print('two', file=sys.stderr)"
    with (
        Child(python(code), ENV, on_line=listener) as child,
        pytest.raises(ValueError, match="one"),
    ):
        child.wait()


def test_a_program_that_ignores_the_polite_signal_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vbackup.postgres.process._GRACE_SECONDS", 0.1)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(600)"
    )
    with Child(python(code), ENV, stdout=True) as child:
        pipe = child._process.stdout
        assert pipe is not None
        assert pipe.readline() == b"ready\n"
        child.stop()
        assert child.wait() == -9


def test_secrets_go_into_the_environment() -> None:
    params = {"host": "h", "password": "s3cret", "dbname": "a b"}
    argument = connection_argument(params)
    assert "s3cret" not in argument
    assert argument == "--dbname=host=h dbname='a b'"
    assert environment(params)["PGPASSWORD"] == "s3cret"
    with pytest.raises(Refused):
        connection_argument({"sslpassword": "s3cret"})


@pytest.mark.parametrize(
    ("said", "kind", "retryable"),
    [
        ("ERROR: x pg_dump: detail: Query was: LOCK TABLE a IN ACCESS SHARE MODE", Failed, True),
        ("permission denied for table x Query was: LOCK TABLE x", Denied, False),
        ("query would be affected by row-level security policy", Refused, False),
        ("aborting because of server version mismatch", Refused, False),
        ('connection to server at "h" failed', Unreachable, True),
        ("server closed the connection unexpectedly", Unreachable, True),
        ("anything else", Failed, False),
    ],
)
def test_what_pg_dump_says(said: str, kind: type[VbackupError], retryable: bool) -> None:
    error = dump_failure("pg_dump", said)
    assert type(error) is kind
    assert error.retryable is retryable
    assert said in error.message
