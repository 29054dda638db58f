"""Connections to PostgreSQL: how they are opened, set up and closed, and what their errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg import conninfo

from vbackup.config import PostgresConfig
from vbackup.errors import Denied, NotFound, Refused, Usage, VbackupError
from vbackup.postgres.failures import connect_failure, translated


class Connection(psycopg.Connection[tuple[object, ...]]):
    """A session that remembers the libpq parameters it was asked for."""

    asked: dict[str, str]


APPLICATION_NAME = "vbackup"
LOCK_TIMEOUT_MS = 5000

# A snapshot is held open while nothing runs on its session, and a dump may take hours: time-outs
# that the server or the role sets for applications would end it. `row_security = off` turns rows
# hidden by a policy into an error. Text output must not depend on the server's locale.
_SESSION: LiteralString = """
SET idle_in_transaction_session_timeout = 0;
SET statement_timeout = 0;
SET idle_session_timeout = 0;
SET lock_timeout = 5000;
SET row_security = off;
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET extra_float_digits = 1;
SET bytea_output = 'hex';
SET xmloption = 'content';
SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', 'pg_catalog',
    nullif(pg_catalog.btrim(pg_catalog.current_setting('search_path')), ''), 'pg_temp'), false)
"""
_KEEPALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "6"}
TRANSACTION_TIMEOUT_SINCE = 170000
OLDEST_SERVER = 140000


def parameters(config: PostgresConfig, database: str | None = None) -> dict[str, str]:
    """The libpq parameters of the DSN, the database replaced when one is given.

    Raises Usage when libpq cannot read the DSN; its text is not repeated, it may hold a password.
    """
    try:
        found = conninfo.conninfo_to_dict(config.dsn.get_secret_value())
    except psycopg.ProgrammingError:
        raise Usage(
            "postgres.dsn is not a libpq connection string",
            hint="write postgresql://user@host:5432/database or 'host=... dbname=...'",
        ) from None
    result = {name: str(value) for name, value in found.items() if value is not None}
    if database is not None:
        result["dbname"] = database
    return result


def described(params: Mapping[str, str]) -> str:
    """Where a connection goes, for messages: no secrets."""
    host = params.get("host") or params.get("hostaddr") or params.get("service") or "local socket"
    port = params.get("port")
    where = f"{host}:{port}" if port and "," not in host else host
    return f"PostgreSQL at {where}"


def connect(
    config: PostgresConfig, *, database: str | None = None, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Connection:
    """Open a session in autocommit mode, set up for snapshots that are held for long.

    Raises Denied, NotFound (no such database), Unreachable, Usage, Refused (too old a server).
    """
    params = parameters(config, database)
    params.setdefault("connect_timeout", str(max(2, round(config.connect_timeout))))
    # A watermark's session is idle for as long as the dump takes: networks forget such sessions.
    for name, seconds in _KEEPALIVE.items():
        params.setdefault(name, seconds)
    params["application_name"] = APPLICATION_NAME
    return opened(params, lock_timeout_ms)


def beside(connection: Connection) -> Connection:
    """A second session on the very server and database that the first one reached."""
    return opened(reached(connection))


def reached(connection: Connection) -> dict[str, str]:
    """The libpq parameters, password included, that lead to the server this session is on: of
    several hosts, or of several addresses behind one name, exactly this one."""
    info = connection.info
    params = dict(connection.asked)
    # These could lead elsewhere. A service stays: what is given beside it wins over it.
    for name in ("target_session_attrs", "load_balance_hosts", "hostaddr"):
        params.pop(name, None)
    params |= {"host": info.host, "port": str(info.port), "user": info.user, "dbname": info.dbname}
    if info.hostaddr and not info.host.startswith("/"):
        params["hostaddr"] = info.hostaddr
    if info.password:
        params["password"] = info.password
    return params


def opened(params: Mapping[str, str], lock_timeout_ms: int = LOCK_TIMEOUT_MS) -> Connection:
    """A session by libpq's parameters, set up as `connect` does. Raises what `connect` does."""
    where = described(params)
    try:
        connection = Connection.connect(
            conninfo.make_conninfo("", **params), autocommit=True, prepare_threshold=None
        )
    except psycopg.OperationalError as error:
        raise connect_failure(error, where, params.get("user", "")) from None
    except psycopg.ProgrammingError:
        raise Usage(f"{where}: a connection parameter is not valid") from None
    connection.asked = dict(params)
    try:
        _set_up(connection, lock_timeout_ms)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: Connection, lock_timeout_ms: int) -> None:
    version = connection.info.server_version
    with translated("setting up a PostgreSQL session"):
        if version < OLDEST_SERVER:
            raise Usage(
                f"PostgreSQL {version // 10000} is too old",
                hint=f"vbackup needs PostgreSQL {OLDEST_SERVER // 10000} or newer",
            )
        connection.execute("SET client_encoding = 'UTF8'")
        connection.execute(_SESSION)
        if version >= TRANSACTION_TIMEOUT_SINCE:
            connection.execute("SET transaction_timeout = 0")
        if lock_timeout_ms != LOCK_TIMEOUT_MS:
            set_lock_timeout(connection, lock_timeout_ms)


def set_lock_timeout(connection: Connection, milliseconds: int) -> None:
    """How long a statement of this session waits for a lock; 0 waits for ever."""
    connection.execute(
        "SELECT pg_catalog.set_config('lock_timeout', %s, false)", (str(milliseconds),)
    )


@contextmanager
def session(
    config: PostgresConfig, *, database: str | None = None, doing: str = "reading the catalog"
) -> Iterator[Connection]:
    """A session for a few statements; errors inside come out translated."""
    connection = connect(config, database=database)
    try:
        with translated(doing):
            yield connection
    finally:
        connection.close()


def one(
    connection: Connection, query: LiteralString, values: tuple[object, ...] = ()
) -> tuple[object, ...]:
    """The only row of a query. Raises NotFound when there is none."""
    row = connection.execute(query, values or None).fetchone()
    if row is None:
        raise NotFound("PostgreSQL returned no row where one was expected")
    return row


def maintenance(config: PostgresConfig, avoid: Sequence[str] = ()) -> Connection:
    """A session for CREATE, ALTER and DROP DATABASE, on a database that is not to be avoided:
    `postgres`, else `template1`, else the one that the DSN names.

    Raises NotFound, Denied, Unreachable.
    """
    last: VbackupError | None = None
    for database in ("postgres", "template1", parameters(config).get("dbname")):
        if database in avoid:
            continue
        try:
            return connect(config, database=database)
        except (NotFound, Denied) as error:
            last = last or error
    raise last or Refused("no other database to connect to", hint="create the database postgres")
