"""Whole points of a stored backup by key, its patch applied: where repairs take vectors from.

Shard snapshots are asked for a few keys at a time. The patch's upserts, vectors included, go
to a work file once, so that memory holds no more than their keys and places.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from vbackup.engine.offline import fetch_shards, patch_lines
from vbackup.engine.spill import spill_failed
from vbackup.errors import Damaged
from vbackup.model.blocks import Point, PointId
from vbackup.model.link import Link
from vbackup.model.manifest import Manifest
from vbackup.model.patch import Delete, PatchLine, Upsert
from vbackup.ports import Reporter, Repository

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Upsert).decode


class WholePoints(Protocol):
    """Shard snapshots that were opened with their vectors."""

    def collections(self) -> Sequence[str]: ...

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]: ...


OpenWhole = Callable[[Mapping[str, Sequence[Path]], Path], AbstractContextManager[WholePoints]]
"""Opens shard snapshots with their vectors; the directory is to unpack into."""


class StoredPoints:
    """`engine.revival.FromBackup` over one backup; `close` lets go of the work file.

    Raises Failed when the work file cannot be written, Damaged when it cannot be read back."""

    def __init__(self, points: WholePoints, patch: Iterable[PatchLine], work_file: Path) -> None:
        self._points = points
        self._path = work_file
        self._replaced: set[tuple[str, PointId]] = set()
        self._places: dict[tuple[str, str], list[tuple[int, int]]] = {}
        try:
            self._file = work_file.open("w+b")
            self._take(patch)
            self._file.flush()
        except OSError as error:
            raise spill_failed(work_file, error) from error

    def __call__(
        self, link: Link, keys: Sequence[str]
    ) -> Mapping[str, Sequence[tuple[str, Point]]]:
        """The points of these keys as a restore would leave them, with their collections."""
        found: dict[str, list[tuple[str, Point]]] = {}
        for collection in self._points.collections():
            for key, points in self._points.fetch(link, collection, keys).items():
                found.setdefault(key, []).extend(
                    (collection, point)
                    for point in points
                    if (collection, point.id) not in self._replaced
                )
        for key in keys:
            for line in self._upserts(link.name, key):
                point = Point(line.id, line.vector, line.payload, line.shard_key)
                found.setdefault(key, []).append((line.collection, point))
        return {key: points for key, points in found.items() if points}

    def close(self) -> None:
        self._file.close()

    def _take(self, patch: Iterable[PatchLine]) -> None:
        end = 0
        for line in patch:
            if isinstance(line, (Delete, Upsert)):
                self._replaced.add((line.collection, line.id))
            if isinstance(line, Upsert):
                encoded = _encode(line)
                self._file.write(encoded)
                self._places.setdefault((line.link, line.key), []).append((end, len(encoded)))
                end += len(encoded)

    def _upserts(self, link: str, key: str) -> list[Upsert]:
        places = self._places.get((link, key), ())
        try:
            return [
                _decode(os.pread(self._file.fileno(), length, start)) for start, length in places
            ]
        except (OSError, msgspec.MsgspecError) as error:
            raise Damaged(f"the work file {self._path} cannot be read back: {error}") from error


@contextmanager
def stored_points(
    repository: Repository,
    manifest: Manifest,
    collections: Collection[str],
    open_whole: OpenWhole,
    reporter: Reporter,
    work_dir: Path | None = None,
) -> Iterator[StoredPoints]:
    """The points that a backup holds of these collections.

    Their shard snapshots are read into `work_dir` first, vectors and all. Raises Damaged."""
    with tempfile.TemporaryDirectory(prefix="vbackup-stored-", dir=work_dir) as name:
        scratch = Path(name)
        tars = fetch_shards(repository, manifest, scratch, reporter, collections)
        patch = (
            line
            for line in patch_lines(repository, manifest)
            if not isinstance(line, (Delete, Upsert)) or line.collection in collections
        )
        with (
            open_whole(tars, scratch / "unpacked") as whole,
            closing(StoredPoints(whole, patch, scratch / "upserts")) as points,
        ):
            yield points
