"""A dump under a candidate watermark, restored: schema and every row equal, on every version."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from vbackup.postgres.client_tools import for_dump

pytestmark = pytest.mark.integration

TABLES: LiteralString = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema'
"""


def digests(dsn: str) -> dict[str, tuple[Any, ...]]:
    """Rows, large objects and sequences, as hashes by name."""
    with psycopg.connect(dsn) as connection:
        found: dict[str, tuple[Any, ...]] = {}
        for (name,) in connection.execute(TABLES).fetchall():
            query = sql.SQL(
                "SELECT count(*), md5(string_agg(h, '' ORDER BY h COLLATE \"C\"))"
                " FROM (SELECT md5(t::text) h FROM ONLY {} t) x"
            ).format(sql.SQL(name))
            found[name] = connection.execute(query).fetchone() or ()
        objects = connection.execute(
            "SELECT oid::text, md5(lo_get(oid)) FROM pg_largeobject_metadata"
        )
        found |= {f"large object {oid}": (digest,) for oid, digest in objects}
        values = connection.execute(
            "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences"
        )
        return found | {f"sequence {name}": (value,) for name, value in values}


def schema(pg_dump: str, dsn: str) -> str:
    """The schema as pg_dump writes it, without what differs from run to run."""
    result = subprocess.run(
        [pg_dump, "--schema-only", dsn], capture_output=True, text=True, check=True
    )
    return re.sub(r"(?m)^(\\(un)?restrict .*|-- Dumped .*)\n", "", result.stdout)


@pytest.fixture
def restored(target: Callable[..., Any]) -> Iterator[Callable[[Any, str], Any]]:
    """`restored(server, name)`: a target whose database of that name is dropped afterwards."""
    made: list[tuple[Any, str]] = []

    def make(server: Any, name: str) -> Any:
        found = target(server.admin_dsn, jobs=3)
        made.append((found, name))
        return found

    yield make
    for found, name in made:
        found.drop(name)


@pytest.mark.parametrize(
    ("origin", "destination", "large_table", "sessions"),
    [
        (16, 16, 30_000, 1),
        (18, 18, 0, 1),
        (18, 18, 0, 3),
        (15, 15, 1 << 40, 1),
        (15, 15, 0, 2),
        (16, 18, 30_000, 1),
        (15, 16, 30_000, 3),
    ],
    indirect=["sessions"],
)
@pytest.mark.usefixtures("sessions")
def test_a_nasty_database_comes_back_equal(
    origin: int,
    destination: int,
    large_table: int,
    postgres_servers: Any,
    new_database: Any,
    nasty: Any,
    source: Any,
    take: Any,
    restored: Any,
    silent: Any,
) -> None:
    here, there = postgres_servers(origin), postgres_servers(destination)
    dsn = new_database(here)
    nasty(dsn)
    extension = "pg_trgm" if origin == 15 else "vector"
    if origin == 15 and destination != 15:
        extension = "plpgsql"
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA app")
        if extension != "plpgsql":
            connection.execute(query.format(sql.Identifier(extension)))
        if extension == "vector":
            connection.execute(
                "CREATE TABLE app.vectors AS SELECT g AS id,"
                " ARRAY[g, g / 7.0, -g]::real[]::app.vector(3) AS v FROM generate_series(1, 500) g"
            )
            connection.execute("CREATE INDEX ON app.vectors USING hnsw (v app.vector_l2_ops)")
        if extension == "pg_trgm":
            connection.execute("CREATE INDEX ON app.secret USING gin (body app.gin_trgm_ops)")

    reader = source(dsn, large_table=large_table)
    candidate = reader.candidate([])
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = digests(dsn)
        # What comes after the watermark must not be in the dump.
        connection.execute("DELETE FROM app.book WHERE id > 1999")
        connection.execute("INSERT INTO app.upper VALUES (-1)")
    backup = take(reader, candidate)
    candidate.close()
    assert (large_table > 1 << 30) == (not any(d.kind == "table" for d in backup.part.dumps))

    name = 'Restored "é"'
    writer = restored(there, name)
    writer.drop(name)
    assert writer.preflight(backup.part, name) == []
    writer.prepare(backup.part, name)
    assert writer.load(backup.part, name, backup.open, silent) == []

    assert digests(there.dsn(name)) == before
    if origin == destination:
        pg_dump = for_dump(writer._config, origin).path("pg_dump")
        assert schema(pg_dump, there.dsn(name)) == schema(pg_dump, dsn)
