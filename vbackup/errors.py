"""Every way vbackup can end, each with its exit code (docs/commands.md: one meaning each).

An error names what failed and on what; its hint is the next command or setting to try.
Adapters translate driver exceptions into these once, at the boundary, and decide there
whether a retry can help.
"""

from __future__ import annotations

from typing import ClassVar


class VbackupError(Exception):
    """Base of all expected failures. `str(error)` is one line without secrets."""

    code: ClassVar[int] = 1
    name: ClassVar[str] = "failed"

    def __init__(self, message: str, *, hint: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retryable = retryable


class Failed(VbackupError):
    """The operation failed: I/O, database, network."""


class Unreachable(Failed):
    """A server did not answer, or answered that it is overloaded: trying again can help."""

    def __init__(self, message: str, *, hint: str = "", retryable: bool = True) -> None:
        super().__init__(message, hint=hint, retryable=retryable)


class Damaged(Failed):
    """Stored bytes are missing or are not what was written."""


class Usage(VbackupError):
    """Bad arguments or bad configuration; nothing was touched."""

    code = 2
    name = "usage"


class Findings(VbackupError):
    """A check ran to its end and found problems."""

    code = 3
    name = "findings"


class Refused(VbackupError):
    """A preflight or safety rule said no; nothing was changed."""

    code = 4
    name = "refused"


class NotFound(VbackupError):
    """No such backup, repository, table, collection or object."""

    code = 5
    name = "not-found"


class Locked(VbackupError):
    """Another run holds the lease."""

    code = 6
    name = "locked"


class Denied(VbackupError):
    """Credentials or passphrase rejected."""

    code = 7
    name = "denied"


class Interrupted(VbackupError):
    """Stopped by the user."""

    code = 130
    name = "interrupted"


class AlreadyExists(Refused):
    """A create-only write found its object (or database, or collection) there already."""


EXIT_CODES: dict[int, tuple[str, str]] = {
    0: ("ok", "done; nothing found"),
    1: ("failed", "the operation failed (I/O, database, network)"),
    2: ("usage", "bad arguments or bad configuration; nothing was touched"),
    3: ("findings", "the check ran to the end and found problems"),
    4: ("refused", "a preflight or safety rule said no; nothing was changed"),
    5: ("not-found", "no such backup, repository, table, collection"),
    6: ("locked", "another run holds the lease"),
    7: ("denied", "credentials or passphrase rejected"),
    130: ("interrupted", "stopped by the user; what was uploaded is resumable"),
}
