"""What speaks for a link between a payload path and a column, measured on samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from vbackup.engine.payloads import scalars
from vbackup.engine.versions import same
from vbackup.model.blocks import Point
from vbackup.model.keys import composite
from vbackup.ports import KeyColumn, SampledRow

ID = "id"
AGREED = 0.9
"""Share of the pairs that must agree: some points lag behind, some are wrong."""
_VERSIONS = (
    "version", "revision", "rev", "hash", "checksum", "digest", "etag", "updated", "modified",
    "changed",
)  # fmt: skip
_TENANTS = ("tenant", "org", "organization", "workspace", "account", "customer", "owner", "user")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sampled points: for each the canonical texts by path, its id being one of them."""

    points: tuple[Mapping[str, str], ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Drawn:
        return cls(tuple({**scalars(p.payload), ID: str(p.id)} for p in points))

    def joined(self, paths: Sequence[str]) -> Drawn:
        """The same points, with the values of these paths as one composite reference too."""
        joint = joint_path(paths)
        return Drawn(
            tuple(
                {**values, joint: text}
                if (text := composite(values.get(path) for path in paths)) is not None
                else values
                for values in self.points
            )
        )

    def references(self) -> dict[str, list[str]]:
        """What most points have and what tells them apart somewhat: values by path."""
        columns: dict[str, list[str]] = {}
        for values in self.points:
            for path, value in values.items():
                columns.setdefault(path, []).append(value)
        return {path: found for path, found in columns.items() if self._enough(found)}

    def reference(self, path: str) -> list[str]:
        """The values of one path, as in `references`; none where few points have it."""
        found = [values[path] for values in self.points if path in values]
        return found if self._enough(found) else []

    def _enough(self, found: Sequence[str]) -> bool:
        return len(found) >= max(1.0, len(self.points) / 2)


def joint_path(paths: Sequence[str]) -> str:
    """What a composite reference is called among paths: no path has a line break."""
    return "\n".join(paths)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A payload path that repeats a column of the row in (nearly) all sampled pairs."""

    path: str
    column: str
    varies: bool

    @property
    def named_alike(self) -> bool:
        return _last(self.path) == self.column.lower()


def agreements(
    drawn: Drawn, ref: str, key: KeyColumn, rows: Mapping[str, SampledRow]
) -> list[Agreement]:
    """What else points and their rows have in common. What never varies counts only when both
    sides call it the same."""
    pairs = [(values, row) for values in drawn.points if (row := rows.get(values.get(ref, "")))]
    found: list[Agreement] = []
    for path, column in _comparable(pairs, ref, key):
        both = [(v[path], r.columns[column]) for v, r in pairs if path in v and column in r.columns]
        equal = sum(same(one, other) for one, other in both)
        if len(both) >= max(1, len(pairs) / 2) and equal >= AGREED * len(both):
            seen = Agreement(path, column, varies=len({one for one, _ in both}) > 1)
            if seen.varies or seen.named_alike:
                found.append(seen)
    return found


def _comparable(
    pairs: Sequence[tuple[Mapping[str, str], SampledRow]], ref: str, key: KeyColumn
) -> Iterator[tuple[str, str]]:
    """Paths and columns worth comparing: those that agree in some of the first pairs."""
    hits: Counter[tuple[str, str]] = Counter()
    for values, row in islice(pairs, 10):
        for path, value in values.items():
            if path in (ref, ID, *ref.split("\n")):
                continue
            hits.update(
                (path, name)
                for name, other in row.columns.items()
                if name not in key.columns and same(value, other)
            )
    yield from hits


def version_of(found: Sequence[Agreement]) -> Agreement | None:
    """The agreement that looks most like a version."""
    return _best(found, _VERSIONS)


def tenant_of(found: Sequence[Agreement]) -> Agreement | None:
    """The agreement that looks most like whom a row belongs to."""
    return _best(found, _TENANTS)


def _best(found: Sequence[Agreement], words: Sequence[str]) -> Agreement | None:
    """By the names of column and path: an integer key may happen to equal a version."""
    ranked = [
        (rank, not a.named_alike, not set(_tokens(_last(a.path))) & set(words), a)
        for a in found
        if (rank := _rank(a, words)) is not None
    ]
    return min(ranked, key=lambda entry: entry[:3])[3] if ranked else None


def _rank(agreement: Agreement, words: Sequence[str]) -> int | None:
    """The place of the first of these words in the name of the column or of the path."""
    tokens = {*_tokens(agreement.column), *_tokens(_last(agreement.path))}
    return next((number for number, word in enumerate(words) if word in tokens), None)


def named_after(ref: str, key: KeyColumn) -> bool:
    """Whether a path is called as people call a reference to this column: `chunk_id` or
    `chunk.id` to `chunks.id`, or by the column's own, telling name."""
    steps = [step.lower() for step in ref.replace("|json", "").split(".")]
    table = key.table.rpartition(".")[2].strip('"').lower()
    column = key.column.lower()
    nouns = {table, table.removesuffix("s"), table.removesuffix("es")}
    nouns |= {noun.rpartition("_")[2] for noun in nouns}
    wanted = nouns | {f"{noun}_{column}" for noun in nouns}
    wanted |= {f"{noun}{column}" for noun in nouns}
    if column != ID:
        wanted.add(column)
    return steps[-1] in wanted or (steps[-1] == column and len(steps) > 1 and steps[-2] in nouns)


def _last(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _tokens(name: str) -> list[str]:
    return name.lower().replace("-", "_").split("_")
