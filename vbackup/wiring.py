"""Builds the adapters that a configuration asks for. The only place that knows them all.

Imports are inside the functions: a command loads the drivers it uses, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

from vbackup.clock import SystemClock
from vbackup.errors import Refused, Usage

if TYPE_CHECKING:
    from pathlib import Path

    from vbackup.config import Config, PostgresConfig, QdrantConfig, RepositoryConfig
    from vbackup.engine.attempt import BackupOptions
    from vbackup.engine.backup import BackupResult
    from vbackup.engine.vectors import OpenVectors
    from vbackup.model.link import Link
    from vbackup.model.manifest import Strategy
    from vbackup.ports import Clock, ObjectStore, RecordTarget, Reporter
    from vbackup.ports import Repository as RepositoryPort
    from vbackup.postgres.source import PostgresSource
    from vbackup.qdrant.source import QdrantSource
    from vbackup.qdrant.target import QdrantTarget
    from vbackup.redis.cache import RedisCache
    from vbackup.repository.lease import Lease
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
    from vbackup.progress import LogReporter

    configure(log_format, -1 if quiet else verbosity)
    if not terminal or quiet or log_format != "text":
        return LogReporter(clock)
    from vbackup.bars import TerminalReporter

    return TerminalReporter(clock)


def object_store(config: RepositoryConfig, clock: Clock | None = None) -> ObjectStore:
    """The bucket prefix or directory. Nothing is contacted yet."""
    from vbackup.storage.open import open_store

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
    from vbackup.heap import limit_arenas
    from vbackup.passphrase import configured
    from vbackup.repository.repository import Repository

    limit_arenas()
    return Repository.open(
        object_store(config, clock),
        passphrase=configured(config),
        options=_options(config),
        clock=clock,
    )


@contextmanager
def reading(repository: RepositoryPort, backup_id: str, reporter: Reporter) -> Iterator[None]:
    """While this backup is read, no prune anywhere removes what it needs. Raises NotFound."""
    with repository.reading(backup_id) as problem:
        if problem:
            reporter.warn(
                "prunes cannot be told that this backup is being read: only retention.delete_after"
                " keeps its packs once it is pruned",
                backup=backup_id,
                reason=problem,
            )
        yield


def scheduler_lease(config: RepositoryConfig, clock: Clock) -> Lease:
    """The lease of the one active daemon of a repository. Raises Locked with its holder,
    NotFound, Unreachable."""
    from vbackup.repository import header
    from vbackup.repository.lease import acquire

    store = object_store(config, clock)
    header.check_there(store)
    return acquire(store, clock, "scheduler")


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
        postgres_config(config, dsn),
        config.watermark,
        clock=clock or SystemClock(),
        reporter=reporter,
    )


def point_source(config: Config, clock: Clock | None = None) -> QdrantSource:
    """The Qdrant deployment that is backed up. Its `close` ends its connections."""
    from vbackup.qdrant.source import QdrantSource

    return QdrantSource(qdrant_config(config, None), clock or SystemClock())


def point_target(
    config: Config, url: str | None = None, clock: Clock | None = None
) -> QdrantTarget:
    """`url` names another deployment than the configured one."""
    from vbackup.qdrant.target import QdrantTarget

    return QdrantTarget(qdrant_config(config, url), clock or SystemClock())


def vectors() -> OpenVectors:
    """What reads the vectors that pgvector keeps in a database."""
    from vbackup.postgres.vectors import PgvectorPoints

    return PgvectorPoints


def links(config: Config) -> tuple[Link, ...]:
    """The links of a configuration."""
    from vbackup.engine.links import links_of

    return links_of(config)


def backup(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    *,
    strategy: Strategy | None = None,
    tags: Mapping[str, str] | None = None,
) -> BackupResult:
    """Take one backup. `strategy` None means the configured one."""
    from vbackup.engine.attempt import Pair
    from vbackup.engine.backup import Backup

    with ExitStack() as stack:
        records = record_source(config, clock, reporter, row_identity=True)
        stack.callback(records.close)
        points = point_source(config, clock) if config.qdrant else None
        if points:
            stack.callback(points.close)
        cache = redis_cache(config) if config.redis and config.redis.backup else None
        if cache:
            stack.callback(cache.close)
        return Backup(
            pair=Pair(records, points, cache, vectors()),
            repository=open_repository(config.repository, clock),
            links=links(config),
            ignore=config.ignore,
            options=_backup_options(config, strategy, tags or {}),
            reporter=reporter,
            clock=clock,
        ).run()


def work_directory(config: Config) -> Path | None:
    """Where large files are kept for a while, made when it is not there yet; None is the temp
    directory. Raises Refused."""
    path = config.watermark.work_dir
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"the work directory {path} cannot be made: {error.strerror}",
            hint="set watermark.work_dir to a directory that vbackup may write",
        ) from error
    return path


def redis_cache(config: Config) -> RedisCache | None:
    """The cache beside the pair; None without a `[redis]` section. Nothing is contacted yet."""
    from vbackup.redis.cache import RedisCache

    return RedisCache(config.redis) if config.redis else None


def _backup_options(
    config: Config, strategy: Strategy | None, tags: Mapping[str, str]
) -> BackupOptions:
    from vbackup.engine.attempt import BackupOptions
    from vbackup.engine.watermark import WatermarkOptions

    asked = config.watermark
    return BackupOptions(
        watermark=WatermarkOptions(
            strategy=strategy or asked.strategy,
            lead_in=asked.lead_in,
            max_index_lag=asked.max_index_lag,
            tick=asked.tick,
            budget=asked.budget,
            candidates=asked.candidates,
            lock_timeout=asked.lock_timeout,
            max_pause=asked.max_pause,
            restore_point=asked.restore_point,
        ),
        collections=config.qdrant.patterns if config.qdrant else (),
        jobs=config.postgres.jobs,
        capture_memory=asked.capture_memory,
        work_dir=work_directory(config),
        tags=tags,
    )


def _options(config: RepositoryConfig) -> RepositoryOptions:
    from vbackup.repository.repository import RepositoryOptions

    return RepositoryOptions(
        chunk_size=config.chunk_size,
        pack_size=config.pack_size,
        compression_level=config.compression_level,
        upload_jobs=config.upload_jobs,
    )


def postgres_config(config: Config, dsn: str | None) -> PostgresConfig:
    """The configured server, or the one that `dsn` names."""
    from pydantic import SecretStr

    from vbackup.settings import register_passwords

    if dsn is None:
        return config.postgres
    register_passwords(dsn)
    return config.postgres.model_copy(update={"dsn": SecretStr(dsn)})


def qdrant_config(config: Config, url: str | None) -> QdrantConfig:
    """The configured deployment, or the one that `url` names. Raises Usage without a section."""
    if config.qdrant is None:
        raise Usage("no [qdrant] section in the configuration", hint="add one, or use pgvector")
    return config.qdrant.model_copy(update={"url": url, "nodes": ()}) if url else config.qdrant
