"""A search application over PostgreSQL and Qdrant, as the demo and the torture tests run it.

Documents of users are cut into chunks; a chunk's text is searched by the points made of it.
PostgreSQL is the record, Qdrant (or a column that pgvector keeps) follows it, in the order and
with the lag the scenario says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vbackup.config_links import LinkConfig, LinkVectorsConfig, PointConfig, RowsConfig
from vbackup.demo.content import Change, Key, parts, points, revised
from vbackup.demo.corpus import Passage, library
from vbackup.demo.index_queue import IndexQueue
from vbackup.demo.latencies import Latencies
from vbackup.demo.ledger import Ledger
from vbackup.demo.pgvector_store import PgvectorStore
from vbackup.demo.point_store import PointStore
from vbackup.demo.point_writer import PointWriter
from vbackup.demo.scenario import Scenario
from vbackup.demo.vector_store import VectorStore
from vbackup.demo.writers import Desk, Writer
from vbackup.errors import Failed, Unreachable

_KEY_TYPES = {"int": "bigint", "uuid": "uuid"}
_SCHEMA = """
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE documents (
    id bigint PRIMARY KEY,
    owner_id bigint NOT NULL REFERENCES users,
    title text NOT NULL UNIQUE,
    section text NOT NULL
);
CREATE SEQUENCE chunk_versions;
CREATE TABLE chunks (
    id {key} PRIMARY KEY,
    document_id bigint NOT NULL REFERENCES documents,
    text text NOT NULL,
    version bigint NOT NULL,
    status text NOT NULL CHECK (status IN ('draft', 'published')),
    points integer NOT NULL,
    views integer NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON chunks (document_id);
"""


class Application:
    """One application with its own database and collection, both named `name`.

    `server` is the conninfo of a database to create others from; it needs CREATEDB. `qdrant` is
    not looked at with the engine pgvector. `latencies` is told how long writes take. Use as a
    context manager: leaving it stops all threads and keeps the data. Raises vbackup errors.
    """

    def __init__(
        self,
        server: str,
        qdrant: str,
        name: str,
        scenario: Scenario,
        *,
        api_key: str = "",
        latencies: Latencies | None = None,
    ) -> None:
        self.scenario = scenario
        self.name = name
        self.dsn = make_conninfo(server, dbname=name)
        self._server = server
        self.store: PointStore = (
            PgvectorStore(self.dsn)
            if scenario.engine == "pgvector"
            else VectorStore(qdrant, name, api_key=api_key)
        )
        self._stop = threading.Event()
        self._ledger = Ledger(scenario.keys)
        self._points = PointWriter(self.store, scenario)
        self._latencies = latencies
        self._queue = IndexQueue(self._points, scenario, clock=time.monotonic, latencies=latencies)
        self._writers: list[Writer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -------------------------------------------------------------- life

    def create(self) -> None:
        """The empty database with its schema, and the empty collection."""
        with self._connect(self._server) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(self.name))
            )
        with self._connect(self.dsn) as connection:
            connection.execute(_SCHEMA.format(key=_KEY_TYPES[self.scenario.keys]).encode())
            _insert_documents(connection)
        scenario = self.scenario
        self.store.create(scenario.dimensions, scenario.shards, optimizers=scenario.optimizers)
        self.store.index("section", "keyword")
        if scenario.link == "payload":
            self.store.index("chunk_id", "integer" if scenario.keys == "int" else "uuid")

    def load(self) -> int:
        """The first rows and all their points; returns the number of points."""
        rng = self.scenario.random("load")
        changes = list(self._first_changes(_sample(self.scenario.rows), rng))
        with self._connect(self.dsn) as connection:
            self._copy_rows(connection, changes)
        loaded = self._points.load(changes)
        writable = [c.key for c in changes if c.passage.section != self.scenario.archive]
        for key in writable:
            self._ledger.release(key, "published")
        self._ledger.heat(writable[: self.scenario.hot_rows])
        return loaded

    def start(self) -> None:
        """Start the writers and the indexer."""
        desk = Desk(
            scenario=self.scenario,
            connect=lambda: self._connect(self.dsn),
            ledger=self._ledger,
            passages=[p for p in library() if p.section != self.scenario.archive],
            points=self._points,
            queue=self._queue,
            stop=self._stop,
            latencies=self._latencies,
        )
        self._queue.start()
        self._writers = [Writer(desk, number) for number in range(self.scenario.writers)]
        for writer in self._writers:
            writer.start()

    def quiesce(self) -> None:
        """Stop the writers and let the indexer finish: afterwards the pair agrees.

        Raises Failed when a writer or the indexer had died."""
        self.stop()
        self._queue.drain()

    def stop(self) -> None:
        """Stop the writers at once, as a crash of the application would; the indexer's queue
        stays as it is. Raises Failed when a writer had died."""
        self._stop.set()
        for writer in self._writers:
            writer.join()
        for writer in self._writers:
            if writer.error:
                raise Failed(f"{writer.name} failed: {writer.error}") from writer.error

    def close(self) -> None:
        """End all threads and connections, whatever state they are in."""
        self._stop.set()
        for writer in self._writers:
            if writer.ident is not None:
                writer.join()
        self._queue.close()
        self.store.close()

    def embed(self, keys: Iterable[str]) -> None:
        """Embed published rows again, as the indexer does with a re-embed list."""
        with self._connect(self.dsn) as connection:
            rows = connection.execute(
                "SELECT chunks.id, text, version, title, section FROM chunks"
                " JOIN documents ON document_id = documents.id"
                " WHERE status = 'published' AND chunks.id::text = ANY (%s)",
                (list(keys),),
            ).fetchall()
        for key, text, version, title, section in rows:
            name = key if isinstance(key, int) else str(key)
            change = Change(name, version, text, Passage(title, section, text))
            self.store.upsert(points(change, self.scenario), wait=True)

    def drop(self) -> None:
        """The disaster: the database and the collection are gone."""
        with self._connect(self._server) as connection:
            name = sql.Identifier(self.name)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        self.store.drop()

    def exists(self) -> bool:
        """Whether anything of the application is left: its database or its collection."""
        with self._connect(self._server) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", (self.name,))
            return found.fetchone() is not None or self.store.exists()

    # -------------------------------------------------------------- facts

    @property
    def writes(self) -> int:
        """Rows written by the writers so far."""
        return sum(writer.writes for writer in self._writers)

    @property
    def backlog(self) -> int:
        """Rows whose points the indexer has not written yet."""
        return self._queue.backlog

    @property
    def worst_lag(self) -> float:
        """How far apart in time, in seconds, a row and its point really were so far, whichever
        came first."""
        return max([self._queue.worst_lag, *(writer.worst_lead for writer in self._writers)])

    def wait_for_writes(self, count: int, timeout: float = 60.0) -> None:
        """Return once `count` more rows were written. Raises Failed when they are not."""
        target, deadline = self.writes + count, time.monotonic() + timeout
        pulse = threading.Event()
        while self.writes < target:
            if any(writer.error for writer in self._writers):
                self.stop()
            if time.monotonic() > deadline:
                raise Failed(f"the writers wrote {self.writes} rows and not {target} in time")
            pulse.wait(0.02)

    def link(self) -> LinkConfig:
        """How this application's rows own its points, as a configuration says it."""
        scenario = self.scenario
        if scenario.engine == "pgvector":
            return self._vectors_link()
        many = scenario.points == "many"
        return LinkConfig(
            name="chunks",
            collection=self.name,
            rows=(
                RowsConfig(
                    table="public.chunks",
                    key="id",
                    live="status = 'published'",
                    version="version" if scenario.versioned else None,
                    count="points" if many else None,
                ),
            ),
            point=PointConfig(
                ref="id" if scenario.link == "id" else "payload:chunk_id",
                version="payload:version" if scenario.versioned else None,
                cardinality=scenario.points,
            ),
        )

    def _vectors_link(self) -> LinkConfig:
        rows = RowsConfig(
            table="public.chunks", key=("id",), version="version", live="status = 'published'"
        )
        vectors = LinkVectorsConfig(
            column="embedding", version="embedded_version", dimensions=self.scenario.dimensions
        )
        return LinkConfig(name="chunks", collection=self.name, rows=(rows,), vectors=vectors)

    # -------------------------------------------------------------- how

    def _connect(self, dsn: str) -> psycopg.Connection:
        try:
            return psycopg.connect(dsn, autocommit=True, application_name="vbackup-demo-app")
        except psycopg.OperationalError as error:
            raise Unreachable(f"PostgreSQL did not let the application in: {error}") from error

    def _first_changes(self, passages: Iterator[Passage], rng: Random) -> Iterator[Change]:
        for version, passage in enumerate(passages, start=1):
            key = self._ledger.fresh(rng, passage)
            yield Change(key, version, revised(passage, rng), passage)

    def _copy_rows(self, connection: psycopg.Connection, changes: Sequence[Change]) -> None:
        numbers: dict[str, int] = dict(
            connection.execute("SELECT title, id FROM documents").fetchall()
        )
        statement = "COPY chunks (id, document_id, text, version, status, points) FROM STDIN"
        with connection.cursor().copy(statement) as copy:
            for change in changes:
                copy.write_row(self._row(change, numbers[change.passage.title]))
        connection.execute("SELECT setval('chunk_versions', %s)", (len(changes) + 1,))
        connection.execute("ANALYZE")

    def _row(self, change: Change, document: int) -> tuple[Key | str | int, ...]:
        text = change.text or ""
        count = len(parts(text, self.scenario))
        return (change.key, document, text, change.version, "published", count)


def _sample(count: int) -> Iterator[Passage]:
    """That many passages from all over the library, again from the start when it has fewer."""
    known = library()
    step = max(1.0, len(known) / count)
    return (known[int(number * step) % len(known)] for number in range(count))


def _insert_documents(connection: psycopg.Connection) -> None:
    names = [("ada",), ("edsger",), ("grace",), ("leslie",)]
    titles = sorted({(passage.title, passage.section) for passage in library()})
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO users (name) VALUES (%s)", names)
        cursor.executemany(
            "INSERT INTO documents (id, owner_id, title, section) VALUES (%s, %s, %s, %s)",
            [
                (number, number % len(names) + 1, title, section)
                for number, (title, section) in enumerate(titles, start=1)
            ],
        )
