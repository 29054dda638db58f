"""An independent comparison of the application's rows with its points, vectors included.

Shares no code with the engine: it reads every row and every point, computes again from the row's
text what its points must be, and says for each difference what it is. Simple and in memory.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from vbackup.demo.content import Change, Key, points
from vbackup.demo.corpus import Passage
from vbackup.demo.point_store import PointStore
from vbackup.demo.scenario import Scenario

_TOLERANCE = 1e-4
_KINDS = (
    "missing",
    "incomplete",
    "orphans",
    "stale",
    "ahead",
    "not_live",
    "wrong_parts",
    "wrong_vector",
)


@dataclass(slots=True)
class Comparison:
    """Keys by what is wrong with them; a key can appear once only.

    `missing`: live rows without any point. `incomplete`: some of a row's points are there, and
    those are right. `wrong_parts`: points of the right version that the row should not have.
    `wrong_vector`: the version is the row's, the vector is not what its text gives.
    """

    rows: int = 0
    live: int = 0
    points: int = 0
    missing: set[str] = field(default_factory=set)
    orphans: set[str] = field(default_factory=set)
    stale: set[str] = field(default_factory=set)
    ahead: set[str] = field(default_factory=set)
    not_live: set[str] = field(default_factory=set)
    incomplete: set[str] = field(default_factory=set)
    wrong_parts: set[str] = field(default_factory=set)
    wrong_vector: set[str] = field(default_factory=set)

    @property
    def unfinished(self) -> set[str]:
        """Live rows that lack points: what has to be embedded again."""
        return self.missing | self.incomplete

    @property
    def wrong(self) -> set[str]:
        """Keys whose points say something that their row does not."""
        return (
            self.orphans
            | self.stale
            | self.ahead
            | self.not_live
            | self.wrong_parts
            | self.wrong_vector
        )

    def counts(self) -> dict[str, int]:
        """How many keys there are of each kind."""
        return {kind: len(getattr(self, kind)) for kind in _KINDS}

    def __str__(self) -> str:
        found = ", ".join(f"{kind} {count}" for kind, count in self.counts().items())
        return f"{self.rows} rows ({self.live} live), {self.points} points: {found}"


@dataclass(frozen=True, slots=True)
class StoredRow:
    """What the database says of one key."""

    key: Key
    text: str
    version: int
    live: bool


def compare(dsn: str, store: PointStore, scenario: Scenario) -> Comparison:
    """Compare the database of `dsn` with the store's collection. Both must be at rest."""
    rows = _rows(dsn)
    held = _points(store)
    found = Comparison(
        rows=len(rows),
        live=sum(row.live for row in rows.values()),
        points=sum(len(group) for group in held.values()),
    )
    for key in rows.keys() | held.keys():
        kind = judge(rows.get(key), held.get(key, []), scenario)
        if kind:
            getattr(found, kind).add(key)
    return found


def _rows(dsn: str) -> dict[str, StoredRow]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT id, text, version, status = 'published' FROM chunks")
        return {
            str(key): StoredRow(key if isinstance(key, int) else str(key), text, version, live)
            for key, text, version, live in found
        }


def _points(store: PointStore) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for page in store.scroll():
        for point in page:
            groups[str(point["payload"]["chunk_id"])].append(point)
    return groups


def judge(row: StoredRow | None, held: list[dict[str, Any]], scenario: Scenario) -> str:
    """The kind of difference, or "" when row and points agree."""
    if row is None:
        return "orphans"
    if not row.live:
        return "not_live" if held else ""
    if not held:
        return "missing"
    versions = {int(point["payload"][scenario.version_key]) for point in held}
    if min(versions) < row.version:
        return "stale"
    if max(versions) > row.version:
        return "ahead"
    wanted = points(Change(row.key, row.version, row.text, Passage("", "", "")), scenario)
    known = {str(point["id"]) for point in held}
    expected = [point for point in wanted if str(point["id"]) in known]
    if len(expected) < len(held):
        return "wrong_parts"
    if not _same_vectors(held, expected):
        return "wrong_vector"
    return "" if len(expected) == len(wanted) else "incomplete"


def _same_vectors(held: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    def matrix(found: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        ordered = sorted(found, key=lambda point: str(point["id"]))
        return np.array([point["vector"] for point in ordered], dtype=np.float64)

    return bool(np.allclose(matrix(held), matrix(wanted), rtol=0.0, atol=_TOLERANCE))
