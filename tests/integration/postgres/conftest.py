"""What the tests of the PostgreSQL room share: sources, targets, whole backups held in memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from psycopg import conninfo, sql

from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig
from vbackup.model.manifest import Artifact, DumpArtifact, PostgresPart
from vbackup.postgres.snapshot import Candidate
from vbackup.postgres.source import PostgresSource
from vbackup.postgres.target import PostgresTarget
from vbackup.progress import SilentReporter
from vbackup.sandbox.servers import PostgresServer

NASTY = Path(__file__).with_name("nasty.sql")


@dataclass
class Backup:
    """A dump in memory, as the engine would have stored it."""

    part: PostgresPart
    data: dict[str, list[bytes]]

    def open(self, dump: DumpArtifact) -> Iterator[bytes]:
        return iter(self.data[dump.artifact.name])


def config(dsn: str, **changes: Any) -> PostgresConfig:
    return PostgresConfig(**{"dsn": dsn, **changes})


@pytest.fixture
def source() -> Iterator[Callable[..., PostgresSource]]:
    """`source(dsn, large_table=…)`; closed afterwards."""
    made: list[PostgresSource] = []

    def make(dsn: str, **changes: Any) -> PostgresSource:
        made.append(PostgresSource(config(dsn, **changes), clock=SystemClock()))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def target() -> Callable[..., PostgresTarget]:
    """`target(dsn, jobs=…)`."""

    def make(dsn: str, **changes: Any) -> PostgresTarget:
        return PostgresTarget(config(dsn, **changes), clock=SystemClock())

    return make


@pytest.fixture(scope="session")
def shared_database(postgres_server: PostgresServer) -> Iterator[str]:
    """One database for all tests that are content with a schema of their own."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server.admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield postgres_server.dsn(name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def schema(shared_database: str) -> Iterator[str]:
    """A DSN whose search path is a fresh schema, dropped afterwards."""
    name = f"s_{secrets.token_hex(6)}"
    with psycopg.connect(shared_database, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        yield conninfo.make_conninfo(shared_database, options=f"-csearch_path={name},public")
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def silent() -> SilentReporter:
    return SilentReporter()


@pytest.fixture
def take() -> Callable[[PostgresSource, Candidate], Backup]:
    """Run every dump of a candidate into memory."""

    def run(source: PostgresSource, candidate: Candidate) -> Backup:
        data: dict[str, list[bytes]] = {}
        dumps = []
        for stream in candidate.dumps():
            data[stream.name] = list(stream.open())
            length = sum(map(len, data[stream.name]))
            artifact = Artifact(stream.name, length, "")
            dumps.append(DumpArtifact(stream.kind, artifact, stream.table, stream.rows_estimate))
        total = sum(dump.artifact.length for dump in dumps)
        part = PostgresPart(source.facts(), source.client_version, tuple(dumps), total)
        return Backup(part, data)

    return run


@pytest.fixture
def nasty() -> Callable[[str], None]:
    """Fill a database with what is hard to dump."""

    def fill(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(cast("Any", NASTY.read_text()))

    return fill
