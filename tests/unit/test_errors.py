"""Every way to end has one exit code, one name and one meaning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vbackup import errors
from vbackup.errors import EXIT_CODES, Failed, Unreachable, VbackupError


def all_errors() -> Iterator[type[VbackupError]]:
    pending: list[type[VbackupError]] = [VbackupError]
    while pending:
        found = pending.pop()
        yield found
        pending += found.__subclasses__()


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_documented_exit_code(kind: type[VbackupError]) -> None:
    assert EXIT_CODES[kind.code][0] == kind.name


def test_no_two_names_share_a_code() -> None:
    names = [name for name, _ in EXIT_CODES.values()]
    assert len(set(names)) == len(names)
    by_code: dict[int, set[str]] = {}
    for kind in all_errors():
        by_code.setdefault(kind.code, set()).add(kind.name)
    assert all(len(found) == 1 for found in by_code.values())


def test_every_failing_code_has_an_error() -> None:
    raised = {kind.code for kind in all_errors()}
    assert raised == EXIT_CODES.keys() - {0}


def test_an_error_is_its_message() -> None:
    error = Failed("cannot read x", hint="look at x", retryable=True)
    assert (str(error), error.hint, error.retryable) == ("cannot read x", "look at x", True)


def test_only_what_can_pass_is_retryable_by_default() -> None:
    assert Unreachable("no answer").retryable
    assert not Failed("broken").retryable
    assert errors.Interrupted.code == 130
