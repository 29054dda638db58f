"""`vbackup restore --tenant VALUE --in-place`: the extracted rows and points into the live pair."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vbackup.cli.jsonl import LineFile, create
from vbackup.cli.kept import kept_file
from vbackup.cli.reembed import reembed_line
from vbackup.errors import Refused, Usage, VbackupError
from vbackup.reconciling import live_pair, repairer
from vbackup.wiring import work_directory

if TYPE_CHECKING:
    from vbackup.cli.restore import Asked
    from vbackup.cli.session import Session
    from vbackup.engine.extraction import Extraction, ExtractionResult
    from vbackup.engine.links import Target
    from vbackup.engine.mergepoints import PointsBack
    from vbackup.engine.reconcile import ReconcileResult
    from vbackup.model.patch import Reembed
    from vbackup.model.tenancy import MergedTable


@dataclass(frozen=True, slots=True)
class Merged:
    """What was brought back, and where it is written down what there was before."""

    tables: list[MergedTable]
    points: PointsBack | None
    reconcile: ReconcileResult | None
    rows_file: Path | None
    reembed_file: Path | None

    @property
    def clean(self) -> bool:
        return self.reconcile is None or self.reconcile.clean

    def document(self) -> dict[str, object]:
        from vbackup.cli.documents import reconcile_document

        points = self.points
        return {
            "tables": [
                {"table": t.table, "inserted": t.inserted, "updated": t.updated,
                 "altered": t.altered}
                for t in self.tables
            ],
            "points": points.revived if points else 0,
            "reembed": points.reembed if points else 0,
            "rows_file": self.rows_file,
            "points_file": points.removed_file if points else None,
            "reembed_file": self.reembed_file,
            "reconcile": reconcile_document(self.reconcile) if self.reconcile else None,
        }  # fmt: skip


def check(asked: Asked) -> None:
    """Raises Usage for what does not go with --in-place."""
    if asked.only:
        raise Usage(
            "--in-place brings rows and their points back: no --only",
            hint="leave out --only, or restore beside the live pair without --in-place",
        )
    if asked.postgres or asked.qdrant:
        raise Usage(
            "--in-place brings rows into the configured pair: no --postgres, no --qdrant",
            hint="leave them out, or name another configuration with --config",
        )
    if asked.database or asked.collection_suffix is not None:
        raise Usage(
            "--in-place chooses the names of what it extracts first, and drops it again",
            hint="leave out --database and --collection-suffix",
        )


def merge(
    session: Session, asked: Asked, extraction: Extraction, result: ExtractionResult
) -> Merged:
    """Rows in one transaction, then their points; then both are compared.

    What was extracted is dropped when all went well, and kept when it did not."""
    plan, records = result.plan, extraction.restore.records
    if records is None:
        raise Refused("there is no database to bring rows back into")
    try:
        with _Before(kept_file(session, "overwritten")) as before:
            tables = records.merge(
                plan.database, plan.tables, plan.tenant, before.write, before.sync
            )
        points, path = None, None
        if plan.names and session.config.qdrant:
            points, path = _points(session, asked, extraction, result)
        proof = _reconcile(session, asked, points)
    except VbackupError as error:
        kept = ", ".join([plan.database, *plan.names.values()])
        error.hint = f"{error.hint}; what was extracted is kept: {kept}".lstrip("; ")
        raise
    extraction.drop(plan)
    return Merged(tables, points, proof, before.path if before.count else None, path)


def _points(
    session: Session, asked: Asked, extraction: Extraction, result: ExtractionResult
) -> tuple[PointsBack, Path | None]:
    from vbackup.engine.mergepoints import bring_back

    plan = result.plan
    path = asked.reembed or kept_file(session, "reembed")
    with ExitStack() as stack:
        file = stack.enter_context(LineFile(path))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vbackup-merge-"))

        def reembed(line: Reembed) -> None:
            file.write(reembed_line(line))

        fix = stack.enter_context(
            repairer(
                session.config, session.reporter, session.clock, reembed, Path(scratch),
                lambda link, keys: extraction.fetch(plan, link, keys),
            )
        )  # fmt: skip
        removed = kept_file(session, "removed")
        back = bring_back(fix, _live_targets(session), extraction.keys(plan), removed)
    if not file.count and asked.reembed is None:
        path.unlink()
        return back, None
    return back, path


def _live_targets(session: Session) -> tuple[Target, ...]:
    from vbackup.engine.links import resolve
    from vbackup.engine.reconcile import ReconcileOptions

    with live_pair(session.config, session.reporter, session.clock, ReconcileOptions()) as pair:
        return resolve(pair.links, pair.ignore, pair.names).targets


def _reconcile(session: Session, asked: Asked, points: PointsBack | None) -> ReconcileResult | None:
    """The live pair, as far as links tell whose a row or a point is."""
    from vbackup.engine.reconcile import ReconcileOptions

    options = ReconcileOptions(
        max_index_lag=session.config.watermark.max_index_lag,
        tenant=asked.tenant,
        work_dir=work_directory(session.config),
    )
    with live_pair(session.config, session.reporter, session.clock, options) as pair:
        names = tuple(
            link.name
            for link in pair.links
            if link.tenant or any(source.tenant or source.sql for source in link.rows)
        )
        if not names:
            return None
        expected = points.listed if points else {}
        narrowed = replace(pair, options=replace(options, only=names), expected=expected)
        return narrowed.run()


class _Before:
    """What the merge overwrites and inserts: one JSON line each, on the disk before it commits.
    Readable by its owner only; no file where there is nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file = create(path, os.O_EXCL, named=path)

    def __enter__(self) -> _Before:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is not None or not self.count:
            self.path.unlink(missing_ok=True)

    def write(self, line: Mapping[str, object]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        self.count += 1

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
