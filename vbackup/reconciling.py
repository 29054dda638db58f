"""Wires what compares pairs: the live one, and those in stored backups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from vbackup import wiring
from vbackup.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from vbackup.config import Config
    from vbackup.engine.offline import OfflinePair
    from vbackup.engine.reconcile import Reconcile, ReconcileOptions
    from vbackup.engine.repair import Repair
    from vbackup.engine.revival import FromBackup
    from vbackup.engine.stored import StoredPoints
    from vbackup.engine.watch import Watch, WatchOptions
    from vbackup.model.blocks import PointBlock, PointId
    from vbackup.model.link import Link
    from vbackup.model.manifest import Manifest
    from vbackup.model.patch import Reembed
    from vbackup.ports import Clock, RecordSource, Reporter, Repository


@contextmanager
def live_pair(
    config: Config, reporter: Reporter, clock: Clock, options: ReconcileOptions
) -> Iterator[Reconcile]:
    """What compares the live pair. Raises Unreachable, NotFound, Refused."""
    with _opened(config, reporter, clock, options) as (pair, _):
        yield pair()


@contextmanager
def live_watch(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    options: ReconcileOptions,
    watching: WatchOptions,
) -> Iterator[Watch]:
    """What compares the live pair again and again; connections stay open in between."""
    from vbackup.engine.watch import Watch

    with _opened(config, reporter, clock, options) as (pair, changes):
        yield Watch(pair, changes, watching, clock)


@contextmanager
def _opened(
    config: Config, reporter: Reporter, clock: Clock, options: ReconcileOptions
) -> Iterator[tuple[Callable[[], Reconcile], RecordSource]]:
    """The live pair, its collections as they are at each call; and its rows' changes."""
    from vbackup.engine.reconcile import Reconcile, live_rows

    if config.qdrant is None:
        with _vectors(config, reporter, clock, options) as opened:
            yield opened
        return
    patterns = config.qdrant.patterns
    with (
        closing(wiring.record_source(config, clock)) as records,
        closing(wiring.point_source(config, clock)) as points,
    ):

        def pair() -> Reconcile:
            facts = points.facts(patterns)
            return Reconcile(
                links=wiring.links(config),
                ignore=config.ignore,
                open_rows=live_rows(records),
                points=points,
                names={found.name: found.aliases for found in facts.collections},
                options=options,
                reporter=reporter,
                clock=clock,
            )

        yield pair, records


@contextmanager
def _vectors(
    config: Config, reporter: Reporter, clock: Clock, options: ReconcileOptions
) -> Iterator[tuple[Callable[[], Reconcile], RecordSource]]:
    """The same for rows and the vectors that pgvector keeps beside them."""
    from vbackup.engine.links import vector_collections
    from vbackup.engine.reconcile import Reconcile
    from vbackup.engine.vectors import VectorPair

    links = wiring.links(config)
    with closing(wiring.record_source(config, clock)) as records:
        vectors = VectorPair(records, wiring.vectors(), links)

        def pair() -> Reconcile:
            return Reconcile(
                links=links,
                ignore=config.ignore,
                open_rows=vectors.open_rows,
                points=vectors,
                names=vector_collections(links),
                options=options,
                reporter=reporter,
                clock=clock,
                noticed=vectors.warnings,
            )

        yield pair, records


@contextmanager
def repairer(
    config: Config,
    reporter: Reporter,
    clock: Clock,
    reembed: Callable[[Reembed], None],
    work_dir: Path,
    from_backup: FromBackup | None = None,
) -> Iterator[Repair]:
    """What repairs the live pair; `reembed` gets the rows that the indexer must do again: those
    whose points `from_backup` does not have in the row's version."""
    from vbackup.engine.links import by_alias
    from vbackup.engine.reconcile import live_rows
    from vbackup.engine.repair import Repair
    from vbackup.engine.reread import Reread
    from vbackup.qdrant.cluster import Cluster
    from vbackup.qdrant.edit import LiveEditor

    if config.qdrant is None:
        raise Refused(
            "rows and their vectors are in one database: vbackup never changes rows",
            hint="vbackup reconcile --output FILE writes the findings; let the application act",
        )
    with (
        closing(wiring.record_source(config, clock)) as records,
        closing(wiring.point_source(config, clock)) as points,
        closing(Cluster(config.qdrant, clock)) as cluster,
    ):
        facts = points.facts(config.qdrant.patterns)
        aliases = by_alias({found.name: found.aliases for found in facts.collections})
        reread = Reread(live_rows(records), points, work_dir, aliases)
        yield Repair(reread, LiveEditor(cluster), reporter, reembed, from_backup)


def points_of_backup(
    repository: Repository,
    manifest: Manifest,
    collections: Collection[str],
    reporter: Reporter,
    work_dir: Path | None = None,
) -> AbstractContextManager[StoredPoints]:
    """Whole points of these collections as a backup holds them, for `repairer`."""
    from vbackup.engine.stored import stored_points
    from vbackup.qdrant.offline import open_offline

    opened = partial(open_offline, vectors=True)
    return stored_points(repository, manifest, collections, opened, reporter, work_dir)


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
