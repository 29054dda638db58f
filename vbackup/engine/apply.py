"""Apply a patch to restored collections: deletes first, then upserts; re-embeds are handed on."""

from __future__ import annotations

import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import IO

import msgspec

from vbackup.engine.keysets import KeySets
from vbackup.errors import Refused
from vbackup.model.blocks import Point
from vbackup.model.manifest import Manifest
from vbackup.model.patch import Delete, PatchLine, Reembed, Upsert, decode, encode
from vbackup.ports import PointTarget, Step

BATCH = 500
MEMORY = 1 << 24
"""Bytes of a re-embed list that stay in memory."""

READ_BYTES = 1 << 20
RUNAWAY_SHARE = 0.10
RUNAWAY_FLOOR = 1_000
"""Below this many points a patch may delete any share: a tiny collection is no runaway."""


class Reembeds(Iterable[Reembed]):
    """The lines of a re-embed list, which may be as many as there are rows: in memory while they
    are few, then in a file without a name. May be read again and again."""

    def __init__(self, lines: Iterable[Reembed] = ()) -> None:
        self._file = tempfile.SpooledTemporaryFile(MEMORY)  # noqa: SIM115 - closed when it is gone
        self.close = weakref.finalize(self, self._file.close)
        self._count = 0
        for line in lines:
            self.add(line)

    def add(self, line: Reembed) -> None:
        """Append one line, not while the list is read."""
        self._file.write(encode(line))
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Reembed]:
        at = 0
        while True:
            self._file.seek(at)
            lines = self._file.readlines(READ_BYTES)
            if not lines:
                return
            at += sum(map(len, lines))
            yield from (line for line in decode(lines) if isinstance(line, Reembed))


@dataclass(slots=True)
class Applied:
    """What was done; `reembed` are the lines for the application's indexer."""

    deletes: int = 0
    upserts: int = 0
    reembed: Reembeds = field(default_factory=Reembeds)

    def expected(self) -> Mapping[str, Collection[str]]:
        """By link, the keys whose point is known to be missing."""
        return expected_keys(self.reembed)


def expected_keys(lines: Iterable[PatchLine]) -> Mapping[str, Collection[str]]:
    """By link, the rows of the re-embed list in a patch, as they are `Reembed.named`."""
    keys = KeySets()
    reembeds = (line for line in lines if isinstance(line, Reembed))
    for link, group in groupby(reembeds, key=lambda line: line.link):
        keys.add(link, (line.named for line in group))
    return keys.by_link()


def guard(manifest: Manifest, lines: Iterator[PatchLine]) -> None:
    """Refuse a patch that would delete more than a tenth of a collection; replaced points do not
    count."""
    deletes: Counter[str] = Counter(
        line.collection for line in lines if isinstance(line, Delete) and line.shrinks
    )
    collections = manifest.qdrant.collections if manifest.qdrant else ()
    for text in runaways(deletes, {found.name: found.points for found in collections}):
        raise Refused(
            f"the patch of {manifest.id} {text}",
            hint="look at the links first (vbackup show); --force restores all the same",
        )


def runaways(removals: Mapping[str, int], points: Mapping[str, int]) -> Iterator[str]:
    """What is said of each collection that would lose more than a tenth of its points."""
    for collection, count in removals.items():
        total = points.get(collection, 0)
        if count > max(RUNAWAY_FLOOR, RUNAWAY_SHARE * total):
            yield f"deletes {count:,} of {total:,} points of {collection!r}"


def apply_patch(
    lines: Iterator[PatchLine],
    names: Mapping[str, str],
    target: PointTarget,
    fetch: Callable[[str, list[int | str]], list[Point]],
    removed: IO[bytes],
    step: Step,
) -> Applied:
    """Apply the patch to the collections in `names` (original to restored).

    Points that are deleted are written to `removed` first, one JSON line each, whole."""
    done = Applied()
    for (kind, collection), group in groupby(lines, key=_group):
        if kind is Reembed:
            for line in group:
                if isinstance(line, Reembed):
                    done.reembed.add(line)
            continue
        if collection not in names:
            continue
        for batch in _batches(group):
            if kind is Delete:
                _delete(batch, names[collection], target, fetch, removed)
                done.deletes += len(batch)
            else:
                target.upsert(names[collection], [_point(line) for line in batch])
                done.upserts += len(batch)
            step.advance(len(batch))
    return done


def _group(line: PatchLine) -> tuple[type[PatchLine], str]:
    return type(line), "" if isinstance(line, Reembed) else line.collection


def _delete(
    batch: list[PatchLine],
    name: str,
    target: PointTarget,
    fetch: Callable[[str, list[int | str]], list[Point]],
    removed: IO[bytes],
) -> None:
    ids = [line.id for line in batch if isinstance(line, Delete)]
    for point in fetch(name, ids):
        removed.write(msgspec.json.encode({"collection": name, "point": point}) + b"\n")
    removed.flush()
    target.delete(name, ids)


def _point(line: PatchLine) -> Point:
    if not isinstance(line, Upsert):
        raise TypeError("only upserts are points")
    return Point(line.id, line.vector, line.payload, line.shard_key)


def _batches(lines: Iterator[PatchLine]) -> Iterator[list[PatchLine]]:
    while batch := list(islice(lines, BATCH)):
        yield batch
