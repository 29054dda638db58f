"""Columns of rows and points as they stream past: the unit that readers yield and engines eat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PointId = int | str
"""A Qdrant point id: an unsigned 64-bit integer or a UUID in canonical text."""


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of one link, column by column; all present columns have the same length.

    Keys and versions are canonical text (model.keys). `live` None means all rows are live;
    `versions`, `counts`, `tenants`, `collections` None means the link does not say.
    A key of None (a null in the table) is skipped by readers and never yielded.
    """

    keys: Sequence[str]
    versions: Sequence[str | None] | None = None
    live: Sequence[bool] | None = None
    counts: Sequence[int | None] | None = None
    tenants: Sequence[str | None] | None = None
    collections: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class PointBlock:
    """Points of one collection, column by column; all present columns have the same length.

    `refs` is the canonical key that each point refers to (for id links: the id as text), None
    where the payload has no such key. `versions`/`tenants` None: the link does not say.
    """

    ids: Sequence[PointId]
    refs: Sequence[str | None]
    versions: Sequence[str | None] | None = None
    tenants: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Point:
    """One whole point. `vector` and `payload` are exactly Qdrant's REST JSON values."""

    id: PointId
    vector: object
    payload: dict[str, object]
    shard_key: str | int | None = None
