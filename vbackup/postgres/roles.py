"""Roles by name only, so that owners, grants and policies of a dump find whom they speak of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from psycopg import errors as pg
from psycopg import sql

from vbackup.config import PostgresConfig
from vbackup.postgres.connection import session

_CREATE = re.compile(r'^CREATE ROLE ("(?:[^"]|"")+"|[^\s;"]+);$', re.MULTILINE)


def create_roles(config: PostgresConfig, globals_sql: str) -> Sequence[str]:
    """Create the roles that a dump of globals creates, without login, password or membership;
    those that exist stay as they are. Returns the names that were created."""
    made = []
    with session(config, doing="creating roles") as connection:
        for found in _CREATE.findall(globals_sql):
            name = found[1:-1].replace('""', '"') if found.startswith('"') else found
            try:
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
            except pg.DuplicateObject:
                continue
            made.append(name)
    return made
