"""What would make a restore fail, found before anything is created."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vbackup.config import PostgresConfig
from vbackup.errors import Refused
from vbackup.model.manifest import Extension, PostgresPart
from vbackup.postgres import client_tools, databases
from vbackup.postgres.connection import Connection, one


def problems(
    connection: Connection, config: PostgresConfig, part: PostgresPart, database: str
) -> list[str]:
    """One line a problem; empty when all is well."""
    found = list(_versions(connection, config, part))
    if databases.exists(connection, database):
        found.append(f'database "{database}" exists already: choose another with --database')
    superuser, may_create = one(
        connection,
        "SELECT rolsuper, rolsuper OR rolcreatedb FROM pg_catalog.pg_roles"
        " WHERE rolname = current_user",
    )
    if not may_create:
        found.append(f'user "{connection.info.user}" may not create databases: grant CREATEDB')
    for extension in part.facts.extensions:
        found += _extension(connection, extension, bool(superuser))
    return found


def _versions(connection: Connection, config: PostgresConfig, part: PostgresPart) -> Iterator[str]:
    server = connection.info.server_version // 10000
    origin = part.facts.server_version_num // 10000
    if server < origin:
        yield f"the server is PostgreSQL {server}, the backup is of PostgreSQL {origin}"
    try:
        client_tools.for_restore(config, client_tools.major_of(part.client_version))
    except Refused as error:
        yield f"{error.message}: {error.hint}"


def _extension(connection: Connection, wanted: Extension, superuser: bool) -> list[str]:
    row = connection.execute(
        """
        SELECT a.default_version, v.superuser AND NOT v.trusted
        FROM pg_catalog.pg_available_extensions a
        LEFT JOIN pg_catalog.pg_available_extension_versions v
          ON v.name = a.name AND v.version = a.default_version
        WHERE a.name = %s
        """,
        (wanted.name,),
    ).fetchone()
    if row is None:
        return [
            f"extension {wanted.name} {wanted.version} is not installed on the server: "
            f"install its package"
        ]
    offered = str(row[0])
    if _number(offered) < _number(wanted.version):
        return [
            f"extension {wanted.name} is {offered} on the server, the backup has {wanted.version}: "
            f"update its package"
        ]
    if row[1] and not superuser and wanted.schema != "pg_catalog":
        return [f"extension {wanted.name} can only be created by a superuser"]
    return []


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version))
