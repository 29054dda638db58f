"""Builds the adapters that a configuration asks for. The only place that knows them all.

Imports are inside the functions: a command loads the drivers it uses, and no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vbackup.clock import SystemClock
from vbackup.errors import Usage

if TYPE_CHECKING:
    from vbackup.config import Config, PostgresConfig, QdrantConfig, RepositoryConfig
    from vbackup.ports import Clock, ObjectStore, RecordTarget, Reporter
    from vbackup.postgres.source import PostgresSource
    from vbackup.qdrant.source import QdrantSource
    from vbackup.qdrant.target import QdrantTarget
    from vbackup.repository.repository import Repository, RepositoryOptions


def reporter(
    clock: Clock,
    *,
    quiet: bool = False,
    verbosity: int = 0,
    log_format: Literal["text", "json"] = "text",
    terminal: bool = False,
) -> Reporter:
    """Where progress and notes go; sets up the logs of libraries too."""
    from vbackup.logs import configure
    from vbackup.progress import LogReporter, TerminalReporter

    configure(log_format, -1 if quiet else verbosity)
    if terminal and not quiet and log_format == "text":
        return TerminalReporter(clock)
    return LogReporter(clock)


def object_store(config: RepositoryConfig, clock: Clock | None = None) -> ObjectStore:
    """The bucket prefix or directory. Nothing is contacted yet."""
    from vbackup.storage import open_store

    return open_store(config, clock or SystemClock())


def create_repository(config: RepositoryConfig, clock: Clock | None = None) -> Repository:
    """Raises AlreadyExists when there is one."""
    from vbackup.passphrase import configured
    from vbackup.repository.repository import Repository

    return Repository.create(
        object_store(config, clock),
        passphrase=configured(config),
        options=_options(config),
        clock=clock,
    )


def open_repository(config: RepositoryConfig, clock: Clock | None = None) -> Repository:
    """Raises NotFound, Denied (before any work), Unreachable."""
    from vbackup.passphrase import configured
    from vbackup.repository.repository import Repository

    return Repository.open(
        object_store(config, clock),
        passphrase=configured(config),
        options=_options(config),
        clock=clock,
    )


def record_source(
    config: Config,
    clock: Clock | None = None,
    reporter: Reporter | None = None,
    *,
    row_identity: bool = False,
) -> PostgresSource:
    """The database that is backed up. Its `close` ends the session that it keeps.

    `row_identity` is for backups: rows whose link says no version are told apart by xmin."""
    from vbackup.postgres.source import PostgresSource

    return PostgresSource(
        config.postgres,
        config.watermark,
        clock=clock or SystemClock(),
        reporter=reporter,
        row_identity=row_identity,
    )


def record_target(
    config: Config,
    dsn: str | None = None,
    clock: Clock | None = None,
    reporter: Reporter | None = None,
) -> RecordTarget:
    """`dsn` names another server than the configured one."""
    from vbackup.postgres.target import PostgresTarget

    return PostgresTarget(
        _postgres(config, dsn),
        config.watermark,
        clock=clock or SystemClock(),
        reporter=reporter,
    )


def point_source(config: Config, clock: Clock | None = None) -> QdrantSource:
    """The Qdrant deployment that is backed up. Its `close` ends its connections."""
    from vbackup.qdrant.source import QdrantSource

    return QdrantSource(_qdrant(config, None), clock or SystemClock())


def point_target(
    config: Config, url: str | None = None, clock: Clock | None = None
) -> QdrantTarget:
    """`url` names another deployment than the configured one."""
    from vbackup.qdrant.target import QdrantTarget

    return QdrantTarget(_qdrant(config, url), clock or SystemClock())


def _options(config: RepositoryConfig) -> RepositoryOptions:
    from vbackup.repository.repository import RepositoryOptions

    return RepositoryOptions(
        chunk_size=config.chunk_size,
        pack_size=config.pack_size,
        compression_level=config.compression_level,
        upload_jobs=config.upload_jobs,
    )


def _postgres(config: Config, dsn: str | None) -> PostgresConfig:
    from pydantic import SecretStr

    if dsn is None:
        return config.postgres
    return config.postgres.model_copy(update={"dsn": SecretStr(dsn)})


def _qdrant(config: Config, url: str | None) -> QdrantConfig:
    if config.qdrant is None:
        raise Usage("no [qdrant] section in the configuration", hint="add one, or use pgvector")
    return config.qdrant.model_copy(update={"url": url, "nodes": ()}) if url else config.qdrant
