"""Puts a restored database in the live one's place.

Both renames are one transaction: after a crash either all or nothing of it is true. What has to
be committed before is only that the two databases take no new sessions (a rename needs them
empty); a crash right there leaves the live database closed, and
`ALTER DATABASE <live> ALLOW_CONNECTIONS true` opens it. Every failure that is not a crash opens
both again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import psycopg
from psycopg import sql

from vbackup.errors import AlreadyExists, NotFound, Refused
from vbackup.ports import Clock
from vbackup.postgres import databases
from vbackup.postgres.connection import Connection

SESSIONS_TIMEOUT = 10.0
_POLL = 0.05


def swap(connection: Connection, live: str, restored: str, keep_as: str, clock: Clock) -> None:
    """Rename live to keep_as and restored to live. Sessions on either are ended.

    A live database that is gone is not missed: restored just takes its name.
    `connection` must be on another database. Raises NotFound, AlreadyExists, Refused.
    """
    moves = [(restored, live)]
    if databases.exists(connection, live):
        moves.insert(0, (live, keep_as))
    move(connection, moves, clock)


def move(connection: Connection, moves: Sequence[tuple[str, str]], clock: Clock) -> None:
    """Rename databases one after the other, all or none; sessions on them are ended.

    `connection` must be on another database. Raises NotFound, AlreadyExists, Refused.
    """
    olds = [old for old, _ in moves]
    for old in olds:
        if not databases.exists(connection, old):
            raise NotFound(f'there is no database "{old}"')
    for _, new in moves:
        if new not in olds and databases.exists(connection, new):
            raise AlreadyExists(f'database "{new}" exists already')
    try:
        _allow(connection, olds, "false")
        _empty(connection, olds, clock)
        with connection.transaction():
            for old, new in moves:
                _rename(connection, old, new)
            _allow(connection, [new for _, new in moves], "true")
    except BaseException:
        with suppress(psycopg.Error):
            _allow(connection, olds, "true")
        raise


def reopen(connection: Connection, database: str) -> None:
    """Let sessions in again, after a crash in the middle of `move`."""
    _allow(connection, [database], "true")


def _empty(connection: Connection, names: Sequence[str], clock: Clock) -> None:
    """End the sessions on these databases and wait until they are gone."""
    deadline = clock.monotonic() + SESSIONS_TIMEOUT
    while left := _sessions(connection, names):
        if clock.monotonic() >= deadline:
            raise Refused(
                f"sessions remain: {', '.join(left)}",
                hint="end them (or the prepared transactions) and try again",
            )
        clock.sleep(_POLL)


def _sessions(connection: Connection, names: Sequence[str]) -> list[str]:
    """Who is still there; each is told to end."""
    rows = connection.execute(
        """
        SELECT pg_catalog.format('%%s (%%s, pid %%s)', datname, usename, pid),
               pg_catalog.pg_terminate_backend(pid)
        FROM pg_catalog.pg_stat_activity
        WHERE datname = ANY (%s::text[]) AND backend_type <> 'autovacuum worker'
        UNION ALL
        SELECT pg_catalog.format('%%s (prepared transaction %%s)', database, gid), NULL
        FROM pg_catalog.pg_prepared_xacts WHERE database = ANY (%s::text[])
        """,
        (list(names), list(names)),
    )
    return [str(who) for who, _ in rows]


def _allow(connection: Connection, names: Sequence[str], allowed: str) -> None:
    for name in names:
        connection.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(
                sql.Identifier(name), sql.SQL(allowed)
            )
        )


def _rename(connection: Connection, name: str, new: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new))
    )
