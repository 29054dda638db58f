"""`vbackup reconcile --watch` as a process: what it prints, and how signals end it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@contextmanager
def watching(config: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "vbackup", "reconcile", "--watch", "--config", str(config)]
    with subprocess.Popen([*command, *arguments], text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(pair: Any, config_file: Path, number: int) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with watching(config_file, "--interval", "100ms", **pipes) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert (first["round"], first["compared"], first["clean"]) == (1, ["documents"], True)
        assert (second["round"], second["compared"]) == (2, [])
        # What changes from now on is shown by one of the next rounds.
        pair.sql("UPDATE documents SET version = 2 WHERE id = 7")
        shown = next(line for line in map(json.loads, process.stdout) if line["appeared"])
        assert [(f["kind"], f["key"]) for f in shown["appeared"]] == [("stale", "7")]
        process.send_signal(number)
        rest, said = process.communicate()
    assert process.returncode == 130
    assert json.loads(rest.splitlines()[-1])["error"]["name"] == "interrupted"
    assert "1 findings" in said
    assert "Traceback" not in said


def test_on_a_terminal_it_is_text_and_ends_after_its_rounds(pair: Any, config_file: Path) -> None:
    pair.remove([5])
    ours, theirs = pty.openpty()
    try:
        with watching(
            config_file, "--rounds", "2", "--interval", "50ms",
            stdout=theirs, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            _, said = process.communicate()
        os.set_blocking(ours, False)
        text = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 3
    assert "1 findings in the last round" in said
    assert "round 1  everything" in text
    assert "round 2" in text
    assert "+ missing" in text
    assert not text.lstrip().startswith("{")


def test_a_reader_that_goes_away_ends_it(pair: Any, config_file: Path) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with watching(config_file, "--interval", "50ms", **pipes) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["clean"]
        process.stdout.close()
        assert process.wait(60) == 0
