"""Wires what restores pairs, and what puts a restored one in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from vbackup import wiring
from vbackup.errors import Usage

if TYPE_CHECKING:
    from vbackup.config import Config
    from vbackup.engine.proof import RestoreResult
    from vbackup.engine.restore import Restore
    from vbackup.engine.restoreplan import RestoreOptions, Side
    from vbackup.engine.switch import Switch
    from vbackup.ports import Clock, Reporter


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
    from vbackup.engine.proof import RestoreSettings
    from vbackup.engine.restore import Restore

    if only == "qdrant" and config.qdrant is None:
        raise Usage("there is no [qdrant] section: nothing to restore with --only qdrant")
    settle = config.qdrant.recover_timeout if config.qdrant else 0.0
    with ExitStack() as stack:
        points = None
        if only != "postgres" and config.qdrant is not None:
            points = stack.enter_context(closing(wiring.point_target(config, url, clock)))
        cache = wiring.redis_cache(config)
        if cache:
            stack.callback(cache.close)
        records = None
        if only != "qdrant":
            records = wiring.record_target(config, dsn, clock, reporter)
        yield Restore(
            repository=wiring.open_repository(config.repository, clock),
            records=records,
            points=points,
            settings=RestoreSettings(wiring.work_directory(config), settle),
            reporter=reporter,
            clock=clock,
            cache=cache,
            vectors=wiring.vectors(),
        )


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
        wiring.reading(run.repository, backup_id, reporter),
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
            points = stack.enter_context(closing(wiring.point_target(config, url, clock)))
        server = described(parameters(wiring.postgres_config(config, dsn)))
        yield Switch(
            records=wiring.record_target(config, dsn, clock, reporter),
            points=points,
            work_dir=wiring.work_directory(config),
            settle_timeout=config.qdrant.recover_timeout if config.qdrant else 0.0,
            reporter=reporter,
            clock=clock,
            servers=(server, _shown(config, url)),
        )


def _shown(config: Config, url: str | None) -> str:
    from vbackup.qdrant.rest import shown

    if config.qdrant is None:
        return ""
    return ", ".join(sorted(map(shown, wiring.qdrant_config(config, url).urls)))
