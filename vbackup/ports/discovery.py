"""What `init --discover` asks a pair that nobody has described yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vbackup.model.blocks import Point
from vbackup.ports.points import PointReader


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column that points may refer to, or with `more` the columns of a composite key. `table` is
    spelled as in SQL, columns exactly; `unique`: by an index of just these columns; `foreign`: it
    refers to another table itself."""

    table: str
    column: str
    kind: str
    """`integer`, `uuid` or `text`."""
    unique: bool = True
    foreign: bool = False
    rows_estimate: int = 0
    more: tuple[tuple[str, str], ...] = ()
    """Further columns and their kinds."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the key."""
        return (self.column, *(name for name, _ in self.more))

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind, *(kind for _, kind in self.more))


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row by its canonical key, with the canonical texts of its short columns."""

    key: str
    columns: Mapping[str, str]


class KeyCatalog(Protocol):
    """The keys of a database whose links nobody has described yet."""

    def keys(self) -> Sequence[KeyColumn]:
        """All columns that can be looked up through an index."""
        ...

    def rows(self, key: KeyColumn, wanted: Sequence[str]) -> Sequence[SampledRow]:
        """The rows with one of these canonical keys."""
        ...

    def sample(self, key: KeyColumn, count: int) -> Sequence[SampledRow]:
        """Up to `count` rows from all over the table."""
        ...


class PointSampler(PointReader, Protocol):
    """A PointReader that can also draw points."""

    def sample(self, collection: str, count: int) -> Sequence[Point]:
        """Up to `count` points at random, without vectors."""
        ...
