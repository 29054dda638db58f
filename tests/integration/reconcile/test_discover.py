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

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from vbackup.cli import discovered, template
from vbackup.clock import SystemClock
from vbackup.config import Config, PostgresConfig, QdrantConfig
from vbackup.demo.application import Application
from vbackup.demo.scenario import Scenario
from vbackup.engine.discover import Discover, Discovery
from vbackup.engine.links import links_of
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, live_rows
from vbackup.postgres.catalog import KeyCatalog
from vbackup.postgres.source import PostgresSource
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


ODD = """
CREATE TABLE bases (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
CREATE TABLE files (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text, deleted_at timestamptz,
    status text NOT NULL, pages int NOT NULL
);
CREATE TABLE base_file (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, base uuid NOT NULL REFERENCES bases,
    file uuid NOT NULL REFERENCES files, revision int NOT NULL, UNIQUE (base, file)
);
CREATE TABLE mails (id bigint PRIMARY KEY, archived boolean NOT NULL, subject text);
INSERT INTO bases (name) SELECT 'base ' || n FROM generate_series(1, 8) n;
INSERT INTO files (body, deleted_at, status, pages)
    SELECT repeat('x', n % 300), CASE WHEN n % 5 = 0 THEN now() END,
           CASE WHEN n % 5 = 0 THEN 'indexed' ELSE (ARRAY['indexed', 'partial'])[n % 2 + 1] END,
           n % 3 + 1
    FROM generate_series(1, 300) n;
INSERT INTO base_file (base, file, revision)
    SELECT b.id, f.id, (row_number() OVER ()) % 7
    FROM bases b CROSS JOIN LATERAL (SELECT id FROM files ORDER BY md5(id::text || b.id::text)
                                     LIMIT 40) f;
INSERT INTO mails SELECT n, n % 4 = 0, 'mail ' || n FROM generate_series(1, 400) n;
ANALYZE;
"""


def test_odd_pairs(database: str, qdrant_server: QdrantServer, collection_prefix: str) -> None:
    """A composite key, rows that are deleted or archived, and a column that counts the points."""
    points: dict[str, list[dict[str, Any]]] = {"files": [], "both": [], "mails": []}
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(ODD)
        for file, pages in connection.execute(
            "SELECT id::text, pages FROM files WHERE deleted_at IS NULL"
        ):
            points["files"] += [{"source": {"file": file}, "page": n} for n in range(pages)]
        for base, file, revision in connection.execute(
            "SELECT base::text, file::text, revision FROM base_file"
        ):
            payload = {"base": base, "meta": {"file": file}, "revision": revision}
            points["both"] += [payload, payload]
        points["mails"] = [
            {"mail_id": number, "subject": subject}
            for number, subject in connection.execute(
                "SELECT id, subject FROM mails WHERE NOT archived"
            )
        ]
    headers = {"api-key": qdrant_server.api_key} if qdrant_server.api_key else {}
    with httpx.Client(base_url=qdrant_server.url, headers=headers, timeout=60) as client:
        for name, payloads in points.items():
            path = f"/collections/{collection_prefix}{name}"
            client.put(path, json={"vectors": {"size": 1, "distance": "Dot"}}).raise_for_status()
            listed = [{"id": n, "vector": [1.0], "payload": p} for n, p in enumerate(payloads)]
            client.put(f"{path}/points?wait=true", json={"points": listed}).raise_for_status()
    found = look(database, qdrant_server, f"{collection_prefix}*")
    best = {p.collection.removeprefix(collection_prefix): p for p in found.proposals}

    files = best["files"]
    assert (files.table, files.refs) == ("public.files", ("payload:source.file",))
    assert (files.cardinality, files.count) == ("many", "pages")
    assert files.condition is not None
    assert files.condition.sql == "deleted_at IS NULL"
    assert (files.condition.inside, files.condition.outside) == (1.0, 0.0)

    both = best["both"]
    assert (both.table, both.keys) == ("public.base_file", ("base", "file"))
    assert both.refs == ("payload:base", "payload:meta.file")
    assert both.version is not None
    assert (both.match_rate, both.row_rate, both.unique) == (1.0, 1.0, True)

    mails = best["mails"]
    assert (mails.table, mails.key) == ("public.mails", "id")
    assert mails.condition is not None
    assert mails.condition.sql == "archived = 'false'"

    # What is written is right: the links that come out of it agree with the pair.
    text = template.with_links(template.example(), discovered.toml(found))
    config = Config.model_validate(tomllib.loads(text))
    key = SecretStr(qdrant_server.api_key) if qdrant_server.api_key else None
    options = QdrantConfig(nodes=qdrant_server.urls, api_key=key)
    postgres = PostgresConfig(dsn=SecretStr(database))
    with (
        closing(PostgresSource(postgres, clock=SystemClock())) as rows,
        closing(QdrantSource(options, SystemClock())) as reader,
    ):
        result = Reconcile(
            links=links_of(config),
            ignore=(),
            open_rows=live_rows(rows),
            points=reader,
            names={f"{collection_prefix}{name}": () for name in points},
            options=ReconcileOptions(confirm=False),
            reporter=SilentReporter(),
            clock=SystemClock(),
        ).run()
    assert result.clean, result.reports
    assert sum(report.points for report in result.reports) == sum(map(len, points.values()))
