"""Whether a whole database can be backed up by this role, from this machine: for `check`."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from vbackup.config import PostgresConfig
from vbackup.errors import Refused
from vbackup.postgres import client_tools
from vbackup.postgres.connection import Connection, one
from vbackup.postgres.locks import DUMPED

_NAMED = 5


def problems(connection: Connection, config: PostgresConfig) -> list[str]:
    """One line a problem, each with what to do; empty when a backup can begin."""
    return [*_tools(connection, config), *_standby(connection), *_tables(connection)]


def _tools(connection: Connection, config: PostgresConfig) -> Iterator[str]:
    try:
        tools = client_tools.for_dump(config, connection.info.server_version // 10000)
        if config.include_globals != "never":
            tools.path("pg_dumpall")
    except Refused as error:
        yield f"{error.message}: {error.hint}"


def _standby(connection: Connection) -> Iterator[str]:
    (standby,) = one(connection, "SELECT pg_catalog.pg_is_in_recovery()")
    if standby:
        yield "the server is a standby, whose rows lag behind: let the DSN lead to the primary"


def _tables(connection: Connection) -> Iterator[str]:
    query = sql.SQL(
        "SELECT t.name, NOT pg_catalog.has_table_privilege(t.oid::oid, 'SELECT'),"
        " pg_catalog.row_security_active(t.oid::oid), count(*) OVER () FROM ({}) t(oid, name)"
    ).format(sql.SQL(DUMPED))
    rows = connection.execute(query).fetchall()
    if denied := [str(name) for name, unreadable, *_ in rows if unreadable]:
        yield f"no SELECT on {_some(denied)}: grant pg_read_all_data to the backup role"
    if hidden := [str(name) for name, _, secured, _ in rows if secured]:
        yield f"row security hides rows of {_some(hidden)}: grant BYPASSRLS to the backup role"
    (room,) = one(
        connection,
        "SELECT pg_catalog.current_setting('max_locks_per_transaction')::bigint"
        " * pg_catalog.current_setting('max_connections')::bigint",
    )
    # Every candidate watermark and every pg_dump locks every table.
    if len(rows) * 2 > int(str(room)):
        yield f"{len(rows)} tables are many: raise max_locks_per_transaction"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
