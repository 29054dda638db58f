"""Links: which rows own which points (docs/configuration.md, section `[[link]]`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

JSON_STEP = "|json"


@dataclass(frozen=True, slots=True)
class PayloadPath:
    """A path into a point's payload; the step `|json` parses a JSON string on the way."""

    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> PayloadPath:
        """Parse `a.b.c` or `_node_content|json.relationships.1.hash` (without `payload:`).

        Raises ValueError when a step is empty.
        """
        steps: list[str] = []
        for part in text.split("."):
            name, marker, rest = part.partition(JSON_STEP)
            if not name or rest:
                raise ValueError(f"bad payload path {text!r}")
            steps.append(name)
            if marker:
                steps.append(JSON_STEP)
        return cls(tuple(steps))

    @property
    def root(self) -> str:
        """The dotted path up to the first `|json` step: what a server can filter and project."""
        head = self.steps[: self.steps.index(JSON_STEP)] if JSON_STEP in self.steps else self.steps
        return ".".join(head)

    @property
    def indexable(self) -> bool:
        """Whether a server can match this path in a filter (no JSON text on the way)."""
        return JSON_STEP not in self.steps

    def extract(self, payload: object) -> object:
        """The value at this path, or None where it is absent or not what the path expects."""
        value = payload
        for step in self.steps:
            if step == JSON_STEP:
                if not isinstance(value, str):
                    return None
                try:
                    value = json.loads(value)
                except (ValueError, RecursionError):
                    return None
            elif isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, list):
                value = _element(value, step)
            else:
                return None
        return value

    def __str__(self) -> str:
        text = ""
        for step in self.steps:
            text += step if step == JSON_STEP or not text else f".{step}"
        return text


def _element(values: list[object], step: str) -> object:
    """The element of an array that a step names by its position; None when there is none."""
    if not (step.isascii() and step.isdigit() and len(step) < 10):
        return None
    return values[int(step)] if int(step) < len(values) else None


@dataclass(frozen=True, slots=True)
class RowSource:
    """Rows of one table (`table` and `key`), or of one query (`sql`) that yields the columns
    key and optionally collection, live, version, count, tenant. The rest are SQL expressions;
    `changed_by` grows with every change (a timestamp or a sequence) and has an index."""

    table: str | None = None
    sql: str | None = None
    key: tuple[str, ...] = ()
    where: str | None = None
    live: str | None = None
    version: str | None = None
    count: str | None = None
    tenant: str | None = None
    changed_by: str | None = None


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Where pgvector keeps a link's vectors: in a column of the row's own table, or (`table` and
    `key`: the columns that hold the row's key) in a table of their own. `version` and `where` are
    SQL expressions over the table that holds the vectors; other `dimensions` than these count as
    no vector."""

    column: str
    dimensions: int | None = None
    table: str | None = None
    key: tuple[str, ...] = ()
    version: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Which rows own which points of the collections that match `collection`.

    `ref` is empty when the point id is the row's key; otherwise one payload path a key part.
    With `vectors` the points are vectors that pgvector keeps in the database itself, and
    `collection` is just their name. `immutable`: a key's text never changes, another text is
    another key (a hash of it); then any point of a key is the right one.
    """

    name: str
    collection: str
    rows: tuple[RowSource, ...]
    ref: tuple[PayloadPath, ...] = ()
    version: PayloadPath | None = None
    cardinality: Literal["one", "many"] = "one"
    filter: Mapping[str, str | int | bool] = field(default_factory=dict)
    must_not: Mapping[str, str | int | bool] = field(default_factory=dict)
    tenant: PayloadPath | None = None
    not_live: Literal["delete", "keep"] = "delete"
    vectors: VectorSource | None = None
    immutable: bool = False

    @property
    def by_id(self) -> bool:
        """Whether the point id itself is the row's key."""
        return not self.ref and self.vectors is None

    @property
    def row_versions(self) -> bool:
        """Whether rows say their version."""
        return any(source.version or source.sql for source in self.rows)

    @property
    def point_versions(self) -> bool:
        """Whether points say their version."""
        return self.version is not None or bool(self.vectors and self.vectors.version)

    @property
    def keyed(self) -> bool:
        """Whether both sides say a version, so that content can be compared exactly."""
        return self.point_versions and self.row_versions

    @property
    def exact(self) -> bool:
        """Whether it can be told which row version a point was made of: both sides say one, or
        there is only one."""
        return self.keyed or self.immutable
