"""Shared options, errors, exit codes, JSON: what holds for every command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

from vbackup import errors
from vbackup.cli.kept import kept_file
from vbackup.cli.main import COMMANDS, PROGRAM, cli, run
from vbackup.cli.session import Session
from vbackup.errors import EXIT_CODES, VbackupError

Run = Callable[..., Any]
HEAVY = (
    "boto3",
    "botocore",
    "qdrant_client",
    "psycopg",
    "pydantic",
    "httpx",
    "numpy",
    "rich",
    "structlog",
)


def vbackup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "vbackup", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `vbackup list` fail with an error."""

    def fail(error: BaseException) -> None:
        def raising(*_: object) -> None:
            raise error

        monkeypatch.setattr("vbackup.cli.list.open_repository", raising)

    return fail


# ---------------------------------------------------------------- start


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["bakup"]])
def test_nothing_heavy_is_imported_before_a_command_runs(arguments: list[str]) -> None:
    program = (
        "import sys; from vbackup.cli.main import run; run(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_no_command_needs_a_driver_to_explain_itself() -> None:
    program = (
        "import sys; from vbackup.cli.main import run, COMMANDS\n"
        "for name in COMMANDS: assert run([name, '--help']) == 0, name\n"
        "print([n for n in ('boto3', 'psycopg', 'qdrant_client') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


SERVICES = ("apscheduler", "prometheus_client", "jinja2", "redis", "moto")
OTHER_STORES = ("boto3", "botocore", "qdrant_client")
DISPLAYS = ("rich", "pygments", "structlog")
NEEDLESS = {
    "list": (*SERVICES, *OTHER_STORES, *DISPLAYS, "psycopg", "httpx", "asyncio"),
    "prune --dry-run": (*SERVICES, *OTHER_STORES, "psycopg", "httpx"),
    "check": (*SERVICES, *OTHER_STORES, *DISPLAYS, "httpx"),
    "reconcile -q": (*SERVICES, *OTHER_STORES, *DISPLAYS, "httpx", "cryptography", "pyfastcdc"),
    "backup -q": (*SERVICES, *OTHER_STORES, *DISPLAYS, "httpx"),
}


@pytest.mark.parametrize("line", NEEDLESS)
def test_a_command_loads_only_what_it_uses(config_file: Path, line: str) -> None:
    """Off a terminal, a repository in a directory, servers that nobody runs."""
    program = (
        "import sys; from vbackup.cli.main import run; from vbackup.cli.session import Session;"
        "from tests.faults import ManualClock;"
        "session = Session(); session.clock = ManualClock(); before = set(sys.modules);"
        "code = run(sys.argv[1:], session);"
        f"print(code, *[n for n in {NEEDLESS[line]!r} if n in set(sys.modules) - before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *line.split(), "--config", str(config_file)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    code, *loaded = done.stdout.splitlines()[-1].split()
    assert (code in {"0", "1", "4"}, loaded) == (True, []), done.stderr


def test_help_shows_every_command_and_every_exit_code(vb: Run) -> None:
    shown = vb("--help")
    assert shown.code == 0
    for name, (_, summary) in COMMANDS.items():
        assert f"{name} " in shown.out
        assert summary in shown.out
    for code, (name, meaning) in EXIT_CODES.items():
        assert f"{code} " in shown.out
        assert f"{name}: {meaning}" in shown.out


def test_version_and_module() -> None:
    done = vbackup("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "vbackup")


def test_without_a_command_it_helps_on_stderr_and_fails(vb: Run) -> None:
    shown = vb()
    assert (shown.code, shown.out) == (2, "")
    assert "Usage: vbackup" in shown.err


# ---------------------------------------------------------------- shared options


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "list"],
        ["list", "--json"],
        ["--config", "vbackup.toml", "--json", "list"],
        ["list", "--json", "--config", "vbackup.toml"],
    ],
)
def test_shared_options_stand_before_or_after_the_command(
    vb: Run, config_file: Path, arguments: list[str]
) -> None:
    shown = vb(*arguments)
    assert shown.code == 0
    assert shown.json == {"schema": "vbackup.list/1", "ok": True, "backups": [], "total": 0}


def test_the_nearer_config_counts(vb: Run, config_file: Path) -> None:
    assert vb("--config", "missing.toml", "list", "--config", str(config_file)).code == 0


@pytest.mark.parametrize("variable", ["VBACKUP_JSON", "VBACKUP_LIST_JSON"])
def test_options_are_read_from_the_environment(
    vb: Run, config_file: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    assert vb("list").json["ok"]


def test_the_config_is_found_by_variable(
    vb: Run, config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert vb("list").code == 2
    monkeypatch.setenv("VBACKUP_CONFIG", str(config_file))
    assert vb("list").code == 0


def test_every_option_has_its_variable(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VBACKUP_LIST_LIMIT", "7")
    session = Session()
    with cli.make_context(PROGRAM, ["list"], obj=session, auto_envvar_prefix="VBACKUP") as context:
        command = cli.get_command(context, "list")
        assert command is not None
        with command.make_context("list", [], parent=context) as inner:
            assert inner.params["limit"] == 7


def test_variables_are_named_like_their_options() -> None:
    """Whatever the parameter is called in the code."""

    def check(command: click.Command, prefix: str, parent: click.Context) -> list[str]:
        wrong: list[str] = []
        with command.make_context(command.name, ["x"], parent, resilient_parsing=True) as context:
            for option in command.params:
                if not isinstance(option, click.Option) or not option.expose_value:
                    continue
                flag = max(option.opts, key=len).lstrip("-").replace("-", "_")
                named = option.envvar or f"{prefix}_{option.name}".upper()
                if f"{prefix}_{flag}".upper() not in ([named] if isinstance(named, str) else named):
                    wrong.append(f"{prefix}: --{flag} reads {named}")
            if isinstance(command, click.Group):
                for verb, inner in command.commands.items():
                    wrong += check(inner, f"{prefix}_{verb}", context)
        return wrong

    with cli.make_context(PROGRAM, ["list"], obj=Session()) as context:
        commands = {name: cli.get_command(context, name) for name in COMMANDS}
        found = [check(c, f"VBACKUP_{name}", context) for name, c in commands.items() if c]
    assert len(found) == len(COMMANDS)
    assert [wrong for each in found for wrong in each] == []


def test_verbosity_adds_up() -> None:
    session = Session()
    run(["-v", "list", "-v"], session)
    assert session.verbosity == 2


# ---------------------------------------------------------------- errors


ENDINGS = [
    errors.Failed, errors.Unreachable, errors.Damaged, errors.Usage, errors.Findings,
    errors.Refused, errors.NotFound, errors.Locked, errors.Denied, errors.Interrupted,
]  # fmt: skip


@pytest.mark.parametrize("kind", ENDINGS, ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_and_a_hint(
    vb: Run, config_file: Path, failing: Run, kind: type[VbackupError]
) -> None:
    failing(kind("cannot open the bucket", hint="look at repository.url"))
    shown = vb("list")
    assert shown.code == kind.code
    assert shown.out == ""
    assert shown.err == "vbackup: cannot open the bucket\nhint: look at repository.url\n"


def test_an_error_is_a_document_with_json(vb: Run, config_file: Path, failing: Run) -> None:
    failing(errors.Unreachable("no answer", hint="try again"))
    shown = vb("list", "--json")
    assert shown.code == 1
    assert shown.json == {
        "schema": "vbackup.list/1",
        "ok": False,
        "error": {
            "code": 1,
            "name": "failed",
            "message": "no answer",
            "hint": "try again",
            "retryable": True,
        },
    }


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["bakup"], "error"),
        (["list", "--limit", "x"], "list"),
        (["--nonsense"], "error"),
        (["pin"], "pin"),
        (["key", "frobnicate"], "key"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_usage_error(
    vb: Run, arguments: list[str], command: str
) -> None:
    plain = vb(*arguments)
    assert plain.code == 2
    assert plain.err.startswith("vbackup: ")
    assert "hint: vbackup" in plain.err
    shown = vb(*arguments, "--json")
    assert shown.json["error"]["code"] == 2
    assert shown.json["schema"] == f"vbackup.{command}/1"


def test_a_misspelt_command_is_guessed(vb: Run) -> None:
    assert "Did you mean 'backup'?" in vb("bakup").err


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), click.Abort()])
def test_a_stopped_run_ends_with_130(
    vb: Run, config_file: Path, failing: Run, stop: BaseException
) -> None:
    failing(stop)
    assert vb("list", "--json").json["error"]["name"] == "interrupted"
    assert vb("list").code == 130


def test_a_bug_is_one_line_without_a_traceback(vb: Run, config_file: Path, failing: Run) -> None:
    failing(ZeroDivisionError("division by zero\nand more"))
    shown = vb("list", "-v")
    assert shown.code == 1
    assert shown.err.splitlines() == [
        "vbackup: unexpected ZeroDivisionError: division by zero",
        "hint: this is a bug: run again with -vv and report the traceback",
    ]
    assert "Traceback" in vb("list", "-vv").err


def test_a_full_disk_is_no_bug(vb: Run, config_file: Path, failing: Run) -> None:
    failing(OSError(28, "No space left on device", "/var/tmp/x"))
    shown = vb("list")
    assert (shown.code, shown.err) == (1, "vbackup: No space left on device: /var/tmp/x\n")


def test_of_several_failures_the_known_one_is_shown(
    vb: Run, config_file: Path, failing: Run
) -> None:
    group = ExceptionGroup("two", [ValueError("x"), errors.Denied("wrong key")])
    failing(group)
    assert vb("list").code == 7


def test_messages_and_tracebacks_hold_no_secrets(vb: Run, config_file: Path, failing: Run) -> None:
    vb("check", "--help")
    failing(errors.Failed("postgresql://app:sesame-open@db: no", hint="password=sesame-open"))
    for arguments in (["list", "-vv"], ["list", "--json"]):
        shown = vb(*arguments)
        assert "sesame-open" not in shown.out + shown.err


def test_an_error_after_the_result_prints_no_second_document(
    vb: Run, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emit_and_fail(session: Session, *_: object, **__: object) -> None:
        sys.stdout.write(json.dumps({"schema": "vbackup.list/1", "ok": False}))
        session.emitted = True
        raise errors.Findings("damaged")

    monkeypatch.setattr("vbackup.cli.list.emit", emit_and_fail)
    shown = vb("list", "--json")
    assert (shown.code, shown.json["ok"]) == (3, False)
    assert shown.err == "vbackup: damaged\n"


# ---------------------------------------------------------------- processes


def test_a_reader_that_goes_away_is_no_error(config_file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "vbackup", "list"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_sigterm_ends_with_130(tmp_path: Path) -> None:
    """A configuration that never ends (a FIFO) holds the command until it is stopped."""
    fifo = tmp_path / "never.toml"
    os.mkfifo(fifo)
    child = subprocess.Popen(
        [sys.executable, "-m", "vbackup", "list", "--config", str(fifo)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # Opening the other end returns once the command waits for its configuration.
    with fifo.open("w"):
        said = terminated(child)
    assert (child.returncode, said.splitlines()[0]) == (130, "vbackup: stopped")


def terminated(child: subprocess.Popen[str]) -> str:
    """Stderr of a child after SIGTERM. CPython looks at signals between system calls: one that
    comes a moment before a read that never ends is only seen when the next one interrupts it."""
    for _ in range(5):
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=10)[1]
    child.kill()
    return child.communicate()[1]


def test_an_interrupt_inside_an_exec_still_exits_with_130(tmp_path: Path) -> None:
    """dataclasses exec their methods: CPython would end `python -m` by SIGINT afterwards."""
    (tmp_path / "stopped.py").write_text(
        "import vbackup.cli.main as cli\n"
        "def run(_):\n"
        "    try: exec('raise KeyboardInterrupt')\n"
        "    except KeyboardInterrupt: return 130\n"
        "cli.run = run\n"
        "cli.main()\n",
        encoding="utf-8",
    )
    ended = subprocess.run(
        [sys.executable, "-m", "stopped"], capture_output=True, check=False, timeout=60,
        cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 130, ended.stderr


def started(*command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    line = " ".join([shlex.quote(sys.executable), "-m", "vbackup", *command])
    return subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, timeout=60, check=False, **options
    )


@pytest.mark.parametrize("json", ["", "--json"])
@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_an_output_that_takes_nothing_changes_no_error(
    tmp_path: Path, json: str, where: str
) -> None:
    done = started("list", "--config", "no/such/file", json, where, cwd=tmp_path)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
    assert done.stderr.startswith(b"vbackup: no configuration file")


def test_a_terminal_that_knows_no_umlauts_gets_escapes(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = started("list", "--config", "k\u00e4se.toml", cwd=tmp_path, env=env)
    assert (done.returncode, b"k\\xe4se.toml" in done.stderr) == (2, True)


def test_files_go_where_they_can_be_written(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mounted configuration's folder takes none."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    session = Session()
    session.config_path = config_file
    assert kept_file(session, "removed").parent == config_file.parent

    refused = {config_file.parent}
    monkeypatch.setattr(os, "access", lambda path, _mode: path not in refused)
    assert kept_file(session, "removed").parent == tmp_path / "here"
    refused.add(tmp_path / "here")
    assert kept_file(session, "removed").parent == Path(tempfile.gettempdir())


def test_a_time_and_an_id_are_one_choice_too_many(vb: Run, config_file: Path) -> None:
    done = vb("restore", "20261123T110000Z-aaaaaa", "--at", "2026-11-23T12:00:00Z")
    assert done.code == 2
    assert "--at" in done.err
