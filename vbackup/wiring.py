"""Builds the adapters that a configuration asks for. The only place that knows them all.

Imports are inside the functions: a command loads the drivers it uses, and no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vbackup.clock import SystemClock
from vbackup.errors import Usage

if TYPE_CHECKING:
    from vbackup.config import Config, PostgresConfig, QdrantConfig
    from vbackup.ports import (
        Clock,
        ObjectStore,
        PointSource,
        PointTarget,
        RecordSource,
        RecordTarget,
        Reporter,
    )
    from vbackup.repository.repository import Repository


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


def object_store(config: Config, clock: Clock | None = None) -> ObjectStore:
    from vbackup.storage.open import open_store

    return open_store(config.repository, clock or SystemClock())


def create_repository(config: Config, clock: Clock | None = None) -> Repository:
    """Raises AlreadyExists when there is one."""
    from vbackup.passphrase import configured
    from vbackup.repository.repository import Repository

    return Repository.create(
        object_store(config, clock), config.repository, configured(config.repository)
    )


def open_repository(config: Config, clock: Clock | None = None) -> Repository:
    """Raises NotFound, Denied (before any work), Unreachable."""
    from vbackup.passphrase import configured
    from vbackup.repository.repository import Repository

    return Repository.open(
        object_store(config, clock), config.repository, configured(config.repository)
    )


def record_source(config: Config, clock: Clock | None = None) -> RecordSource:
    from vbackup.postgres.source import PostgresSource

    return PostgresSource(config.postgres, config.watermark, clock or SystemClock())


def record_target(config: Config, dsn: str | None = None) -> RecordTarget:
    """`dsn` names another server than the configured one."""
    from vbackup.postgres.target import PostgresTarget

    return PostgresTarget(_postgres(config, dsn))


def point_source(config: Config, clock: Clock | None = None) -> PointSource:
    from vbackup.qdrant.source import QdrantSource

    return QdrantSource(_qdrant(config, None), clock or SystemClock())


def point_target(config: Config, url: str | None = None, clock: Clock | None = None) -> PointTarget:
    """`url` names another deployment than the configured one."""
    from vbackup.qdrant.target import QdrantTarget

    return QdrantTarget(_qdrant(config, url), clock or SystemClock())


def _postgres(config: Config, dsn: str | None) -> PostgresConfig:
    from pydantic import SecretStr

    if dsn is None:
        return config.postgres
    return config.postgres.model_copy(update={"dsn": SecretStr(dsn)})


def _qdrant(config: Config, url: str | None) -> QdrantConfig:
    if config.qdrant is None:
        raise Usage("no [qdrant] section in the configuration", hint="add one, or use pgvector")
    return config.qdrant.model_copy(update={"url": url, "nodes": ()}) if url else config.qdrant
