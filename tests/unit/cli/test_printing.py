"""What people and programs read: numbers, tables, JSON, files, progress, log lines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from rich.progress import Progress

from vbackup import logs, quantity, redact
from vbackup.bars import AmountColumn, TerminalReporter
from vbackup.cli.evidence import Evidence
from vbackup.cli.jsonl import LineFile
from vbackup.cli.junit import Case, write
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.clock import SystemClock
from vbackup.errors import Failed, Findings, Refused, Usage
from vbackup.model.finding import Finding, FindingKind
from vbackup.ports import Reporter
from vbackup.progress import LogReporter, SilentReporter

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


# ---------------------------------------------------------------- quantities


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (17 * 1024, "17 KiB"),
        (1_288_490_189, "1.2 GiB"), (5 * 1024**5, "5.0 PiB"), (2 * 1024**6, "2048 PiB"),
    ],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert quantity.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.34, "0.3 s"), (12.4, "12 s"), (185, "3 min 05 s"), (7_800, "2 h 10 min"),
        (273_600, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert quantity.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "just now"), (300, "5 min ago"), (7_300, "2 h ago"), (200_000, "2 d ago"),
        (-300, "in 5 min"),
    ],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert quantity.age(NOW - timedelta(seconds=seconds), NOW) == text


def test_moments_carry_their_offset() -> None:
    local = NOW.astimezone()
    text = quantity.moment(NOW, NOW + timedelta(hours=1))
    assert text.startswith(f"{local:%Y-%m-%d %H:%M:%S} ")
    assert text[20] in "+-"
    assert text.endswith("(1 h ago)")


def test_amounts_and_rates() -> None:
    assert quantity.amount(12345, "points") == "12,345 points"
    assert quantity.rate(2048.4, "bytes") == "2.0 KiB/s"


# ---------------------------------------------------------------- stdout


@dataclass(frozen=True)
class Value:
    path: Path
    at: datetime
    names: tuple[str, ...]


def test_json_is_one_document_of_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session()
    session.json, session.command = True, "try"
    emit(session, {"value": Value(Path("/x"), NOW, ("a",)), "none": None}, lambda _: None)
    assert json.loads(capsys.readouterr().out) == {
        "schema": "vbackup.try/1",
        "ok": True,
        "value": {"path": "/x", "at": "2026-11-23T12:00:00Z", "names": ["a"]},
        "none": None,
    }
    assert session.emitted


def test_a_result_with_findings_says_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon's notification has nothing else to go by."""
    session = Session()
    session.json, session.command = True, "try"
    with pytest.raises(Findings, match="two rows"):
        emit(session, {"rows": 2}, lambda _: None, error=Findings("two rows", hint="look"))
    assert json.loads(capsys.readouterr().out) == {
        "schema": "vbackup.try/1",
        "ok": False,
        "rows": 2,
        "error": {
            "code": 3, "name": "findings", "message": "two rows", "hint": "look",
            "retryable": False,
        },
    }  # fmt: skip


def test_stdout_holds_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    redact.register("open-sesame")
    session = Session()
    session.json = True
    emit(session, {"text": "open-sesame", "deep": [{"x": "open-sesame"}]}, lambda _: None)
    screen = Screen(NOW)
    screen.line("it is open-sesame")
    screen.table(("A",), [("open-sesame",)])
    screen.pairs([("a", "open-sesame")])
    assert "sesame" not in capsys.readouterr().out


def test_tables_are_aligned_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(NOW).table(("NAME", "SIZE"), [("a", 5), ("longer", 12)], right=("SIZE",), styles=["red"])
    assert capsys.readouterr().out.splitlines() == [
        "NAME    SIZE",
        "a          5",
        "longer    12",
    ]


def test_pairs_are_aligned_and_leave_none_out(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(NOW).pairs([("a", 1), ("none", None), ("long", "x")])
    assert capsys.readouterr().out == "a     1\nlong  x\n"


def test_a_terminal_gets_colours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen(NOW)
    screen.title("heading [not markup]")
    screen.table(("A", "B"), [("x", "[y]")], styles=["green"])
    said = capsys.readouterr().out
    assert "\x1b[" in said
    assert "heading [not markup]" in said
    assert "[y]" in said


# ---------------------------------------------------------------- questions


def test_a_question_without_a_terminal_names_the_flag() -> None:
    with pytest.raises(Refused) as caught:
        Session().confirm("this drops app", given=False)
    assert caught.value.hint == "add --yes"
    Session().confirm("this drops app", given=True)


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool) -> None:
    monkeypatch.setattr(Session, "interactive", True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    session = Session()
    if goes_on:
        session.confirm("this drops app", given=False)
    else:
        with pytest.raises(Refused):
            session.confirm("this drops app", given=False)


def test_json_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    session = Session()
    assert session.interactive
    session.json = True
    assert not session.interactive


# ---------------------------------------------------------------- files


def test_a_line_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with LineFile(path) as file:
        file.write({"key": "ä"})
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == '{"key": "ä"}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with pytest.raises(ZeroDivisionError), LineFile(path) as file:
        file.write({"key": 1 / 0})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="No such file"):
        LineFile(tmp_path / "no/such/folder.jsonl")


def finding(kind: FindingKind, key: str) -> Finding:
    return Finding(kind, "documents", "documents", key, row_version="2", tenant="acme")


def test_evidence_is_written_shown_and_listed(tmp_path: Path) -> None:
    output, reembed = tmp_path / "f.jsonl", tmp_path / "r.jsonl"
    with Evidence(output, reembed) as evidence:
        for number in range(12):
            evidence.take(finding("orphan", str(number)))
        evidence.take(finding("stale", "s"))
    assert (evidence.seen, len(evidence.examples), evidence.written) == (13, 10, 13)
    lines = output.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["kind"] == "orphan"
    assert json.loads(reembed.read_text(encoding="utf-8")) == {
        "link": "documents", "key": "s", "version": "2", "tenant": "acme", "reason": "stale",
        "collection": "documents",
    }  # fmt: skip


def test_a_limit_never_shortens_the_list_of_rows_to_embed(tmp_path: Path) -> None:
    output, reembed = tmp_path / "f.jsonl", tmp_path / "r.jsonl"
    with Evidence(output, reembed, limit=1) as evidence:
        for number in range(3):
            evidence.take(finding("missing", str(number)))
    assert (evidence.seen, evidence.written, evidence.truncated) == (3, 1, True)
    assert len(reembed.read_text(encoding="utf-8").splitlines()) == 3


def test_evidence_opens_all_files_or_none(tmp_path: Path) -> None:
    with pytest.raises(Usage):
        Evidence(tmp_path / "f.jsonl", tmp_path / "no/r.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_junit_is_well_formed_whatever_a_key_holds(tmp_path: Path) -> None:
    redact.register("open-sesame")
    path = tmp_path / "j.xml"
    write(path, "suite", [Case("good", 1.5), Case("bad", 0.5, 'a <b> & "c" \x00 open-sesame')])
    suite = ET.parse(path).getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["time"]) == (
        "2",
        "1",
        "2.000",
    )
    failure = suite[1][0].text
    assert failure is not None
    assert failure.startswith('a <b> & "c" ')
    assert "sesame" not in failure


def test_junit_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="cannot write"):
        write(tmp_path / "no/j.xml", "suite", [])


# ---------------------------------------------------------------- progress


def count_in_threads(reporter: Reporter) -> None:
    with reporter.step("read", total=4_000, unit="points") as step, ThreadPoolExecutor(4) as pool:
        for _ in range(4_000):
            pool.submit(step.advance)
        step.detail("shard 1")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_off_a_terminal_there_is_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    reporter = LogReporter(SystemClock())
    count_in_threads(reporter)
    reporter.note("watermark", lsn="0/1")
    reporter.warn("old", age=3)
    step, note, warning = lines(capsys)
    assert (step["event"], step["points"], step["level"]) == ("read", 4_000, "info")
    assert step["seconds"] >= 0
    assert (note["event"], note["lsn"]) == ("watermark", "0/1")
    assert (warning["event"], warning["level"]) == ("old", "warning")


def test_a_step_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    with pytest.raises(Failed), LogReporter(SystemClock()).step("read"):
        raise Failed("broken pipe")
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["error"]) == ("read failed", "error", "broken pipe")


def test_quiet_keeps_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", -1)
    reporter = LogReporter(SystemClock())
    count_in_threads(reporter)
    reporter.note("watermark")
    reporter.warn("old copies", age=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert 'level=warning event="old copies" age=3' in line


def test_log_lines_hold_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    redact.register("open-sesame")
    logs.configure("text", 2)
    LogReporter(SystemClock()).note("dsn", value="postgresql://app:open-sesame@db/app")
    logging.getLogger("some.library").debug("sent open-sesame")
    fields = {"deep": {"password": "hidden-one"}}
    logging.getLogger("vbackup.x").info("open-sesame", extra={logs.FIELDS: fields})
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    assert "sesame" not in said
    assert "hidden-one" not in said


@pytest.mark.parametrize(("verbosity", "heard"), [(0, 1), (1, 1), (2, 2)])
def test_libraries_speak_up_only_when_asked(
    capsys: pytest.CaptureFixture[str], verbosity: int, heard: int
) -> None:
    logs.configure("json", verbosity)
    logging.getLogger("some.library").warning("slow")
    logging.getLogger("some.library").info("connected")
    assert len(lines(capsys)) == heard


def terminal() -> tuple[TerminalReporter, Callable[[], str]]:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100, color_system=None)
    return TerminalReporter(SystemClock(), console), said.getvalue


def test_a_terminal_gets_bars_and_a_line_for_what_is_done() -> None:
    reporter, said = terminal()
    with reporter.step("outer"), reporter.step("inner", total=2_048) as step:
        step.advance(2_048)
        step.detail("the [first] table")
    reporter.note("watermark", lsn="0/1")
    reporter.warn("old [copy]")
    assert "✓ inner  2.0 KiB" in said()
    assert "✓ outer" in said()
    assert "· watermark  lsn=0/1" in said()
    assert "! old [copy]" in said()


def test_a_terminal_shows_what_failed_and_stops_its_display() -> None:
    reporter, said = terminal()
    with pytest.raises(Failed), reporter.step("read"):
        raise Failed("no")
    assert "✗ read" in said()
    count_in_threads(reporter)
    assert "✓ read  4,000 points" in said()


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(0, None, ""), (10, 5_000, "10 points of 5,000 points"), (5_000, 10, "5,000 points")],
)
def test_an_estimate_that_was_passed_is_not_shown(done: int, total: int | None, text: str) -> None:
    progress = Progress()
    task = progress.add_task("dump", total=total, completed=done, unit="points")
    assert AmountColumn().render(progress.tasks[task]).plain == text


def test_silence_keeps_warnings() -> None:
    reporter = SilentReporter()
    count_in_threads(reporter)
    reporter.note("x")
    reporter.warn("old", age=3)
    assert reporter.warnings == [("old", {"age": 3})]
