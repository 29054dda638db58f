"""What a restore must know of a database: version, locale, owner, extensions, size."""

from __future__ import annotations

import psycopg

from vbackup.model.manifest import DatabaseFacts, Extension
from vbackup.postgres.connection import Connection, one

# The column that holds an ICU or builtin locale was born in 15 and renamed in 17.
_LOCALE_COLUMN = ((170000, "datlocale"), (150000, "daticulocale"))
_PROVIDER_SINCE = 150000


def database_facts(connection: Connection) -> DatabaseFacts:
    """The facts of the database that the session is in."""
    version = connection.info.server_version
    name, encoding, collate, ctype, owner, size, text = one(
        connection,
        """
        SELECT d.datname, pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
               pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_database_size(d.oid),
               pg_catalog.current_setting('server_version')
        FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
        """,
    )
    provider, locale = _provider(connection, version)
    return DatabaseFacts(
        database=str(name),
        server_version=str(text),
        server_version_num=version,
        system_identifier=system_identifier(connection),
        encoding=str(encoding),
        collate=str(collate),
        ctype=str(ctype),
        locale_provider=provider,
        locale=locale,
        owner=str(owner),
        size_bytes=int(str(size)),
        extensions=extensions(connection),
    )


def extensions(connection: Connection) -> tuple[Extension, ...]:
    """The installed extensions, by name."""
    rows = connection.execute(
        """
        SELECT e.extname, e.extversion, n.nspname FROM pg_catalog.pg_extension e
        JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY e.extname
        """
    )
    return tuple(Extension(str(name), str(version), str(schema)) for name, version, schema in rows)


def system_identifier(connection: Connection) -> str:
    """The cluster's identifier, or "" when this role may not see it."""
    try:
        (found,) = one(
            connection, "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"
        )
    except psycopg.errors.InsufficientPrivilege:
        return ""
    return str(found)


def _provider(connection: Connection, version: int) -> tuple[str, str]:
    """The locale provider ('c', 'i', 'b') and its locale, "" for libc."""
    if version < _PROVIDER_SINCE:
        return "c", ""
    column = next(name for since, name in _LOCALE_COLUMN if version >= since)
    query = psycopg.sql.SQL(
        "SELECT datlocprovider::text, coalesce({}, '') FROM pg_catalog.pg_database"
        " WHERE datname = pg_catalog.current_database()"
    ).format(psycopg.sql.Identifier(column))
    row = connection.execute(query).fetchone()
    return (str(row[0]), str(row[1])) if row else ("c", "")
