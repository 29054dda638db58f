"""Settings, privileges and comment of a database itself, which pg_restore only brings back
together with the database's old name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from vbackup.postgres.client_tools import ClientTools
from vbackup.postgres.connection import Connection
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


def apply_properties(
    connection: Connection, tools: ClientTools, main: Path, env: Mapping[str, str], old: str
) -> list[str]:
    """Give the session's database what the archive says of its own; returns warnings."""
    pg_restore = tools.path("pg_restore")
    listing = output([pg_restore, "--create", "--list", str(main)], env).decode(errors="replace")
    wanted = [line for line in listing.splitlines() if _ENTRY.match(line)]
    if not wanted:
        return []
    chosen = main.with_name("properties.list")
    chosen.write_text("\n".join(wanted))
    script = output(
        [pg_restore, "--create", f"--use-list={chosen}", "--file=-", str(main)], env
    ).decode()
    return list(_run(connection, statements(script, old, connection.info.dbname)))


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
    for line in script.splitlines():
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
            connection.execute(sql.SQL(statement))
        except psycopg.Error as error:
            yield f"{statement.split(chr(10))[0]}: {error.diag.message_primary or error}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
