"""Links are found in the pairs of the demo's application, whatever its keys and habits are."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from vbackup.cli import discovered, template
from vbackup.clock import SystemClock
from vbackup.config import Config, PostgresConfig, QdrantConfig
from vbackup.demo.application import Application
from vbackup.demo.scenario import Scenario
from vbackup.engine.discover import Discover, Discovery
from vbackup.postgres.catalog import KeyCatalog
from vbackup.progress import SilentReporter
from vbackup.qdrant.source import QdrantSource
from vbackup.sandbox.servers import PostgresServer, QdrantServer

pytestmark = pytest.mark.integration


@pytest.fixture
def applications(
    postgres_server: PostgresServer, qdrant_server: QdrantServer, collection_prefix: str
) -> Iterator[Callable[[Scenario], Application]]:
    """`applications(scenario)` makes and loads one."""
    with ExitStack() as stack:

        def make(scenario: Scenario) -> Application:
            app = Application(
                postgres_server.admin_dsn,
                qdrant_server.url,
                f"{collection_prefix}app",
                scenario,
                api_key=qdrant_server.api_key or "",
            )
            stack.callback(app.close)
            app.create()
            stack.callback(app.drop)
            app.load()
            return app

        yield make


def look(dsn: str, server: QdrantServer, *names: str) -> Discovery:
    key = SecretStr(server.api_key) if server.api_key else None
    options = QdrantConfig(nodes=server.urls, api_key=key)
    with (
        closing(KeyCatalog(PostgresConfig(dsn=SecretStr(dsn)))) as catalog,
        closing(QdrantSource(options, SystemClock())) as points,
    ):
        facts = points.facts(names).collections
        return Discover(catalog, points, SilentReporter()).run(facts)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("keys", ["int", "uuid"])
@pytest.mark.parametrize(
    ("link", "points"), [("id", "one"), ("payload", "one"), ("payload", "many")]
)
def test_the_demos_link_is_found(
    applications: Callable[[Scenario], Application],
    qdrant_server: QdrantServer,
    keys: Any,
    link: Any,
    points: Any,
    versioned: bool,
) -> None:
    scenario = Scenario(
        rows=600, dimensions=4, keys=keys, link=link, points=points, versioned=versioned
    )
    app = applications(scenario)
    # Rows that have nothing to do with the points, under keys that small integers fit.
    with psycopg.connect(app.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total int, version int)")
        connection.execute(
            "INSERT INTO orders SELECT n, n * 7 % 90, 1 FROM generate_series(1, 9999) n"
        )
        connection.execute("CREATE TABLE carts (id uuid PRIMARY KEY DEFAULT gen_random_uuid())")
        connection.execute("INSERT INTO carts SELECT FROM generate_series(1, 900)")
        connection.execute("ANALYZE")
    found = look(app.dsn, qdrant_server, app.name)
    (best,) = found.proposals
    assert (best.table, best.key) == ("public.chunks", "id"), found
    assert best.ref == ("id" if link == "id" else "payload:chunk_id")
    assert best.match_rate >= 0.95
    assert best.row_rate is not None
    assert best.row_rate >= 0.95
    assert best.cardinality == points
    assert best.version is not None
    assert (best.version.column, best.version.path) == ("version", scenario.version_key)
    assert best.count == ("points" if points == "many" else None)
    assert {other.table for other in found.alternatives} <= {"public.chunks", "public.documents"}
    written = Config.model_validate(
        tomllib.loads(template.with_links(template.example(), discovered.toml(found)))
    )
    (entry,) = written.link
    expected = app.link()
    assert entry.collection == expected.collection
    assert entry.point.ref == expected.point.ref
    assert entry.point.cardinality == expected.point.cardinality
    assert entry.rows[0].key == expected.rows[0].key


def vbackup(config: Path, *arguments: str) -> Any:
    """The JSON document of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "vbackup", *arguments, "--config", str(config), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def test_the_written_configuration_reconciles(
    applications: Callable[[Scenario], Application],
    qdrant_server: QdrantServer,
    tmp_path: Path,
) -> None:
    app = applications(Scenario(rows=300, dimensions=4, link="payload", points="many"))
    path = tmp_path / "vbackup.toml"
    first = ("init", "--discover", "--no-encryption", "--postgres", app.dsn)
    told = vbackup(path, *first, "--qdrant", qdrant_server.url)
    mine = next(p for p in told["proposals"] if p["collection"] == app.name)
    assert mine["match_rate"] == 1
    assert told["config_written"]
    report = vbackup(path, "reconcile", "--link", mine["name"])
    assert report["clean"]
    assert report["links"][0]["rows"] == 300
    # A second look changes nothing and proposes the same.
    before = path.read_text(encoding="utf-8")
    again = vbackup(path, "init", "--discover")
    assert not again["config_written"]
    assert [p["name"] for p in again["proposals"]] == [p["name"] for p in told["proposals"]]
    assert path.read_text(encoding="utf-8") == before
