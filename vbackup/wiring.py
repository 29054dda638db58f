"""Builds the adapters that a configuration asks for. The only place that knows them all.

Imports are inside the functions: a command loads the drivers it uses, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Literal

from vbackup.clock import SystemClock
from vbackup.errors import Refused, Usage

if TYPE_CHECKING:
    from pathlib import Path

    from vbackup.config import Config, PostgresConfig, QdrantConfig, RepositoryConfig
    from vbackup.engine.attempt import BackupOptions
    from vbackup.engine.backup import BackupResult
    from vbackup.engine.restore import Restore, RestoreResult
    from vbackup.engine.restoreplan import RestoreOptions, Side
    from vbackup.engine.switch import Switch
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
    from vbackup.progress import LogReporter, TerminalReporter

    configure(log_format, -1 if quiet else verbosity)
    if terminal and not quiet and log_format == "text":
        return TerminalReporter(clock)
    return LogReporter(clock)


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
    from vbackup.passphrase import configured
    from vbackup.repository.repository import Repository

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


@contextmanager
def restorer(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    *,
    dsn: str | None = None,
    url: str | None = None,
    only: Side | None = None,
) -> Iterator[Restore]:
    """What restores into the configured servers, or into those that `dsn` and `url` name."""
    from vbackup.engine.restore import Restore, RestoreSettings

    if only == "qdrant" and config.qdrant is None:
        raise Usage("there is no [qdrant] section: nothing to restore with --only qdrant")
    settle = config.qdrant.recover_timeout if config.qdrant else 0.0
    with ExitStack() as stack:
        points = None
        if only != "postgres" and config.qdrant is not None:
            points = stack.enter_context(closing(point_target(config, url, clock)))
        cache = redis_cache(config)
        if cache:
            stack.callback(cache.close)
        yield Restore(
            repository=open_repository(config.repository, clock),
            records=record_target(config, dsn, clock, reporter) if only != "qdrant" else None,
            points=points,
            settings=RestoreSettings(work_directory(config), settle),
            reporter=reporter,
            clock=clock,
            cache=cache,
            vectors=vectors(),
        )


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


def restore(
    config: Config,
    backup_id: str,
    reporter: Reporter,
    clock: Clock,
    options: RestoreOptions | None = None,
) -> RestoreResult:
    """Restore one backup into the configured servers; by default under new names."""
    from vbackup.engine.restoreplan import RestoreOptions

    asked = options or RestoreOptions()
    with (
        restorer(config, reporter, clock, only=asked.only) as run,
        reading(run.repository, backup_id, reporter),
    ):
        return run.run(run.plan(backup_id, asked), asked)


@contextmanager
def switch(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    *,
    dsn: str | None = None,
    url: str | None = None,
) -> Iterator[Switch]:
    """What puts a restored pair in place of the live one, and back."""
    from vbackup.engine.switch import Switch
    from vbackup.postgres.connection import described, parameters

    with ExitStack() as stack:
        points = None
        if config.qdrant:
            points = stack.enter_context(closing(point_target(config, url, clock)))
        yield Switch(
            records=record_target(config, dsn, clock, reporter),
            points=points,
            work_dir=work_directory(config),
            settle_timeout=config.qdrant.recover_timeout if config.qdrant else 0.0,
            reporter=reporter,
            clock=clock,
            servers=(described(parameters(_postgres(config, dsn))), _shown(config, url)),
        )


def _shown(config: Config, url: str | None) -> str:
    from vbackup.qdrant.rest import shown

    return ", ".join(sorted(map(shown, _qdrant(config, url).urls))) if config.qdrant else ""


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


def _postgres(config: Config, dsn: str | None) -> PostgresConfig:
    from pydantic import SecretStr

    from vbackup.settings import register_passwords

    if dsn is None:
        return config.postgres
    register_passwords(dsn)
    return config.postgres.model_copy(update={"dsn": SecretStr(dsn)})


def _qdrant(config: Config, url: str | None) -> QdrantConfig:
    if config.qdrant is None:
        raise Usage("no [qdrant] section in the configuration", hint="add one, or use pgvector")
    return config.qdrant.model_copy(update={"url": url, "nodes": ()}) if url else config.qdrant
