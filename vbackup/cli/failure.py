"""Turns every error into one line, a hint and an exit code (or the JSON error document)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from vbackup import redact
from vbackup.cli.session import Session
from vbackup.errors import Failed, Interrupted, Usage, VbackupError

TRACEBACK_VERBOSITY = 2


def report(error: BaseException, session: Session, arguments: Sequence[str]) -> int:
    """Print the error where people and programs look for it. Returns the exit code."""
    known = classify(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.format_message() + "\n")
        return known.code
    # A line that could not be parsed has not set its options yet.
    if (session.json or "--json" in arguments) and not session.emitted:
        from vbackup.cli.output import print_json

        with suppress(OSError):  # a disk that is full: stderr says the rest
            print_json(document(known, session.command))
    _say(known)
    if session.verbosity >= TRACEBACK_VERBOSITY or "-vv" in arguments:
        sys.stderr.write(redact.scrub("".join(traceback.format_exception(error))))
    return known.code


def classify(error: BaseException) -> VbackupError:
    """The error as one that has an exit code."""
    if isinstance(error, VbackupError):
        return error
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Interrupted("stopped", hint="run it again: what was stored is reused")
    if isinstance(error, click.ClickException):
        return Usage(error.format_message(), hint=_usage_hint(error))
    if isinstance(error, BaseExceptionGroup):
        return classify(_first(error))
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return Failed(f"{error.strerror or error}{where}")
    return Failed(
        f"unexpected {type(error).__name__}: {error}".splitlines()[0],
        hint="this is a bug: run again with -vv and report the traceback",
    )


def document(error: VbackupError, command: str) -> dict[str, object]:
    """The JSON form of an error (contract: Output)."""
    from vbackup.cli.output import error_object

    return {
        "schema": f"vbackup.{command or 'error'}/1",
        "ok": False,
        "error": error_object(error),
    }


def _say(error: VbackupError) -> None:
    text = f"vbackup: {error.message}\n"
    if error.hint:
        text += f"hint: {error.hint}\n"
    sys.stderr.write(redact.scrub(text))
    sys.stderr.flush()


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "vbackup --help"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one that says most: an error of our own, else the first."""
    own, _ = group.split(VbackupError)
    return (own or group).exceptions[0]
