"""Vectors that pgvector keeps, read as the points of a link: a PointReader over one snapshot.

A point is a row that has a vector. It refers to its row by the key's columns; its id is the
vector's own primary key (or the row's key, for a column in the row's own table) where that is
an integer or a UUID, and a UUID made of it otherwise.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

from psycopg import sql

from vbackup.model.blocks import PointBlock, PointId
from vbackup.model.link import Link
from vbackup.ports import RowReader
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection
from vbackup.postgres.snapshot import SnapshotView
from vbackup.postgres.vector_plan import VectorPlan, vector_plans

LOOKUP_KEYS = rows.LOOKUP_KEYS
_NAMES = uuid.UUID("3a2f2f5e-58a5-4c6e-8a38-7f0b6d1c9e54")
_UNSIGNED = 2**64


class PgvectorPoints:
    """The vectors of a database as one snapshot shows them. Thread-safe.

    Vectors of other dimensions than the link says are left out, as if they were not there;
    `warnings` says how many there were."""

    def __init__(self, view: RowReader, links: Sequence[Link]) -> None:
        """`view` is a snapshot of this room; whoever opened it closes it."""
        if not isinstance(view, SnapshotView):
            raise TypeError("vectors are read in a snapshot of PostgreSQL")
        self._view = view
        self._links = [link for link in links if link.vectors]
        self._plans: dict[str, list[VectorPlan]] = {}
        self._unfit: dict[str, int] = {}
        self._lock = threading.Lock()

    def collections(self) -> Sequence[str]:
        """See ports.PointReader: the names that links give to their vectors."""
        return list(dict.fromkeys(link.collection for link in self._links))

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:  # noqa: ARG002
        """Every vector of the link; `collection` is only the link's name for them.

        Raises Usage, NotFound, Denied, Refused (row security), Unreachable."""
        unfit = 0
        with self._view.reading(f"reading the vectors of link {link.name}") as connection:
            for plan in self._planned(connection, link):
                for block, left_out in _stream(connection, plan, plan.select()):
                    unfit += left_out
                    if len(block):
                        yield block
        with self._lock:
            self._unfit[link.name] = unfit

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        """See ports.PointReader; reads all vectors of the link, for ids need not be its keys."""
        wanted = set(ids)
        found = [_chosen(block, wanted) for block in self.points(link, collection)]
        return _joined(found)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:  # noqa: ARG002
        """See ports.PointReader."""
        found: list[PointBlock] = []
        with self._view.reading(f"looking up vectors of link {link.name}") as connection:
            for plan in self._planned(connection, link):
                for start in range(0, len(keys), LOOKUP_KEYS):
                    condition = plan.rows.having(keys[start : start + LOOKUP_KEYS])
                    if condition is not None:
                        blocks = _stream(connection, plan, plan.select(condition))
                        found += [block for block, _ in blocks]
        return _joined(found)

    def warnings(self, link: Link) -> list[str]:
        """What the last reading of all the link's vectors noticed."""
        with self._lock:
            unfit = self._unfit.get(link.name, 0)
        if not unfit or link.vectors is None:
            return []
        said = "1 vector has" if unfit == 1 else f"{unfit:,} vectors have"
        return [f"{said} other dimensions than {link.vectors.dimensions}: counted as missing"]

    def _planned(self, connection: Connection, link: Link) -> list[VectorPlan]:
        with self._lock:
            if link.name not in self._plans:
                self._plans[link.name] = list(vector_plans(connection, link))
            return self._plans[link.name]


def point_id(text: str) -> PointId:
    """The id of a vector by the text of its identity: an unsigned integer, a UUID, or a UUID
    made of any other text."""
    if text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < _UNSIGNED:
        return int(text)
    if len(text) == len(str(_NAMES)):
        try:
            return str(uuid.UUID(text))
        except ValueError:
            pass
    return str(uuid.uuid5(_NAMES, text))


def _stream(
    connection: Connection, plan: VectorPlan, query: sql.Composed
) -> Iterator[tuple[PointBlock, int]]:
    """Blocks of vectors that fit, and how many were left out of each."""
    for text in rows.copied(connection, query):
        yield parse(text, plan)


def parse(text: str, plan: VectorPlan) -> tuple[PointBlock, int]:
    """A block out of whole lines of COPY's text, in the order of the plan's columns, and how
    many vectors were left out for their dimensions."""
    remaining = iter(rows.split(text, len(plan.columns)))
    refs = rows.keys_of(plan.rows.key, [next(remaining) for _ in plan.rows.key])
    names = rows.keys_of(plan.identity, [next(remaining) for _ in plan.identity])
    version = plan.rows.version
    versions = rows.spelled(next(remaining), version) if version else None
    ids = [point_id(name or "") for name in names]
    block = PointBlock(ids, refs, versions)
    if not plan.counted:
        return block, 0
    fits = [found == str(plan.wanted) for found in next(remaining)]
    return _compressed(block, fits), fits.count(False)


def _chosen(block: PointBlock, wanted: set[PointId]) -> PointBlock:
    return _compressed(block, [each in wanted for each in block.ids])


def _compressed(block: PointBlock, keep: Sequence[bool]) -> PointBlock:
    if all(keep):
        return block
    versions = list(compress(block.versions, keep)) if block.versions is not None else None
    return PointBlock(list(compress(block.ids, keep)), list(compress(block.refs, keep)), versions)


def _joined(blocks: Iterable[PointBlock]) -> PointBlock:
    """One block out of several of one link: all say a version or none does."""
    found = [block for block in blocks if len(block)]
    said = [block.versions for block in found if block.versions is not None]
    return PointBlock(
        ids=[each for block in found for each in block.ids],
        refs=[each for block in found for each in block.refs],
        versions=[each for versions in said for each in versions] if said else None,
    )
