"""Documents with vectors in PostgreSQL alone, in their own table or beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from vbackup import drilling, restoring, wiring
from vbackup.cli.preflight import Check, Preflight
from vbackup.clock import SystemClock
from vbackup.config import Config
from vbackup.engine.backup import BackupResult
from vbackup.engine.drill import DrillResult
from vbackup.engine.inplace import InPlaceRestore, InPlaceResult
from vbackup.engine.proof import RestoreResult
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, ReconcileResult
from vbackup.engine.repair import RepairOptions
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.engine.vectors import VectorPair
from vbackup.model.finding import Finding
from vbackup.progress import SilentReporter
from vbackup.reconciling import repairer
from vbackup.sandbox.servers import PostgresServer
from vbackup.settings import Settings

OWN = {"column": "embedding", "version": "embedded", "dimensions": 3}
APART = {
    "table": "public.embeddings",
    "key": "document",
    "column": "embedding",
    "version": "version",
    "dimensions": 3,
}
_SCHEMA = """
CREATE EXTENSION vector;
CREATE TABLE documents (
    id {key} PRIMARY KEY, version bigint NOT NULL, live boolean NOT NULL DEFAULT true,
    embedding vector, embedded bigint
);
CREATE TABLE embeddings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document {key}, version bigint, embedding vector NOT NULL
);
"""


@dataclass
class Documents:
    """An application whose vectors are in its database, and vbackup looking at it."""

    dsn: str
    server: PostgresServer
    apart: bool
    tmp_path: Path
    links: list[dict[str, object]] = field(default_factory=list)

    def link(self, **changes: object) -> dict[str, object]:
        rows = {"table": "public.documents", "key": "id", "version": "version", "live": "live"}
        vectors = APART if self.apart else OWN
        return {"name": "documents", "rows": [rows], "vectors": vectors, **changes}

    @property
    def config(self) -> Config:
        return Config.model_validate(
            {
                "postgres": {"dsn": self.dsn, "bin_dir": self.server.bin_dir},
                "repository": {"url": (self.tmp_path / "repo").as_uri(), "encryption": "none"},
                "watermark": {"max_index_lag": "0s", "work_dir": str(self.tmp_path / "work")},
                "vectors": {"engine": "pgvector"},
                "link": self.links or [self.link()],
            }
        )

    # ------------------------------------------------------------ the application

    def run(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    def row(self, key: object, version: int = 1, *, live: bool = True) -> None:
        self.run(
            "INSERT INTO documents (id, version, live) VALUES (%s, %s, %s)", key, version, live
        )

    def vector(self, key: object, version: int | None = 1, value: str = "[1,2,3]") -> None:
        if self.apart:
            self.run(
                "INSERT INTO embeddings (document, version, embedding) VALUES (%s, %s, %s::vector)",
                key, version, value,
            )  # fmt: skip
            return
        self.run(
            "UPDATE documents SET embedding = %s::vector, embedded = %s WHERE id = %s",
            value, version, key,
        )  # fmt: skip

    # ------------------------------------------------------------ vbackup

    def reconcile(
        self, sink: Callable[[Finding], None] | None = None, **options: object
    ) -> ReconcileResult:
        links = wiring.links(self.config)
        with closing(wiring.record_source(self.config)) as records:
            pair = VectorPair(records, wiring.vectors(), links)
            return Reconcile(
                links=links,
                ignore=(),
                open_rows=pair.open_rows,
                points=pair,
                names={link.collection: () for link in links},
                options=ReconcileOptions(**{"confirm": False, **options}),  # type: ignore[arg-type]
                reporter=SilentReporter(),
                clock=SystemClock(),
                noticed=pair.warnings,
            ).run(sink)

    def findings(self) -> dict[tuple[str, str | None], Finding]:
        found: list[Finding] = []
        self.reconcile(found.append)
        return {(finding.kind, finding.key): finding for finding in found}

    def backup(self) -> BackupResult:
        config = self.config
        if not (self.tmp_path / "repo").exists():
            wiring.create_repository(config.repository)
        return wiring.backup(config, SilentReporter(), SystemClock())

    def restore(self, backup: BackupResult) -> RestoreResult:
        options = RestoreOptions(database=self.restored)
        return restoring.restore(
            self.config, backup.manifest.id, SilentReporter(), SystemClock(), options
        )

    def restore_in_place(self, backup: BackupResult) -> InPlaceResult:
        options = RestoreOptions(in_place=True)
        with (
            restoring.restorer(self.config, SilentReporter(), SystemClock()) as restore,
            restoring.switch(self.config, SilentReporter(), SystemClock()) as switch,
        ):
            plan = restore.plan(backup.manifest.id, options)
            live = plan.manifest.postgres.facts.database
            done = InPlaceRestore(restore, switch, live, self.tmp_path).run(plan, options)
            switch.drop_old(done.state)
            return done

    def check(self) -> dict[str, Check]:
        preflight = Preflight(Settings(self.config, self.tmp_path / "c.toml", ()), SystemClock())
        preflight.run()
        return {check.name: check for check in preflight.checks}

    def drill(self, backup_id: str) -> DrillResult:
        config = self.config.drill.model_copy(
            update={"postgres": SecretStr(self.server.admin_dsn), "postgres_bin_dir": self.bin_dir}
        )
        repository = wiring.open_repository(self.config.repository)
        return drilling.drill(config, repository, SilentReporter(), SystemClock()).run(backup_id)

    def repair(self) -> None:
        with repairer(
            self.config, SilentReporter(), SystemClock(), lambda _: None, self.tmp_path
        ) as fix:
            fix.run([], [], list, RepairOptions(frozenset(), self.tmp_path / "removed"))

    @property
    def bin_dir(self) -> Path | None:
        return Path(self.server.bin_dir) if self.server.bin_dir else None

    @property
    def restored(self) -> str:
        return f"{psycopg.conninfo.conninfo_to_dict(self.dsn)['dbname']}_restored"

    def close(self) -> None:
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE IF EXISTS "{self.restored}" WITH (FORCE)'.encode())


@pytest.fixture(params=[False, True], ids=["own-column", "own-table"])
def apart(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[16, 18])
def documents(
    request: pytest.FixtureRequest,
    postgres_servers: Callable[[int], PostgresServer],
    new_database: Callable[[PostgresServer], str],
    apart: bool,
    tmp_path: Path,
) -> Iterator[Documents]:
    """A database with `documents` whose keys are integers; vectors where `apart` says."""
    server = postgres_servers(request.param)
    made = Documents(new_database(server), server, apart, tmp_path)
    made.run(_SCHEMA.format(key="bigint"))
    with closing(made):
        yield made
