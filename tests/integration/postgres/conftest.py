"""What the tests of the PostgreSQL room share: sources, targets, whole backups held in memory."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
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
from vbackup.postgres import restore
from vbackup.postgres.snapshot import Candidate
from vbackup.postgres.source import PostgresSource
from vbackup.postgres.target import PostgresTarget
from vbackup.progress import SilentReporter
from vbackup.sandbox.account import server_account
from vbackup.sandbox.loopback import free_ports
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


class Cluster:
    """A cluster of its own, for tests that stop a server or bend its files."""

    def __init__(self, bin_dir: str, directory: Path) -> None:
        self.bin_dir = Path(bin_dir)
        self.directory = directory
        self.account = server_account()
        self.port = free_ports(1)[0]
        self.running = False

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=vbackup dbname=postgres"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs as the account that owns the files."""
        subprocess.run(
            [self.bin_dir / program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += " -c unix_socket_directories= -c shared_buffers=16MB -c max_connections=30"
        log = str(self.directory / "log")
        self.run(
            "pg_ctl", "-w", "-D", str(self.directory / "data"), "-o", options, "-l", log, "start"
        )
        self.running = True

    def stop(self) -> None:
        if self.running:
            self.run("pg_ctl", "-w", "-m", "fast", "-D", str(self.directory / "data"), "stop")
            self.running = False


@pytest.fixture
def clusters(postgres_server: PostgresServer) -> Iterator[Callable[[], Cluster]]:
    """`clusters()`: an empty directory for a PostgreSQL 16; stopped and removed afterwards."""
    if postgres_server.bin_dir is None:
        pytest.skip("the server's programs are not on this machine")
    made: list[Cluster] = []

    def make() -> Cluster:
        directory = Path(tempfile.mkdtemp(prefix="vbackup-test-", dir="/var/tmp"))
        made.append(Cluster(str(postgres_server.bin_dir), directory))
        account = made[-1].account
        if account:
            os.chown(directory, account.uid, account.gid)
        return made[-1]

    yield make
    for each in made:
        each.stop()
        shutil.rmtree(each.directory)


@pytest.fixture
def nasty() -> Callable[[str], None]:
    """Fill a database with what is hard to dump."""

    def fill(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(cast("Any", NASTY.read_text()))

    return fill


@pytest.fixture(params=[1, 3])
def sessions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many sessions fill each large table, however small it is."""
    count = int(request.param)
    monkeypatch.setattr(restore, "shares", lambda lengths, _jobs: [count] * len(lengths))
    return count
