"""Creates and drops databases."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import errors as pg
from psycopg import sql

from vbackup.model.manifest import DatabaseFacts
from vbackup.postgres.connection import Connection

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
# What the server may say to a locale, a provider or an encoding that it does not have.
_LOCALE_ERRORS = (
    pg.InvalidParameterValue,
    pg.WrongObjectType,
    pg.FeatureNotSupported,
    pg.SyntaxError,
    pg.InternalError_,
)


def create(connection: Connection, facts: DatabaseFacts, database: str) -> list[str]:
    """Create an empty database with the encoding and locale of the backed up one.

    A locale that this server does not have becomes its own default, and that a warning (sort
    order changes, the data does not). Returns the warnings.
    """
    warnings: list[str] = []
    last: Exception | None = None
    for options, warning in _attempts(connection.info.server_version, facts):
        query = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} {}").format(
            sql.Identifier(database), sql.Literal(facts.encoding), options
        )
        try:
            connection.execute(query)
        except _LOCALE_ERRORS as error:
            last = error
            continue
        if warning:
            warnings.append(warning)
        warnings += _give_to_owner(connection, facts.owner, database)
        return warnings
    raise last or pg.InternalError_("no way to create a database")


def drop(connection: Connection, database: str) -> None:
    """Drop a database with its sessions, if it exists, or if it is being created for somebody who
    was killed: the server goes on, and it would be there a moment later."""
    _stop_creating(connection, database)
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    )


def _stop_creating(connection: Connection, database: str) -> None:
    creating = sql.SQL("CREATE DATABASE {} ").format(sql.Identifier(database))
    connection.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid, 60000) FROM pg_catalog.pg_stat_activity"
        " WHERE usename = current_user AND state = 'active'"
        " AND pg_catalog.starts_with(query, %s)",
        (creating.as_string(connection),),
    )


def exists(connection: Connection, database: str) -> bool:
    """Whether there is a database of this name."""
    query = "SELECT FROM pg_catalog.pg_database WHERE datname = %s"
    return connection.execute(query, (database,)).fetchone() is not None


def _attempts(version: int, facts: DatabaseFacts) -> Iterator[tuple[sql.Composable, str]]:
    """Options for CREATE DATABASE, the best first, each with what is lost by it."""
    libc = sql.SQL("LC_COLLATE {} LC_CTYPE {}").format(
        sql.Literal(facts.collate), sql.Literal(facts.ctype)
    )
    name = facts.locale or facts.collate
    provider = _PROVIDERS.get(facts.locale_provider, "libc")
    if version >= 150000:
        chosen = sql.SQL("LOCALE_PROVIDER {} ").format(sql.SQL(provider))
        if provider != "libc":
            option = sql.SQL("ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE")
            chosen += sql.SQL("{} {} ").format(option, sql.Literal(facts.locale))
        yield chosen + libc, ""
    elif provider == "libc":
        yield libc, ""
    lost = f"the locale {name} ({provider}) is not on this server: its default is used instead"
    yield sql.SQL(""), lost
    yield sql.SQL("LOCALE 'C'"), f"the locale {name} ({provider}) is not on this server: C is used"


def _give_to_owner(connection: Connection, owner: str, database: str) -> list[str]:
    if not owner:
        return []
    try:
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(database), sql.Identifier(owner)
            )
        )
    except (pg.UndefinedObject, pg.InsufficientPrivilege) as error:
        return [f'database "{database}" keeps its creator as owner: {error.diag.message_primary}']
    return []
