"""Wires restore drills: throwaway servers of the sandbox, or servers that `[drill]` names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from vbackup.config import DrillConfig, PostgresConfig, QdrantConfig, WatermarkConfig
from vbackup.engine.drill import Drill, Ground
from vbackup.postgres.blame import lacking
from vbackup.postgres.question import ask, conninfo
from vbackup.postgres.roles import create_roles
from vbackup.postgres.target import PostgresTarget
from vbackup.postgres.vectors import PgvectorPoints
from vbackup.sandbox import shell
from vbackup.sandbox.ledger import remove_tree
from vbackup.sandbox.nearest import nearest_postgres, nearest_qdrant
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.qdrant import QdrantOptions
from vbackup.sandbox.sandbox import Options, Sandbox, new_directory, sweep, throwaway
from vbackup.settings import register_passwords

if TYPE_CHECKING:
    from vbackup.model.manifest import Manifest
    from vbackup.ports import Clock, Reporter, Repository
    from vbackup.qdrant.nearest import Neighbours
    from vbackup.qdrant.target import QdrantTarget


def drill(config: DrillConfig, repository: Repository, reporter: Reporter, clock: Clock) -> Drill:
    """A drill as the configuration says. Nothing is started yet."""
    return Drill(
        repository=repository,
        open_ground=_Grounds(config, reporter, clock).open,
        checks=config.check,
        reporter=reporter,
        clock=clock,
    )


class _Grounds:
    """Makes the servers of a drill ready, and takes away again what it started."""

    def __init__(self, config: DrillConfig, reporter: Reporter, clock: Clock) -> None:
        self._config = config
        self._reporter = reporter
        self._clock = clock

    @contextmanager
    def open(self, manifest: Manifest) -> Iterator[Ground]:
        """Servers for the length of a block. Raises NotFound, Failed, Usage, Denied."""
        with_points = manifest.qdrant is not None
        with ExitStack() as stack:
            sandbox = self._sandbox(stack, self._options(manifest))
            work = self._work_dir(stack, sandbox)
            postgres = self._postgres(sandbox)
            qdrant = self._qdrant(sandbox) if with_points else None
            yield self._ground(stack, manifest, postgres, qdrant, work)

    def _sandbox(self, stack: ExitStack, options: Options) -> Sandbox | None:
        """The throwaway servers; first those go that a killed drill left."""
        if not (options.postgres or options.qdrant):
            return None
        parent = self._config.work_dir
        sweep(parent)
        directory = new_directory(parent)
        stack.callback(remove_tree, directory)
        return stack.enter_context(throwaway(options, directory, reporter=self._reporter))

    def _work_dir(self, stack: ExitStack, sandbox: Sandbox | None) -> Path:
        """Within the sandbox, where there is one: what finds that after a crash finds this."""
        if sandbox:
            work = sandbox.directory / "work"
            work.mkdir(mode=0o700)
            return work
        parent = self._config.work_dir
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="vbackup-drill-", dir=parent)
        return Path(stack.enter_context(scratch))

    def _options(self, manifest: Manifest) -> Options:
        """What the sandbox must start: the versions of the backup, or those nearest to them."""
        config, facts = self._config, manifest.postgres.facts
        postgres = qdrant = None
        if config.postgres is None:
            found = nearest_postgres(facts.server_version_num // 10000, config.postgres_bin_dir)
            postgres = PostgresOptions(found.major, found.directory)
        if manifest.qdrant and config.qdrant is None:
            program = nearest_qdrant(manifest.qdrant.server_version, config.qdrant_bin)
            cluster = any(part.custom_sharding for part in manifest.qdrant.collections)
            qdrant = QdrantOptions(program.version, config.qdrant_bin, cluster=cluster or None)
        return Options(postgres=postgres, qdrant=qdrant, s3=False)

    def _postgres(self, sandbox: Sandbox | None) -> PostgresConfig:
        config = self._config
        dsn = config.postgres or SecretStr(sandbox.postgres.admin_dsn if sandbox else "")
        register_passwords(dsn.get_secret_value())
        return PostgresConfig(dsn=dsn, jobs=config.jobs, bin_dir=config.postgres_bin_dir)

    def _qdrant(self, sandbox: Sandbox | None) -> QdrantConfig:
        config = self._config
        url = config.qdrant or (sandbox.qdrant.url if sandbox else None)
        return QdrantConfig(url=url, api_key=config.qdrant_api_key if config.qdrant else None)

    def _ground(
        self,
        stack: ExitStack,
        manifest: Manifest,
        postgres: PostgresConfig,
        qdrant: QdrantConfig | None,
        work: Path,
    ) -> Ground:
        watermark = WatermarkConfig(work_dir=work)
        records = PostgresTarget(postgres, watermark, clock=self._clock, reporter=self._reporter)
        points, neighbours = self._searchable(stack, qdrant)
        disposable = self._config.postgres is None and self._config.qdrant is None
        servers = {"PostgreSQL": _version(postgres)}
        if points and qdrant:
            servers["Qdrant"] = points.reader().facts(()).server_version
        return Ground(
            records=records,
            points=points,
            ask=partial(ask, postgres),
            nearest=neighbours.nearest if neighbours else None,
            run=_run,
            environment=_environment(postgres, qdrant),
            lacking=lacking,
            create_roles=partial(create_roles, postgres) if not self._config.postgres else None,
            work_dir=work,
            servers=servers,
            differs=tuple(_differences(manifest, servers)),
            disposable=disposable,
            vectors=PgvectorPoints,
        )

    def _searchable(
        self, stack: ExitStack, qdrant: QdrantConfig | None
    ) -> tuple[QdrantTarget | None, Neighbours | None]:
        if qdrant is None:
            return None, None
        from vbackup.qdrant.nearest import Neighbours
        from vbackup.qdrant.target import QdrantTarget

        points = stack.enter_context(closing(QdrantTarget(qdrant, self._clock)))
        return points, stack.enter_context(closing(Neighbours(qdrant)))


def _version(config: PostgresConfig) -> str:
    """What the server says of itself."""
    return str(ask(config, None, "SHOW server_version", config.connect_timeout)).split()[0]


def _differences(manifest: Manifest, servers: Mapping[str, str]) -> Iterator[str]:
    """Other versions than the backup's, as far as they could matter to a restore."""
    origin = manifest.postgres.facts.server_version_num // 10000
    if origin != int(servers["PostgreSQL"].split(".")[0]):
        yield f"PostgreSQL is {servers['PostgreSQL']} here, the backup is of {origin}"
    wanted = manifest.qdrant.server_version if manifest.qdrant else ""
    if wanted != servers.get("Qdrant", ""):
        yield f"Qdrant is {servers['Qdrant']} here, the backup is of {wanted}"


def _run(command: str, environment: Mapping[str, str], timeout: float) -> tuple[int | None, str]:
    ran = shell.run(command, environment, timeout)
    return ran.code, ran.said


def _environment(
    postgres: PostgresConfig, qdrant: QdrantConfig | None
) -> Callable[[str], dict[str, str]]:
    """What a check's command is told, for a database."""

    def environment(database: str) -> dict[str, str]:
        found = {
            "VBACKUP_DRILL_DSN": conninfo(postgres, database),
            "VBACKUP_DRILL_DATABASE": database,
        }
        if qdrant:
            key = qdrant.api_key.get_secret_value() if qdrant.api_key else ""
            found["VBACKUP_DRILL_QDRANT_URL"] = qdrant.urls[0]
            found["VBACKUP_DRILL_QDRANT_API_KEY"] = key
        return found

    return environment
