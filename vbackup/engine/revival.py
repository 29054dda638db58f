"""Bringing points back from a backup where the row's version has not changed since.

A point is written only over the very point that was judged wrong, or where there was none,
and only while its row still has that version; afterwards both are read again, and a point that
is wrong by then (its row went, or moved on) is taken away. What cannot be brought back is for
the application's indexer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vbackup.engine.editor import PointEditor
from vbackup.engine.links import Target
from vbackup.engine.removal import Place, Removal, version_of
from vbackup.engine.reread import Reread
from vbackup.engine.versions import same
from vbackup.model.blocks import Point, RowBlock
from vbackup.model.finding import Finding
from vbackup.model.link import Link

FromBackup = Callable[[Link, Sequence[str]], Mapping[str, Sequence[tuple[str, Point]]]]
"""The points (with their collections) that a backup holds of these keys, its patch applied."""

_ROWLESS = ("orphan", "not_live")


@dataclass(frozen=True, slots=True)
class RowState:
    """A row as it is now."""

    version: str | None
    live: bool
    count: int | None
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Revival:
    """Writes points of a backup into one live pair."""

    reread: Reread
    editor: PointEditor
    removal: Removal
    from_backup: FromBackup

    def revive(self, target: Target, findings: Sequence[Finding]) -> set[str]:
        """Bring back what these findings (missing, stale, ahead, wrong_count) need; the keys
        whose points are right now."""
        if not target.link.exact:
            return set()  # nothing says that the backup's point fits the row
        rows = self.reread.rows(target, findings)
        states = {key: state for key, state in row_states(rows).items() if state.live}
        stored = self.from_backup(target.link, list(states))
        fits = {
            key: points
            for key, points in stored.items()
            if key in states and _fits(target, states[key], points)
        }
        concerned = [finding for finding in findings if finding.key in fits]
        if not concerned:
            return set()
        self._write(target, concerned, fits, rows)
        return self._settled(target, concerned, {key: states[key] for key in fits})

    def _write(
        self,
        target: Target,
        findings: Sequence[Finding],
        fits: Mapping[str, Sequence[tuple[str, Point]]],
        rows: RowBlock,
    ) -> None:
        wanted = {(where, p.id): p for points in fits.values() for where, p in points}
        seen = self._seen(target, findings, wanted, rows)
        kept = {
            place
            for place, point in seen.items()
            if place in wanted
            and same(version_of(target.link, point), version_of(target.link, wanted[place]))
        }
        # What is overwritten is kept in the file of removed points as well.
        self.removal.removed.keep((place[0], p) for place, p in seen.items() if place not in kept)
        for collection in dict.fromkeys(place[0] for place in wanted):
            points = [
                point
                for place, point in wanted.items()
                if place[0] == collection and place not in kept
            ]
            before = {place[1]: point for place, point in seen.items() if place[0] == collection}
            if points:
                self.editor.write_unchanged(collection, points, before)

    def _seen(
        self,
        target: Target,
        findings: Sequence[Finding],
        wanted: Mapping[Place, Point],
        rows: RowBlock,
    ) -> dict[Place, Point]:
        """The points that are there now, of those that are to be written."""
        there = {
            (collection, point)
            for collection, block in self.reread.blocks(target, findings, rows)
            for point in block.ids
        }
        there |= set(wanted)
        return {
            (collection, point.id): point
            for collection in dict.fromkeys(place[0] for place in there)
            for point in self.editor.fetch_ids(
                collection, [point for where, point in there if where == collection]
            )
            if (collection, point.id) in wanted
        }

    def _settled(
        self, target: Target, findings: Sequence[Finding], written: Mapping[str, RowState]
    ) -> set[str]:
        """Take away what the written points replaced, or what lost its row since; the keys
        whose points are right."""
        wrong = self.reread.findings(target, findings)
        now = row_states(self.reread.rows(target, findings))
        # Of a row that moved on, the point in the old version stays until the indexer comes.
        unmoved = {
            key
            for key, state in written.items()
            if key in now and same(now[key].version, state.version)
        }
        surplus = [
            finding
            for finding in wrong
            if finding.point is not None and (finding.kind in _ROWLESS or finding.key in unmoved)
        ]
        if surplus:
            self.removal.remove(target, surplus)
            wrong = self.reread.findings(target, findings)
        return written.keys() - {finding.key for finding in wrong}


def row_states(rows: RowBlock) -> dict[str, RowState]:
    """Rows by key. A key that several rows share is left out: which one counts is not for us."""
    states: dict[str, RowState] = {}
    repeated: set[str] = set()
    for at, key in enumerate(rows.keys):
        if key in states:
            repeated.add(key)
        states[key] = RowState(
            version=rows.versions[at] if rows.versions is not None else None,
            live=rows.live is None or bool(rows.live[at]),
            count=rows.counts[at] if rows.counts is not None else None,
            tenant=rows.tenants[at] if rows.tenants is not None else None,
        )
    return {key: state for key, state in states.items() if key not in repeated}


def _fits(target: Target, row: RowState, points: Sequence[tuple[str, Point]]) -> bool:
    """Whether these are the row's points: all of its version, as many as belong to it."""
    keyed = target.link.keyed
    if not points or (keyed and row.version is None):
        return False
    if any(collection not in target.collections for collection, _ in points):
        return False
    if target.link.cardinality == "one" and len(points) != 1:
        return False
    if row.count is not None and target.link.cardinality == "many" and len(points) != row.count:
        return False
    return not keyed or all(same(version_of(target.link, p), row.version) for _, p in points)
