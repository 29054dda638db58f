"""Reads what pg_restore writes to stderr: which errors only concern owners and privileges.

pg_restore goes on after an error. What this server has no roles for is then reported as a
warning; any other error ends the restore at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from vbackup.errors import Failed

_ERROR = "pg_restore: error: "
_IGNORED = re.compile(r"pg_restore: warning: errors ignored on restore: (\d+)")
_COMMAND = "Command was: "

_NAME = r'("(?:[^"]|"")+"|[\w$]+)'
_NAMES = rf"{_NAME}(?:, {_NAME})*"
# The ways in which SQL of pg_dump names a role.
_ROLES = (
    re.compile(rf"^ALTER .* OWNER TO {_NAME};$", re.MULTILINE),
    re.compile(rf"^GRANT .* TO {_NAME}(?: WITH GRANT OPTION)?;$", re.MULTILINE),
    re.compile(rf"^REVOKE .* FROM {_NAME};$", re.MULTILINE),
    re.compile(rf"^ALTER DEFAULT PRIVILEGES FOR ROLE {_NAME} ", re.MULTILINE),
    re.compile(rf"^SET SESSION AUTHORIZATION {_NAME};$", re.MULTILINE),
    re.compile(rf"^CREATE POLICY .* TO {_NAMES}(?: USING | WITH CHECK |;)", re.MULTILINE),
    re.compile(rf"USER MAPPING FOR {_NAME} ", re.MULTILINE),
)
_PRIVILEGES = re.compile(r"ALTER .* OWNER TO |GRANT |REVOKE |ALTER DEFAULT PRIVILEGES ", re.DOTALL)
_NOT_NEEDED = (
    # Written by pg_restore 17 and newer, unknown to older servers.
    re.compile(r"SET transaction_timeout = 0;\s*"),
    # Every new database has it.
    re.compile(r"CREATE SCHEMA public;\s*"),
)
_SUPERUSER_ONLY = re.compile(r"COMMENT ON EXTENSION ")


@dataclass(frozen=True, slots=True)
class RestoreError:
    """One error of pg_restore: the server's words, and the statement (none for COPY)."""

    message: str
    command: str

    @property
    def statement(self) -> str:
        """The statement's first line, without its semicolon: it names the object."""
        return self.command.split("\n")[0].rstrip(";")

    def roles(self) -> set[str]:
        """The roles that the statement names."""
        return {
            _unquoted(name)
            for pattern in _ROLES
            for found in pattern.finditer(self.command)
            for name in found.groups()
            if name
        }


@dataclass(slots=True)
class RestoreErrors:
    """Collects errors line by line; `stop` is called at the first that is not tolerated."""

    roles: frozenset[str]
    superuser: bool
    parallel: bool = False
    stop: Callable[[], None] = lambda: None
    warnings: list[str] = field(default_factory=list)
    tolerated: list[RestoreError] = field(default_factory=list)
    fatal: list[RestoreError] = field(default_factory=list)
    ignored: int | None = None
    _lines: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        """Take the next line of stderr."""
        if not text.startswith("pg_restore: "):
            if self._lines:
                self._lines.append(text)
            return
        self._close()
        if text.startswith(_ERROR):
            self._lines = [text.removeprefix(_ERROR)]
        elif "error: " in text and text.count("pg_restore: ") > 1:
            # Two workers wrote at once: nobody can say what this was.
            self._fail(RestoreError(text, ""))
        elif found := _IGNORED.match(text):
            self.ignored = int(found[1])

    def finish(self, status: int, tail: str = "") -> None:
        """Judge the whole run by its exit status; `tail` is the end of stderr. Raises Failed with
        the first real error."""
        self._close()
        if self.fatal:
            first = self.fatal[0]
            where = f" (in {first.statement})" if first.command else ""
            raise Failed(f"pg_restore failed: {first.message}{where}", hint=_hint(first.message))
        if status != 0 and not (status == 1 and self._all_seen()):
            raise Failed(
                f"pg_restore failed with exit status {status}: {tail or 'it said nothing'}"
            )

    def _all_seen(self) -> bool:
        """Whether the errors that pg_restore counted are those that were tolerated here.

        With several workers its number means little: after its first error a worker counts
        every further entry as one."""
        if self.parallel:
            return self.ignored is not None and bool(self.tolerated)
        return self.ignored == len(self.tolerated)

    def _close(self) -> None:
        if not self._lines:
            return
        text = "\n".join(self._lines)
        self._lines = []
        message, _, command = text.partition(f"\n{_COMMAND}")
        error = RestoreError(" ".join(message.split()), command.strip())
        if self._tolerable(error):
            self.tolerated.append(error)
        else:
            self._fail(error)

    def _fail(self, error: RestoreError) -> None:
        self.fatal.append(error)
        self.stop()

    def _tolerable(self, error: RestoreError) -> bool:
        if any(pattern.fullmatch(error.command) for pattern in _NOT_NEEDED):
            return True
        if missing := sorted(error.roles() - self.roles - {"PUBLIC"}):
            names = ", ".join(f'"{name}"' for name in missing)
            self.warnings.append(f"{error.statement}: no role {names} on this server")
            return True
        if self.superuser:
            return False
        if _PRIVILEGES.match(error.command) or _SUPERUSER_ONLY.match(error.command):
            self.warnings.append(f"{error.statement}: {error.message}")
            return True
        return False


def _hint(message: str) -> str:
    """What to do about a failure that has a usual cause."""
    if "shared memory segment" in message:
        # Parallel builds of HNSW indexes; containers have 64 MB there unless told otherwise.
        return (
            "the server's /dev/shm is too small for a parallel index build: enlarge it"
            " (docker run --shm-size), or lower postgres.maintenance_work_mem"
        )
    return ""


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
