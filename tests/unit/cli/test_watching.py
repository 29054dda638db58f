"""What a watch prints, a round at a time, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vbackup.cli import output, watching
from vbackup.cli.session import Session
from vbackup.engine.watch import Round
from vbackup.errors import Unreachable
from vbackup.model.finding import Finding, LinkReport

STALE = Finding("stale", "documents", "docs", "7", 7, "3", "2", "t1")
MISSING = Finding("missing", "documents", "docs", "8")


def seen(number: int, *, drift: tuple[Finding, ...] = (), **said: Any) -> Round:
    report = LinkReport("documents", rows=1200, points=1199)
    report.stale = sum(finding.kind == "stale" for finding in drift)
    report.missing = sum(finding.kind == "missing" for finding in drift)
    values: dict[str, Any] = {"compared": (), "looked_at": 0, "in_doubt": 0} | said
    return Round(number=number, reports=(report,), **values)


@dataclass
class FakeWatch:
    """Rounds that somebody wrote down; an exception among them is raised."""

    script: list[Round | BaseException] = field(default_factory=list)
    drift: tuple[Finding, ...] = ()

    def rounds(self) -> Iterator[Round]:
        for entry in self.script:
            if isinstance(entry, BaseException):
                raise entry
            yield entry

    def findings(self) -> Iterator[Finding]:
        yield from self.drift


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> FakeWatch:
    fake = FakeWatch()

    @contextmanager
    def opened(*_: object) -> Iterator[FakeWatch]:
        yield fake

    monkeypatch.setattr(watching, "live_watch", opened)
    return fake


@pytest.fixture
def run(vb: Callable[..., Any], config_file: Path) -> Callable[..., Any]:
    return lambda *arguments: vb("reconcile", "--watch", "--config", str(config_file), *arguments)


def test_a_json_line_a_round_in_a_pipe(watched: FakeWatch, run: Callable[..., Any]) -> None:
    watched.script = [
        seen(1, drift=(STALE,), compared=("documents",), appeared=(STALE,)),
        seen(2, drift=(), looked_at=3, in_doubt=1, gone=(STALE,)),
    ]
    done = run()
    assert done.code == 0
    first, second = map(json.loads, done.out.splitlines())
    assert first["schema"] == "vbackup.reconcile/1"
    assert (first["ok"], first["clean"], first["round"]) == (False, False, 1)
    assert first["links"][0]["stale"] == 1
    assert first["appeared"][0]["key"] == "7"
    assert (second["ok"], second["in_doubt"], second["gone_count"]) == (True, 1, 1)
    assert second["at"].endswith("Z")


def test_the_last_round_decides_the_exit_code(watched: FakeWatch, run: Callable[..., Any]) -> None:
    watched.script = [seen(1), seen(2, drift=(STALE, MISSING))]
    done = run()
    assert done.code == 3
    assert "2 findings in the last round" in done.err
    # The rounds are the only documents.
    assert len(done.out.splitlines()) == 2


def test_a_failed_round_goes_on_and_fails_as_the_last_one(
    watched: FakeWatch, run: Callable[..., Any]
) -> None:
    away = Unreachable("PostgreSQL at db:5432 does not answer", hint="is it up?")
    watched.script = [seen(1), seen(2, error=away), seen(3)]
    done = run()
    assert done.code == 0
    failed = json.loads(done.out.splitlines()[1])
    assert (failed["ok"], failed["error"]["name"], failed["error"]["retryable"]) == (
        False, "failed", True,
    )  # fmt: skip
    watched.script.pop()
    assert run().code == 1


def test_stopped(watched: FakeWatch, run: Callable[..., Any]) -> None:
    watched.script = [seen(1), KeyboardInterrupt()]
    done = run()
    assert done.code == 130
    assert "stopped after round 1: rows and points agreed" in done.err
    last = json.loads(done.out.splitlines()[-1])
    assert last["error"]["code"] == 130


def test_files_hold_what_is_drift_now(
    watched: FakeWatch, run: Callable[..., Any], tmp_path: Path
) -> None:
    watched.script = [seen(1, drift=(STALE, MISSING))]
    watched.drift = (STALE, MISSING)
    found, todo = tmp_path / "found.jsonl", tmp_path / "todo.jsonl"
    run("--output", str(found), "--reembed", str(todo))
    assert [json.loads(line)["kind"] for line in found.read_text().splitlines()] == [
        "stale", "missing",
    ]  # fmt: skip
    assert len(todo.read_text().splitlines()) == 2
    watched.script, watched.drift = [seen(1)], ()
    assert run("--output", str(found)).code == 0
    assert found.read_text() == ""


def test_nobody_reads_any_more(
    watched: FakeWatch, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`| head -1` ends it; nothing goes on where nobody sees it."""
    watched.script = [seen(1), seen(2), AssertionError("it went on")]
    written: list[object] = []

    def gone(document: object, *, line: bool = False) -> bool:
        written.append(document)
        return len(written) < 2

    monkeypatch.setattr(watching, "print_json", gone)
    assert run().code == 0


def test_what_a_person_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = Session()
    many = tuple(Finding("missing", "documents", "docs", str(n)) for n in range(12))
    rounds = [
        seen(1, compared=("documents",), warnings=("link 'x' matches no collection",)),
        seen(2, drift=(STALE,), looked_at=5, in_doubt=2, appeared=(STALE,), seconds=0.25),
        seen(3, looked_at=1, gone=(STALE,)),
        seen(4, drift=many, compared=("documents",), appeared=many),
        seen(5, error=Unreachable("PostgreSQL does not answer")),
    ]
    shown = []
    for entry in rounds:
        watching._render(session, entry)
        shown.append(capsys.readouterr().out)
    assert "round 1  everything" in shown[0]
    assert "warning: link 'x' matches no collection" in shown[0]
    assert "documents: 1,200 rows, 1,199 points, agree" in shown[0]
    assert "5 changed or in doubt" in shown[1]
    assert "documents: 1,200 rows, 1,199 points, 1 stale" in shown[1]
    assert "in doubt: 2" in shown[1]
    assert "+ stale  documents  key 7  row 3, point 2" in shown[1]
    assert "- stale  documents  key 7" in shown[2]
    assert "+ and 2 more" in shown[3]
    assert "failed: PostgreSQL does not answer" in shown[4]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--repair", "all"), ("--backup", "latest"), ("--junit", "x.xml"),
        ("--from-backup", "latest"), ("--no-confirm",),
    ],
)  # fmt: skip
def test_what_does_not_go_with_it(run: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert "--watch" in done.err


def test_rounds_without_watch(vb: Callable[..., Any]) -> None:
    done = vb("reconcile", "--rounds", "3")
    assert done.code == 2
    assert "--watch --rounds" in done.err


def test_a_line_stays_a_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.print_json({"a": 1}, line=True)
    output.print_json({"a": 1})
    assert capsys.readouterr().out == '{"a": 1}\n{\n  "a": 1\n}\n'
