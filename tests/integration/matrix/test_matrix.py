"""Every supported PostgreSQL with every supported Qdrant: back up under writes, restore, judge.

Also what a backup of one version gives on a newer one of either.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vbackup import restoring, wiring
from vbackup.clock import SystemClock
from vbackup.config import (
    Config,
    PostgresConfig,
    QdrantConfig,
    RepositoryConfig,
    WatermarkConfig,
)
from vbackup.demo.application import Application
from vbackup.demo.oracle import compare
from vbackup.demo.scenario import Lag, Scenario
from vbackup.demo.vector_store import VectorStore
from vbackup.engine.proof import RestoreResult
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.progress import SilentReporter
from vbackup.sandbox.servers import PostgresServer, QdrantServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

POSTGRES = (15, 16, 18)
QDRANT = ("1.16.3", "1.17.0")
SCENARIO = Scenario(seed=7, rows=250, writes_per_second=60, shards=2, lag=Lag(slow=0.3))


@dataclass(frozen=True)
class Side:
    """The servers on one side of a move."""

    postgres: PostgresServer
    qdrant: QdrantServer

    def config(self, database: str, directory: Path, **more: Any) -> Config:
        server, key = self.postgres, self.qdrant.api_key
        return Config(
            postgres=PostgresConfig(
                dsn=SecretStr(server.dsn(database)),
                bin_dir=Path(server.bin_dir) if server.bin_dir else None,
            ),
            qdrant=QdrantConfig(
                nodes=self.qdrant.urls,
                api_key=SecretStr(key) if key else None,
                collections=(database,),
            ),
            repository=RepositoryConfig(
                url=(directory / "repository").as_uri(),
                passphrase=SecretStr("a passphrase of the matrix"),
            ),
            watermark=WatermarkConfig(lead_in=0.4, max_index_lag=2.0, work_dir=directory / "work"),
            **more,
        )


@pytest.fixture
def move(tmp_path: Path) -> Iterator[Callable[[Side, Side], tuple[RestoreResult, Any]]]:
    """`move(source, target)`: back up under writes on one side, restore on the other, and ask
    the oracle about the restored pair."""
    with ExitStack() as stack:

        def run(source: Side, target: Side) -> tuple[RestoreResult, Any]:
            name = f"matrix_{secrets.token_hex(4)}"
            app = Application(
                source.postgres.admin_dsn,
                source.qdrant.url,
                name,
                SCENARIO,
                api_key=source.qdrant.api_key or "",
            )
            stack.callback(app.close)
            stack.callback(app.drop)
            app.create()
            app.load()
            app.start()
            app.wait_for_writes(20)
            config = source.config(name, tmp_path, link=(app.link(),))
            wiring.create_repository(config.repository)
            made = wiring.backup(config, SilentReporter(), SystemClock())
            app.quiesce()
            return _restore(target, name, config, made.manifest.id, stack)

        yield run


def _restore(
    target: Side, name: str, config: Config, backup: str, stack: ExitStack
) -> tuple[RestoreResult, Any]:
    back = f"{name}_back"
    there = target.config(back, config.watermark.work_dir or Path())
    there = there.model_copy(update={"repository": config.repository})
    # vbackup never drops the database that its DSN names: restore through the maintenance one.
    admin = there.postgres.model_copy(update={"dsn": SecretStr(target.postgres.admin_dsn)})
    there = there.model_copy(update={"postgres": admin})
    stack.callback(wiring.record_target(there).drop, back)
    key = target.qdrant.api_key or ""
    store = stack.enter_context(VectorStore(target.qdrant.url, back, api_key=key))
    stack.callback(store.drop)
    options = RestoreOptions(database=back, collection_suffix="_back")
    result = restoring.restore(there, backup, SilentReporter(), SystemClock(), options)
    return result, compare(target.postgres.dsn(back), store, replace(SCENARIO))


def _judge(result: RestoreResult, found: Any) -> None:
    assert result.clean
    assert found.wrong == set()
    assert found.missing == {line.key for line in result.applied.reembed}
    assert found.live > 100


@pytest.mark.parametrize(("postgres", "qdrant"), list(product(POSTGRES, QDRANT)))
def test_every_supported_pair_comes_back_exact(
    postgres: int, qdrant: str, move: Any, postgres_servers: Any, qdrant_servers: Any
) -> None:
    side = Side(postgres_servers(postgres), qdrant_servers(qdrant))
    _judge(*move(side, side))


@pytest.mark.parametrize(
    ("old", "new"),
    [((15, "1.16.3"), (18, "1.17.0")), ((16, "1.16.3"), (18, "1.17.0"))],
    ids=["15 to 18", "16 to 18"],
)
def test_a_pair_moves_to_newer_servers(
    old: tuple[int, str],
    new: tuple[int, str],
    move: Any,
    postgres_servers: Any,
    qdrant_servers: Any,
) -> None:
    source = Side(postgres_servers(old[0]), qdrant_servers(old[1]))
    target = Side(postgres_servers(new[0]), qdrant_servers(new[1]))
    _judge(*move(source, target))


def test_a_pair_is_not_restored_into_an_older_postgres(
    move: Any, postgres_servers: Any, qdrant_servers: Any
) -> None:
    from vbackup.errors import Refused

    new = Side(postgres_servers(18), qdrant_servers("1.17.0"))
    old = Side(postgres_servers(16), qdrant_servers("1.17.0"))
    with pytest.raises(Refused, match="is PostgreSQL 16, the backup is of PostgreSQL 18"):
        move(new, old)
