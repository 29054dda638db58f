"""Removing points of a live pair, so that no point is lost whose row exists.

For each small batch, in this order (the order is what makes it safe):

1. Read the keys' points, and the whole points that are to go.
2. Read the rows in a new snapshot, *after* the points: a row that came before the point was
   read is seen. Judge again by the rules of the comparison; only what is still wrong in the
   same way goes on.
3. Write the whole points to the file of removed points, and fsync it.
4. Delete, on the condition that the payload is still the one that was read. So a point that
   an application has written since then, whatever its row, stays.
5. Read points and rows once more and ask: had the point not been deleted, would it be right
   now? That is a row that came back with this very version while we worked. Then the point is
   put back as it was, if its id is still free.
6. Do all of this again with what was put back: its row may have gone in that very moment, and
   the application's own delete with it.

What remains: an application that first writes a point with the payload of the orphan that is
there, and commits its row only after step 5. That row had no point it could call its own
before, and the next reconcile reports it as missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from vbackup.engine.confirm import identity
from vbackup.engine.editor import PointEditor
from vbackup.engine.links import Target
from vbackup.engine.reread import Reread
from vbackup.engine.versions import same
from vbackup.errors import Damaged, Failed
from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.finding import Finding
from vbackup.model.keys import canonical, composite
from vbackup.model.link import Link

SECOND_LOOKS = 5
"""So often what was put back is looked at again, while anything of it had to go after all."""

Place = tuple[str, PointId]
"""A point's collection and id."""

_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct):
    collection: str
    point: Point


_decode = msgspec.json.Decoder(_Line).decode


class RemovedPoints:
    """The file of removed points: one JSON line each, whole, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def keep(self, points: Iterable[tuple[str, Point]]) -> None:
        """Append the points; when this returns they are on the disk. Raises Failed."""
        lines = [_encode(_Line(collection, point)) + b"\n" for collection, point in points]
        if not lines:
            return
        try:
            if self._file is None:
                self._file = self._open()
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise Failed(
                f"cannot write removed points to {self.path}: {error.strerror}; nothing was"
                " deleted",
                hint="points are only deleted once a copy of them is on the disk: make room there",
            ) from error

    def _open(self) -> IO[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def close(self) -> None:
        if self._file:
            self._file.close()


def read_removed(path: Path) -> Iterator[tuple[str, Point]]:
    """(collection, point) of each line of a file of removed points. Raises Damaged."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found = _decode(line)
            except msgspec.MsgspecError as error:
                raise Damaged(f"{path}: line {number} is no point: {error}") from error
            yield found.collection, found.point


@dataclass(slots=True)
class Removed:
    """Points by what became of them: `skipped` were right, gone or changed when looked at,
    `put_back` were deleted and then found right again."""

    deleted: int = 0
    skipped: int = 0
    put_back: int = 0


@dataclass(frozen=True, slots=True)
class Removal:
    """Removes points of one live pair."""

    reread: Reread
    editor: PointEditor
    removed: RemovedPoints
    tenant: str | None = None

    def remove(self, target: Target, findings: Sequence[Finding]) -> Removed:
        """Remove the points of these findings, as far as they still are to go."""
        gone, right = self._once(target, findings)
        first, returned = len(gone), set(right)
        for _ in range(SECOND_LOOKS):
            if not right:
                break
            gone, right = self._once(target, [f for f in findings if _place(f) in right])
            returned -= gone - right
        return Removed(first - len(returned), len(findings) - first, len(returned))

    def _once(self, target: Target, findings: Sequence[Finding]) -> tuple[set[Place], set[Place]]:
        """The points that were deleted, and those of them that were put back."""
        looked = self._look(target, findings)
        doomed = {
            place: looked.whole[place]
            for finding in findings
            if (place := _place(finding)) in looked.whole
            and identity(finding) in looked.wrong
            and _as_judged(target.link, looked.whole[place], finding)
        }
        if not doomed:
            return set(), set()
        self.removed.keep((collection, point) for (collection, _), point in doomed.items())
        for collection, points in _by_collection(doomed):
            self.editor.delete_unchanged(collection, points)
        concerned = [finding for finding in findings if _place(finding) in doomed]
        return self._after(target, concerned, doomed)

    def _look(self, target: Target, findings: Sequence[Finding]) -> _Look:
        """Points first, rows last: a row is never older than its points."""
        where = self.reread.rows(target, findings)
        blocks = self.reread.blocks(target, findings, where)
        whole = self._whole(findings)
        rows = self.reread.rows(target, findings)
        judged = self.reread.judge(target, rows, blocks, tenant=self.tenant)
        return _Look(whole, {identity(finding) for finding in judged})

    def _whole(self, findings: Sequence[Finding]) -> dict[Place, Point]:
        wanted: dict[str, list[PointId]] = {}
        for finding in findings:
            if finding.point is not None:
                wanted.setdefault(finding.collection, []).append(finding.point)
        return {
            (collection, point.id): point
            for collection, ids in wanted.items()
            for point in self.editor.fetch_ids(collection, ids)
        }

    def _after(
        self, target: Target, findings: Sequence[Finding], doomed: dict[Place, Point]
    ) -> tuple[set[Place], set[Place]]:
        """Which points are gone, and which of those would be right and were put back."""
        where = self.reread.rows(target, findings)
        blocks = self.reread.blocks(target, findings, where)
        rows = self.reread.rows(target, findings)
        there = {(collection, i) for collection, block in blocks for i in block.ids}
        gone = {place: point for place, point in doomed.items() if place not in there}
        imagined = [(place[0], block_of(target.link, [point])) for place, point in gone.items()]
        wrong = self.reread.judge(target, rows, [*blocks, *imagined])
        named = {_place(finding) for finding in wrong}
        right = {place: point for place, point in gone.items() if place not in named}
        for collection, points in _by_collection(right):
            self.editor.write_unchanged(collection, points, {})
        return set(gone), set(right)


@dataclass(frozen=True, slots=True)
class _Look:
    whole: dict[Place, Point]
    wrong: set[tuple[object, ...]] = field(default_factory=set)


def _place(finding: Finding) -> Place | None:
    return None if finding.point is None else (finding.collection, finding.point)


def _as_judged(link: Link, point: Point, finding: Finding) -> bool:
    """Whether the whole point that was read is the one that was judged."""
    return reference(link, point) == finding.key and (
        not link.keyed or same(version_of(link, point), finding.point_version)
    )


def _by_collection(points: dict[Place, Point]) -> Iterator[tuple[str, list[Point]]]:
    for name in dict.fromkeys(collection for collection, _ in points):
        yield name, [point for (collection, _), point in points.items() if collection == name]


def reference(link: Link, point: Point) -> str | None:
    """The canonical key that a whole point refers to."""
    if link.by_id:
        return str(point.id)
    return composite(canonical(path.extract(point.payload)) for path in link.ref)


def version_of(link: Link, point: Point) -> str | None:
    """The version that a whole point says."""
    return canonical(link.version.extract(point.payload)) if link.version else None


def block_of(link: Link, points: Sequence[Point]) -> PointBlock:
    """Whole points as the block that a reader would yield of them."""
    return PointBlock(
        ids=[point.id for point in points],
        refs=[reference(link, point) for point in points],
        versions=[version_of(link, point) for point in points] if link.version else None,
        tenants=[canonical(link.tenant.extract(point.payload)) for point in points]
        if link.tenant
        else None,
    )
