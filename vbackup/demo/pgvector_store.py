"""The application's vectors when pgvector keeps them: a column of the very rows they belong to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from vbackup.errors import Failed, Unreachable

_PAGE = 1_000
_SCHEMA = """
CREATE EXTENSION IF NOT EXISTS vector;
ALTER TABLE chunks ADD COLUMN embedding vector({dimensions}), ADD COLUMN embedded_version bigint;
CREATE INDEX chunks_nearest ON chunks USING hnsw (embedding vector_cosine_ops)
"""
# Whoever embedded a text that has changed meanwhile is too late: that version is gone.
_UPSERT = """
UPDATE chunks SET embedding = %s::vector, embedded_version = %s WHERE id = %s AND version = %s
"""
_DELETE = """
UPDATE chunks SET embedding = NULL, embedded_version = NULL
WHERE id = %s AND status <> 'published'
"""
_ALL = """
SELECT chunks.id::text, embedding::text, embedded_version, title, section
FROM chunks JOIN documents ON document_id = documents.id WHERE embedding IS NOT NULL
"""
_SEARCH = """
SELECT chunks.id::text, title, 1 - (embedding <=> %(vector)s::vector)
FROM chunks JOIN documents ON document_id = documents.id
WHERE embedding IS NOT NULL AND (%(section)s = '' OR section = %(section)s)
ORDER BY embedding <=> %(vector)s::vector LIMIT %(limit)s
"""


class PgvectorStore:
    """A PointStore in the application's own database. Thread-safe. Raises Failed when PostgreSQL
    refuses, Unreachable when it is not there."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._mutex = threading.Lock()
        self._kept: psycopg.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def sibling(self, name: str) -> PgvectorStore:
        """The vectors of another database of the same server."""
        return PgvectorStore(make_conninfo(self._dsn, dbname=name))

    def create(self, dimensions: int, shards: int, *, optimizers: bool = False) -> None:  # noqa: ARG002
        """Add the column and its index; shards and optimizers are Qdrant's."""
        with self._connection() as connection:
            connection.execute(_SCHEMA.format(dimensions=dimensions).encode())

    def exists(self) -> bool:
        """Its vectors are gone with the database."""
        return False

    def index(self, field: str, schema: str) -> None:
        """Nothing to do: what a search filters by is in other columns."""

    def drop(self) -> None:
        """Let go of the database; its vectors go with it."""
        self.close()

    def upsert(self, points: Sequence[dict[str, Any]], *, wait: bool) -> None:  # noqa: ARG002
        """Write the vectors of rows that still have the version they were made of."""
        values = [
            (json.dumps(each["vector"]), said["version"], said["chunk_id"], said["version"])
            for each in points
            for said in [each["payload"]]
        ]
        self._many(_UPSERT, values)

    def delete(self, ids: Sequence[int | str], *, wait: bool) -> None:  # noqa: ARG002
        """Take the vectors from rows that are not published."""
        self._many(_DELETE, [(each,) for each in ids])

    def scroll(self) -> Iterator[list[dict[str, Any]]]:
        """Every row with a vector, as a point with payload and vector."""
        with self._connection() as connection:
            cursor = connection.execute(_ALL)
            while rows := cursor.fetchmany(_PAGE):
                yield [_point(*row) for row in rows]

    def search(
        self, vector: Sequence[float], limit: int, *, section: str = ""
    ) -> list[dict[str, Any]]:
        """The nearest rows, exactly (no index), best first; with their scores and titles."""
        asked = {"vector": json.dumps(list(vector)), "limit": limit, "section": section}
        with self._connection() as connection, connection.transaction():
            connection.execute("SET LOCAL enable_indexscan = off")
            rows = connection.execute(_SEARCH, asked).fetchall()
        return [{"id": i, "payload": {"title": t}, "score": float(score)} for i, t, score in rows]

    def close(self) -> None:
        with self._mutex:
            if self._kept:
                self._kept.close()
                self._kept = None

    def _many(self, statement: str, values: Sequence[tuple[object, ...]]) -> None:
        if values:
            with self._connection() as connection, connection.cursor() as cursor:
                cursor.executemany(statement.encode(), values)

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """The one session, opened anew after it was lost."""
        with self._mutex:
            try:
                if self._kept is None or self._kept.closed:
                    self._kept = psycopg.connect(
                        self._dsn, autocommit=True, application_name="vbackup-demo-app"
                    )
                yield self._kept
            except psycopg.OperationalError as error:
                raise Unreachable(f"PostgreSQL lost the application: {error}") from error
            except psycopg.Error as error:
                raise Failed(f"PostgreSQL refused the application: {error}") from error


def _point(key: str, vector: str, version: int, title: str, section: str) -> dict[str, Any]:
    return {
        "id": key,
        "vector": json.loads(vector),
        "payload": {"chunk_id": key, "version": version, "title": title, "section": section},
    }
