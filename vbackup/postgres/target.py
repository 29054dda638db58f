"""The server that a database is restored into: the RecordTarget that the engine knows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from vbackup.config import PostgresConfig, WatermarkConfig
from vbackup.errors import Failed, NotFound, Refused
from vbackup.model.manifest import PostgresPart
from vbackup.model.tenancy import KeptTable, MergedTable, TenantTable
from vbackup.ports import Clock, Reporter
from vbackup.postgres import client_tools, databases, preflight, renaming
from vbackup.postgres.connection import (
    Connection,
    connect,
    maintenance,
    one,
    parameters,
    reached,
    session,
)
from vbackup.postgres.failures import translated
from vbackup.postgres.merging import merge
from vbackup.postgres.narrowing import narrow
from vbackup.postgres.process import environment
from vbackup.postgres.properties import apply_properties
from vbackup.postgres.restore import OpenArtifact, Restore, counted, grant_one_by_one, quiet
from vbackup.postgres.source import PostgresSource

_INDEX_MEMORY = 2 * 1024**3


class PostgresTarget:
    """RecordTarget over one server; the DSN's database need not exist."""

    def __init__(
        self,
        config: PostgresConfig,
        watermark: WatermarkConfig | None = None,
        *,
        clock: Clock,
        reporter: Reporter | None = None,
    ) -> None:
        self._config = config
        self._watermark = watermark or WatermarkConfig()
        self._clock = clock
        self._reporter = reporter
        # By database that was created here: warnings to return when it is loaded.
        self._created: dict[str, list[str]] = {}

    def preflight(self, part: PostgresPart, database: str) -> list[str]:
        """Everything that would make the restore fail, found before anything is created. Empty
        when all is well. Raises Denied, Unreachable when the server cannot be looked at."""
        with self._maintenance("looking at the server") as connection:
            return preflight.problems(connection, self._config, part, database)

    def prepare(self, part: PostgresPart, database: str) -> None:
        """Create the empty database, as the backed up one was. Raises AlreadyExists, Denied."""
        with self._maintenance(f'creating database "{database}"') as connection:
            self._created[database] = databases.create(connection, part.facts, database)

    def load(
        self,
        part: PostgresPart,
        database: str,
        open_artifact: OpenArtifact,
        report: Reporter,
    ) -> list[str]:
        """Restore schema, data, then indexes and constraints. Statistics are left to `analyze`.

        Returns warnings: owners and privileges that this server has no roles for, a locale that
        it does not have. Raises Failed on anything else, with the object.
        """
        main = next((dump for dump in part.dumps if dump.kind == "main"), None)
        if main is None:
            raise NotFound("the backup has no main archive of its database")
        tables = [dump for dump in part.dumps if dump.kind == "table"]
        connection = connect(self._config, database=database)
        with closing(connection), translated(f'restoring database "{database}"'):
            restore = self._restore(connection, part)
            total = sum(dump.artifact.length for dump in (main, *tables))
            with self._spooled() as path, report.step("restore rows", total=total) as step:
                step.detail("fetching the main archive")
                main_blocks = counted(open_artifact(main), step)
                with closing(main_blocks), path.open("wb") as spool:
                    spool.writelines(main_blocks)
                restore.run(path, tables, open_artifact, step)
                if restore.superuser:
                    grant_one_by_one(connection, restore.retry)
                restore.warnings += apply_properties(
                    connection,
                    restore.tools,
                    path,
                    environment(restore.params),
                    part.facts.database,
                )
        return self._created.get(database, []) + restore.warnings

    def analyze(self, database: str, report: Reporter) -> None:
        """Gather the statistics that plans of queries need: a dump has none. Raises Failed."""
        doing = f'gathering the statistics of database "{database}"'
        with (
            session(self._config, database=database, doing=doing) as connection,
            report.step("analyze", unit="tables"),
        ):
            connection.execute("ANALYZE")

    def narrow(
        self, database: str, tables: Sequence[TenantTable], tenant: str
    ) -> tuple[list[KeptTable], list[str]]:
        """Leave only one tenant's rows of a database that was restored (postgres.narrowing).

        Raises NotFound, Refused (also for a database that was not prepared here), Usage."""
        if database not in self._created:
            raise Refused(f'database "{database}" was not restored just now: nothing is removed')
        with closing(connect(self._config, database=database)) as connection:
            return narrow(connection, tables, tenant)

    def merge(
        self,
        database: str,
        tables: Sequence[TenantTable],
        tenant: str,
        save: Callable[[Mapping[str, object]], None],
        saved: Callable[[], None],
    ) -> list[MergedTable]:
        """Bring the rows of a narrowed database back into the one that the DSN names
        (postgres.merging). Raises Refused, Usage; NotFound when there is no live database."""
        with (
            closing(connect(self._config, database=database)) as source,
            closing(connect(self._config)) as live,
        ):
            return merge(source, live, tables, tenant, save, saved)

    def drop(self, database: str) -> None:
        """Remove a database and end its sessions; one that does not exist is fine.

        Raises Refused for the database that the DSN names, unless it was prepared here.
        """
        if database == self._live() and database not in self._created:
            raise Refused(
                f'database "{database}" is the live one', hint="drop it by hand if you mean it"
            )
        self._created.pop(database, None)
        with self._maintenance(f'dropping database "{database}"', database) as connection:
            databases.drop(connection, database)

    def swap(self, live: str, restored: str, keep_as: str) -> None:
        """Rename live to keep_as and restored to live, both or neither; a live database that is
        gone is not missed.

        Raises NotFound, AlreadyExists, Refused while sessions remain.
        """
        self._created.pop(restored, None)
        doing = f'switching database "{live}" to "{restored}"'
        with self._maintenance(doing, live, restored) as connection:
            renaming.swap(connection, live, restored, keep_as, self._clock)

    def rename(self, database: str, new: str) -> None:
        """Raises NotFound, AlreadyExists, Refused while sessions remain."""
        with self._maintenance(f'renaming database "{database}"', database) as connection:
            renaming.move(connection, [(database, new)], self._clock)

    def reopen(self, database: str) -> None:
        """Let sessions in again after a crash in the middle of `swap`."""
        with self._maintenance(f'opening database "{database}"', database) as connection:
            renaming.reopen(connection, database)

    def exists(self, database: str) -> bool:
        """Whether the server has a database of this name."""
        with self._maintenance("looking for databases") as connection:
            return databases.exists(connection, database)

    def source(self, database: str) -> PostgresSource:
        """The restored database, to reconcile it."""
        return PostgresSource(
            self._config,
            self._watermark,
            clock=self._clock,
            reporter=self._reporter,
            database=database,
        )

    def _live(self) -> str | None:
        """The database that the DSN leads to, by libpq's rules."""
        params = parameters(self._config)
        return params.get("dbname") or os.environ.get("PGDATABASE") or params.get("user")

    def _restore(self, connection: Connection, part: PostgresPart) -> Restore:
        major = client_tools.major_of(part.client_version)
        rows = connection.execute("SELECT rolname FROM pg_catalog.pg_roles")
        (superuser,) = one(
            connection, "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
        )
        tools = client_tools.for_restore(self._config, major)
        return Restore(
            tools=tools,
            params=_for_restore(connection, self._config),
            jobs=self._config.jobs,
            workers=quiet(tools.major, connection.info.server_version // 10_000),
            roles=frozenset(str(name) for (name,) in rows),
            superuser=bool(superuser),
        )

    @contextmanager
    def _spooled(self) -> Iterator[Path]:
        """A file for the main archive, which pg_restore reads three times."""
        try:
            directory = tempfile.TemporaryDirectory(prefix="vbackup-", dir=self._watermark.work_dir)
            with directory as name:
                yield Path(name) / "main.dump"
        except OSError as error:
            raise Failed(
                f"the main archive could not be kept in a file: {error.strerror}",
                hint="set watermark.work_dir to a directory with enough space",
            ) from error

    @contextmanager
    def _maintenance(self, doing: str, *avoid: str) -> Iterator[Connection]:
        connection = maintenance(self._config, avoid)
        with closing(connection), translated(doing):
            yield connection


def _for_restore(connection: Connection, config: PostgresConfig) -> dict[str, str]:
    """How pg_restore connects: no commit waits for the disk (the last one makes all durable), and
    the indexes built at a time share memory and workers (`index_settings`)."""
    (current, shared, each, all_workers) = one(
        connection,
        "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')),"
        " pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')),"
        " pg_catalog.current_setting('max_parallel_maintenance_workers')::int,"
        " pg_catalog.current_setting('max_parallel_workers')::int",
    )
    settings = {"synchronous_commit": "off"} | index_settings(
        config, int(str(current)), int(str(shared)), int(str(each)), int(str(all_workers))
    )
    params = reached(connection)
    before = params.get("options") or os.environ.get("PGOPTIONS", "")
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return {**params, "options": f"{before} {options}".strip()}


def index_settings(
    config: PostgresConfig, memory: int, shared_buffers: int, workers: int, all_workers: int
) -> dict[str, str]:
    """What an index build of a restore may use, by what the server has set (bytes, processes).

    Unless the configuration says how much, the builds that run at a time share as much memory as
    half of the shared buffers. They share the server's parallel workers, unless it wants none:
    a parallel build of an HNSW index takes all its memory out of /dev/shm, which may be small."""
    wanted = config.maintenance_work_mem
    if wanted is None:
        wanted = max(memory, min(shared_buffers // 2 // config.jobs, _INDEX_MEMORY))
    each = max(workers, all_workers // config.jobs) if workers else 0
    # The server takes at least 1 MB.
    return {
        "maintenance_work_mem": f"{max(1024, wanted // 1024)}kB",
        "max_parallel_maintenance_workers": str(each),
    }
