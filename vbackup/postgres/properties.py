"""Settings, privileges and comment of a database itself, which pg_restore only brings back
together with the database's old name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg

from vbackup.errors import VbackupError
from vbackup.postgres.client_tools import ClientTools
from vbackup.postgres.connection import Connection, one
from vbackup.postgres.process import output

_ENTRY = re.compile(r"\d+; \d+ \d+ (DATABASE PROPERTIES|(ACL|COMMENT|SECURITY LABEL) - DATABASE) ")
_ROLE = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_HEADS = (
    r"ALTER DATABASE ",
    rf"ALTER ROLE {_ROLE} IN DATABASE ",
    r"(?:GRANT|REVOKE) [A-Z,]+ ON DATABASE ",
    r"COMMENT ON DATABASE ",
    r"SECURITY LABEL FOR \S+ ON DATABASE ",
)
# A template cannot be dropped, a database closed to sessions not restored into.
_LEFT_OUT = re.compile(rf"ALTER DATABASE {_ROLE} (IS_TEMPLATE|ALLOW_CONNECTIONS)")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")

# An archive is in its database's encoding, or in none: its text is kept byte for byte, and sent as
# what the archive says it is.
_BYTES = "latin-1"
_ENCODING = re.compile(r"^SET client_encoding = '([\w-]+)';$", re.MULTILINE)
_NAMES = """
SELECT pg_catalog.convert_to(%s, %s), pg_catalog.convert_to(pg_catalog.current_database()::text, %s)
"""


def apply_properties(
    connection: Connection, tools: ClientTools, main: Path, env: Mapping[str, str], old: str
) -> list[str]:
    """Give the session's database what the archive says of its own; returns warnings. Nothing is
    raised: all rows are there by now, and they are worth more than a comment."""
    try:
        script = _script(tools.path("pg_restore"), main, env)
        return _applied(connection, script, old) if script else []
    except (VbackupError, psycopg.Error, OSError) as error:
        why = " ".join(str(error).split())
        return [f"settings, privileges and comment of the database were not restored: {why}"]


def _script(pg_restore: str, main: Path, env: Mapping[str, str]) -> str:
    """What the archive says of its database; empty when that is nothing."""
    listing = output([pg_restore, "--create", "--list", str(main)], env)
    wanted = [line for line in listing.decode(_BYTES).split("\n") if _ENTRY.match(line)]
    if not wanted:
        return ""
    chosen = main.with_name("properties.list")
    chosen.write_text("\n".join(wanted), _BYTES)
    command = [pg_restore, "--create", f"--use-list={chosen}", "--file=-", str(main)]
    return output(command, env).decode(_BYTES)


def _applied(connection: Connection, script: str, old: str) -> list[str]:
    """Run the script's statements in the script's encoding; returns warnings."""
    said = _ENCODING.search(script)
    encoding = said[1] if said else "UTF8"
    names = one(connection, _NAMES, (old, encoding, encoding))
    before, now = (name.decode(_BYTES) for name in names if isinstance(name, bytes))
    _encode(connection, encoding)
    try:
        return list(_run(connection, statements(script, before, now)))
    finally:
        if not connection.closed:
            _encode(connection, "UTF8")


def _encode(connection: Connection, encoding: str) -> None:
    connection.execute("SELECT pg_catalog.set_config('client_encoding', %s, false)", (encoding,))


def statements(script: str, old: str, new: str) -> list[str]:
    """The script's statements about the database `old`, made to be about `new`."""
    spelled = "|".join(re.escape(name) for name in (_quoted(old), old))
    head = re.compile(rf"({'|'.join(_HEADS)})(?:{spelled})(?= |;)")
    found = []
    for statement in _split(script):
        renamed, count = head.subn(lambda at: at[1] + _quoted(new), statement, count=1)
        if count and head.match(statement) and not _LEFT_OUT.match(renamed):
            found.append(renamed)
    return found


def _split(script: str) -> Iterator[str]:
    """Statements of a pg_restore script: each begins a line and ends one, with a semicolon that
    is in no quotes. Its values hold no dollar quotes."""
    lines: list[str] = []
    for line in script.split("\n"):
        if not lines and (not line or line.startswith(("--", "\\"))):
            continue
        lines.append(line)
        text = "\n".join(lines)
        if line.endswith(";") and not re.search("['\"]", _QUOTED.sub("", text)):
            yield text
            lines.clear()


def _run(connection: Connection, wanted: Sequence[str]) -> Iterator[str]:
    for statement in wanted:
        try:
            connection.execute(statement.encode(_BYTES))
        except psycopg.Error as error:
            first = statement.split("\n")[0].encode(_BYTES)
            said = first.decode(connection.info.encoding, "replace")
            yield f"{said}: {error.diag.message_primary or error}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
