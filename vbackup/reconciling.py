"""Wires what compares pairs: the live one, and those in stored backups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from vbackup import wiring

if TYPE_CHECKING:
    from pathlib import Path

    from vbackup.config import Config
    from vbackup.engine.offline import OfflinePair
    from vbackup.engine.reconcile import Reconcile, ReconcileOptions
    from vbackup.model.blocks import PointBlock, PointId
    from vbackup.model.link import Link
    from vbackup.ports import Clock, Reporter, Repository


@contextmanager
def live_pair(
    config: Config, reporter: Reporter, clock: Clock, options: ReconcileOptions
) -> Iterator[Reconcile]:
    """What compares the live pair. Raises Unreachable, NotFound, Refused."""
    from vbackup.engine.reconcile import Reconcile, live_rows

    patterns = config.qdrant.collections if config.qdrant else ()
    with (
        closing(wiring.record_source(config, clock)) as records,
        closing(wiring.point_source(config, clock)) as points,
    ):
        facts = points.facts(patterns)
        yield Reconcile(
            links=wiring.links(config),
            ignore=config.ignore,
            open_rows=live_rows(records),
            points=points,
            names={found.name: found.aliases for found in facts.collections},
            options=options,
            reporter=reporter,
            clock=clock,
        )


def stored_pair(
    repository: Repository, reporter: Reporter, clock: Clock, work_dir: Path | None = None
) -> OfflinePair:
    """What compares the two halves of a stored backup, with no server."""
    from vbackup.engine.offline import OfflinePair
    from vbackup.qdrant.offline import open_offline

    return OfflinePair(
        repository=repository,
        open_tars=open_offline,
        project=_columns,
        reporter=reporter,
        clock=clock,
        work_dir=work_dir,
    )


def _columns(link: Link, ids: Sequence[PointId], payloads: Sequence[dict[str, Any]]) -> PointBlock:
    """`engine.patched.Project` as Qdrant's adapter does it."""
    from vbackup.qdrant.projection import Projection

    return Projection(link).block(ids, payloads)
