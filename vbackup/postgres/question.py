"""Ask one database one question: a query whose answer is a single value."""

from __future__ import annotations

from psycopg.conninfo import make_conninfo

from vbackup.config import PostgresConfig
from vbackup.errors import Failed
from vbackup.postgres.connection import parameters, session


def ask(config: PostgresConfig, database: str | None, query: str, timeout: float) -> object:
    """The value of the only column of the only row, as psycopg maps it.

    `database` None is the one of the DSN. The query runs in a read-only transaction, for
    `timeout` seconds at most. Raises Failed for any other number of rows or columns, and what
    is wrong with the query."""
    with session(config, database=database, doing="asking the database") as connection:
        connection.read_only = True
        milliseconds = str(max(1, round(timeout * 1000)))
        with connection.transaction():
            connection.execute(
                "SELECT pg_catalog.set_config('statement_timeout', %s, true)", (milliseconds,)
            )
            cursor = connection.execute(query.encode())
            if cursor.description is None:
                raise Failed("the statement returns no rows", hint="write a SELECT of one value")
            rows = cursor.fetchmany(2)
            columns = len(cursor.description)
    if len(rows) != 1 or columns != 1:
        many = "more than one row" if len(rows) > 1 else f"{len(rows)} rows"
        raise Failed(
            f"the query returns {many} of {columns} columns", hint="write a SELECT of one value"
        )
    return rows[0][0]


def conninfo(config: PostgresConfig, database: str) -> str:
    """A connection string to a database, password included: never print it."""
    return make_conninfo("", **parameters(config, database))
