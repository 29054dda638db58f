"""The two calls into the engine that the demo and the torture tests make: back up, restore."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from vbackup import wiring
from vbackup.config import Config, WatermarkConfig
from vbackup.engine.attempt import BackupOptions, Pair
from vbackup.engine.backup import Backup, BackupResult
from vbackup.engine.links import links_of
from vbackup.engine.restore import Restore, RestoreResult, RestoreSettings
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.engine.watermark import WatermarkOptions
from vbackup.ports import Clock, Reporter


def back_up(config: Config, reporter: Reporter, clock: Clock) -> BackupResult:
    """What `vbackup backup` does with this configuration. Raises vbackup errors."""
    with ExitStack() as stack:
        records = wiring.record_source(config, clock, reporter, row_identity=True)
        stack.enter_context(closing(records))
        points = stack.enter_context(closing(wiring.point_source(config, clock)))
        return Backup(
            pair=Pair(records, points),
            repository=wiring.open_repository(config.repository, clock),
            links=links_of(config),
            ignore=config.ignore,
            options=BackupOptions(
                watermark=_watermark(config.watermark),
                collections=config.qdrant.collections if config.qdrant else (),
                jobs=config.postgres.jobs,
                capture_memory=config.watermark.capture_memory,
                work_dir=config.watermark.work_dir,
            ),
            reporter=reporter,
            clock=clock,
        ).run()


def restore(
    config: Config,
    backup_id: str,
    options: RestoreOptions,
    directory: Path,
    reporter: Reporter,
    clock: Clock,
) -> RestoreResult:
    """What `vbackup restore` does with these options. Raises vbackup errors.

    `directory` takes the points that the patch removes."""
    with closing(wiring.point_target(config, clock=clock)) as points:
        plan_and_run = Restore(
            repository=wiring.open_repository(config.repository, clock),
            records=wiring.record_target(config, clock=clock, reporter=reporter),
            points=points,
            settings=RestoreSettings(work_dir=directory, settle_timeout=120.0),
            reporter=reporter,
            clock=clock,
        )
        return plan_and_run.run(plan_and_run.plan(backup_id, options), options)


def _watermark(asked: WatermarkConfig) -> WatermarkOptions:
    return WatermarkOptions(
        strategy=asked.strategy,
        lead_in=asked.lead_in,
        max_index_lag=asked.max_index_lag,
        tick=asked.tick,
        budget=asked.budget,
        candidates=asked.candidates,
        lock_timeout=asked.lock_timeout,
        max_pause=asked.max_pause,
    )
