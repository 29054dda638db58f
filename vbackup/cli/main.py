"""The entry point: finds the command, runs it, turns every ending into its exit code."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from vbackup import __version__
from vbackup.cli.failure import report
from vbackup.cli.options import Group
from vbackup.cli.session import Session
from vbackup.errors import EXIT_CODES

PROGRAM = "vbackup"
PREFIX = "VBACKUP"

# Shown by `vbackup --help` without loading any of them; a test compares with the modules.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("vbackup.cli.init", "Write a commented configuration and create the repository."),
    "check": ("vbackup.cli.check", "Reach everything and say what to do; change nothing."),
    "backup": ("vbackup.cli.backup", "Store one consistent pair in the repository."),
    "list": ("vbackup.cli.list", "List the backups, newest first."),
    "show": ("vbackup.cli.show", "Show one backup in full."),
    "restore": ("vbackup.cli.restore", "Restore a pair, then reconcile it."),
    "reconcile": ("vbackup.cli.reconcile", "Compare rows and points, and repair on demand."),
    "verify": ("vbackup.cli.verify", "Prove that a backup can be restored."),
    "prune": ("vbackup.cli.prune", "Apply the retention policy."),
    "pin": ("vbackup.cli.pin", "Keep a backup whatever the policy says."),
    "unpin": ("vbackup.cli.unpin", "Leave a backup to the policy again."),
    "unlock": ("vbackup.cli.unlock", "Remove a stale lease, after showing who held it."),
    "key": ("vbackup.cli.key", "Add, list and remove passphrases of the repository."),
    "schedule": ("vbackup.cli.schedule", "Run backups and checks on their schedule."),
    "report": ("vbackup.cli.report", "Write the status page to a file."),
    "sandbox": ("vbackup.cli.sandbox", "Start real, throwaway servers on this machine."),
    "demo": ("vbackup.cli.demo", "Watch the whole story on a sandbox, in about a minute."),
}


class Program(Group):
    """The group of all commands, loaded one by one when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(COMMANDS[cmd_name][0]).command
        if not isinstance(found, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name][0]}.command is not a command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Exit codes"):
            formatter.write_dl(
                [(str(code), f"{name}: {text}") for code, (name, text) in EXIT_CODES.items()]
            )
        formatter.write_paragraph()
        formatter.write_text(
            "Every option also reads VBACKUP_<COMMAND>_<OPTION>, such as VBACKUP_BACKUP_JSON=1."
        )


@click.command(
    cls=Program,
    name=PROGRAM,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """Keep a PostgreSQL database and its Qdrant collections restorable as one."""


def run(arguments: Sequence[str], session: Session | None = None) -> int:
    """Run one command line and return its exit code; prints errors, never raises them."""
    session = session or Session()
    try:
        with cli.make_context(
            PROGRAM, list(arguments), obj=session, auto_envvar_prefix=PREFIX
        ) as context:
            code = cli.invoke(context)
        _flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    # The last line of defence: whatever comes up here gets an exit code and one line.
    except BaseException as error:  # noqa: BLE001
        return report(error, session, arguments)


def main() -> NoReturn:
    """The `vbackup` command."""
    if f"_{PREFIX}_COMPLETE" in os.environ:
        cli.main(prog_name=PROGRAM)
    _stop_on_signals()
    _mend_streams()
    code = run(sys.argv[1:])
    # CPython remembers a KeyboardInterrupt that passed through an exec (a dataclass that was
    # being made), and would die of SIGINT instead of exiting; another exec makes it forget.
    exec("")  # noqa: S102
    sys.exit(code)


def _mend_streams() -> None:
    """A stream that the caller closed (`>&-`) gets somewhere to go, and a terminal that does not
    know a letter of a name (LANG=C) gets an escape: neither may cost a backup."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
            setattr(sys, name, nowhere)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stop_on_signals() -> None:
    """SIGTERM and a closed terminal stop a run as Ctrl-C does: cleanly, with exit code 130."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _flush() -> None:
    from vbackup.cli.output import quietly

    quietly(sys.stdout.flush)
