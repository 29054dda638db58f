"""Results on stdout: one JSON document, or what a person reads."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import PurePath

from vbackup import redact
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.clock import format_time
from vbackup.errors import VbackupError


def emit(
    session: Session,
    document: Mapping[str, object],
    render: Callable[[Screen], None],
    *,
    error: VbackupError | None = None,
) -> None:
    """Print the result of a command, once: `{"schema", "ok", ...document}`, or `render`.

    With an `error` the result is that something was found: the document says so, and it is raised.
    """
    if session.json:
        head = {"schema": f"vbackup.{session.command}/1", "ok": error is None}
        tail = {"error": error_object(error)} if error else {}
        print_json({**head, **document, **tail})
    else:
        quietly(lambda: render(Screen(session.clock.now())))
    session.emitted = True
    if error:
        raise error


def error_object(error: VbackupError) -> dict[str, object]:
    """An error as every document has it (contract: Output)."""
    return {
        "code": error.code,
        "name": error.name,
        "message": error.message,
        "hint": error.hint,
        "retryable": error.retryable,
    }


def print_json(document: Mapping[str, object], *, line: bool = False) -> bool:
    """One document on stdout: indented for a person, one line for a program (or with `line`).

    False when nobody reads any more."""
    cleaned = redact.scrub_tree(_plain(document))
    indent = 2 if sys.stdout.isatty() and not line else None
    text = json.dumps(cleaned, ensure_ascii=False, indent=indent)
    return quietly(lambda: sys.stdout.write(text + "\n"))


def quietly(write: Callable[[], object]) -> bool:
    """Write to stdout; a reader that has gone away (`| head -1`) is not an error: False."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _plain(value: object) -> object:
    """Only what JSON knows: dataclasses become objects, times RFC 3339, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return format_time(value)
    return str(value) if isinstance(value, PurePath) else value
