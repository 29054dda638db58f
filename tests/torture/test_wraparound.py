"""Transaction numbers run over the end of their 32 bits in the middle of a backup."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from vbackup.demo.scenario import Lag, Scenario
from vbackup.sandbox.sandbox import Options, throwaway
from vbackup.sandbox.servers import PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.torture, pytest.mark.timeout(300)]

HALF, END = 1 << 31, 1 << 32
ROWS_BEFORE = 250
"""Transactions left before the wrap: the warm-up takes some, the backup's lead-in the rest."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A stopped cluster of the sandbox, run by hand under the account that owns it."""

    server: PostgresServer

    @property
    def data(self) -> Path:
        assert self.server.data_dir is not None
        return Path(self.server.data_dir)

    def run(self, tool: str, *arguments: str) -> None:
        assert self.server.bin_dir is not None
        owner = self.data.stat()
        mine = owner.st_uid == os.geteuid()
        subprocess.run(
            [f"{self.server.bin_dir}/{tool}", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=self.data,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            user=None if mine else owner.st_uid,
            group=None if mine else owner.st_gid,
            extra_groups=None if mine else [],
        )

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w")

    def start(self) -> None:
        settings = (
            f"-p {self.server.port} -c listen_addresses={self.server.host} -c fsync=off"
            " -c unix_socket_directories= -c max_connections=200 -c autovacuum=off"
        )
        log = str(self.data.parent / "by-hand.log")
        self.run("pg_ctl", "start", "-D", str(self.data), "-w", "-l", log, "-o", settings)

    def jump(self, number: int) -> None:
        """Make `number` the next transaction; the page of the commit log for it must exist."""
        page = self.data / "pg_xact" / f"{number // (1 << 20):04X}"
        if not page.exists():
            page.write_bytes(bytes(1 << 18))
            owner = self.data.stat()
            os.chown(page, owner.st_uid, owner.st_gid)
        self.run("pg_resetwal", "-f", "-x", str(number), "-D", str(self.data))

    def freeze(self) -> None:
        """No row may be older than half the circle when the next jump comes."""
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as connection:
            connection.execute("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
            names = connection.execute("SELECT datname FROM pg_database").fetchall()
        for (name,) in names:
            with psycopg.connect(self.server.dsn(name), autocommit=True) as connection:
                connection.execute("VACUUM FREEZE")


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server that is about to run out of transaction numbers."""
    with throwaway(Options(qdrant=None, s3=False)) as sandbox:
        cluster = Cluster(sandbox.postgres)
        cluster.stop()
        # A server refuses work when its oldest row is 2^31 - 3 million transactions old.
        for number in (1_400_000_000, 2_800_000_000, 4_200_000_000):
            cluster.jump(number)
            cluster.start()
            cluster.freeze()
            cluster.stop()
        cluster.jump(END - ROWS_BEFORE)
        cluster.start()
        try:
            yield sandbox.postgres
        finally:
            cluster.stop()


def next_transaction(dsn: str) -> int:
    """The low 32 bits."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
    assert row is not None
    return int(row[0]) % END


def test_a_backup_across_the_wrap_is_exact(torture: Any) -> None:
    scenario = Scenario(
        seed=400, rows=1_000, lag=Lag(slow=0.5), writes_per_second=150, savepoint_share=0.3
    )
    app, config = torture.begin(scenario)
    assert next_transaction(app.dsn) > HALF, "the wrap came before the backup"

    backup = torture.back_up(config)

    assert next_transaction(app.dsn) < HALF, "the wrap did not come in time"
    outcome = torture.judge(app, config, backup)
    outcome.prove()
    # A feed that counts modulo 2^32 the wrong way would have to give up every changed row.
    assert len(outcome.reembed) < 5
