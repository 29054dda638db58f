"""Compare the two halves of a stored backup with no server at all.

Rows come from the row listings, points out of the shard snapshots through the offline reader,
with the patch applied: what a restore would give, compared before anybody needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vbackup.engine.apply import expected_keys
from vbackup.engine.patched import PatchedPoints, Project
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, ReconcileResult, Sink
from vbackup.engine.rowlisting import StoredRows
from vbackup.errors import Refused
from vbackup.model.manifest import Artifact, Manifest
from vbackup.model.patch import PatchLine, decode
from vbackup.ports import Clock, PointReader, Reporter, Repository, RowReader

OpenTars = Callable[[Mapping[str, Sequence[Path]], Path], AbstractContextManager[PointReader]]
"""Opens shard snapshots (tars by collection) with a directory to unpack into."""


@dataclass(frozen=True, slots=True)
class OfflinePair:
    """Reads one backup as a pair."""

    repository: Repository
    open_tars: OpenTars
    project: Project
    reporter: Reporter
    clock: Clock
    work_dir: Path | None = None

    def reconcile(
        self, backup_id: str, options: ReconcileOptions, sink: Sink | None = None
    ) -> ReconcileResult:
        """Compare rows and points of a backup. Raises Refused for PostgreSQL alone, Damaged."""
        manifest = self.repository.load(backup_id)
        if manifest.qdrant is None:
            raise Refused(
                f"backup {backup_id} holds no Qdrant collections to compare: vectors in the dump"
                " take a server",
                hint="vbackup verify --level drill restores it and compares",
            )
        with self._points(manifest) as points:
            return Reconcile(
                links=manifest.links,
                ignore=manifest.ignore,
                open_rows=self._opened_rows(manifest),
                points=points,
                names={part.name: part.aliases for part in manifest.qdrant.collections},
                options=options,
                reporter=self.reporter,
                clock=self.clock,
                expected=expected_keys(patch_lines(self.repository, manifest)),
            ).run(sink)

    @contextmanager
    def _points(self, manifest: Manifest) -> Iterator[PointReader]:
        with tempfile.TemporaryDirectory(prefix="vbackup-offline-", dir=self.work_dir) as name:
            scratch = Path(name)
            tars = fetch_shards(self.repository, manifest, scratch, self.reporter)
            with self.open_tars(tars, scratch / "unpacked") as reader:
                patch = patch_lines(self.repository, manifest)
                yield PatchedPoints(reader, patch, self.project)

    def _opened_rows(self, manifest: Manifest) -> Callable[[], AbstractContextManager[RowReader]]:
        listings = {listing.link: listing.artifact for listing in manifest.rows}

        def open_listing(link: str) -> Iterator[bytes] | None:
            return self.repository.read(listings[link]) if link in listings else None

        @contextmanager
        def opened() -> Iterator[RowReader]:
            yield StoredRows(open_listing)

        return opened


def fetch_shards(
    repository: Repository,
    manifest: Manifest,
    directory: Path,
    reporter: Reporter,
    only: Collection[str] | None = None,
) -> dict[str, list[Path]]:
    """The shard snapshots of the collections (all, or `only` these) as files below `directory`.

    Reading them verifies chunks, length and SHA-256: raises Damaged."""
    tars: dict[str, list[Path]] = {}
    for number, part in enumerate(manifest.qdrant.collections if manifest.qdrant else ()):
        if only is not None and part.name not in only:
            continue
        tars[part.name] = []
        for shard in part.shards:
            path = directory / f"{number}-{shard.id}.tar"
            _save(repository, shard.artifact, path, reporter)
            tars[part.name].append(path)
    return tars


def patch_lines(repository: Repository, manifest: Manifest) -> Iterator[PatchLine]:
    """The backup's patch, line by line; nothing where it has none."""
    artifact = manifest.patch.artifact
    return decode(repository.read(artifact)) if artifact else iter(())


def _save(repository: Repository, artifact: Artifact, path: Path, reporter: Reporter) -> None:
    step = reporter.step(f"read {artifact.name}", total=artifact.length)
    with step as progress, path.open("wb") as file:
        for block in repository.read(artifact):
            file.write(block)
            progress.advance(len(block))
