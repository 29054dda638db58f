"""The writers' side of the `fence` strategy: hold this around a write to both stores.

    with psycopg.connect(dsn) as connection, vbackup.fence.shared(connection):
        connection.execute("UPDATE documents SET ... WHERE id = %s", (id,))
        qdrant.upsert(...)

A writer holds the fence shared, so writers never wait for each other; a backup takes it
exclusively for the moment of its watermark. In any other language it is one line of SQL at the
start of the transaction: `SELECT pg_advisory_xact_lock_shared(8530487723825655808)`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

KEY = 0x7662_6163_6B75_7000
"""The default of `watermark.fence_key`: one application, one key, the same on both sides."""

_TAKE = "SELECT pg_catalog.pg_advisory_xact_lock_shared(%s::bigint)"


@contextmanager
def shared(connection: Connection[Any], key: int = KEY) -> Iterator[None]:
    """A transaction that holds the fence until it commits or rolls back.

    Inside a transaction that is already open, it becomes part of that one: the fence is then
    held until the outer one ends. Write to Qdrant before the block ends; what is written after
    it is not fenced.
    """
    with connection.transaction():
        connection.execute(_TAKE, (key,))
        yield


@asynccontextmanager
async def shared_async(connection: AsyncConnection[Any], key: int = KEY) -> AsyncIterator[None]:
    """The same for an AsyncConnection."""
    async with connection.transaction():
        await connection.execute(_TAKE, (key,))
        yield
