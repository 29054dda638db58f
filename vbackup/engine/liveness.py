"""Which rows of a table have points: the condition that samples speak for.

A table often holds more than what is indexed: deleted, archived or unfinished rows, or rows of
another kind, whose points are elsewhere. A column that tells the two apart is worth a hint.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from vbackup.ports import SampledRow

LIKELY = 0.95
"""With a smaller share of its rows having a point, a table holds rows that should have none."""
FEWEST = 5
"""Rows with and rows without a point that it takes to tell a column from a coincidence."""
FEW_VALUES = 8
"""Values of a column that names states or kinds."""
HELD = 0.98
"""Share of the rows with a point that the condition must hold for: others' points would have to
go."""
APART = 0.9
"""Share of the rows in the condition that must have a point, and of the others that must not."""
_STATES = (
    "live", "deleted", "removed", "archived", "status", "state", "indexed", "embedded", "enabled",
    "disabled", "active", "published", "visible", "hidden", "draft", "trashed", "expired",
)  # fmt: skip
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL over a row, and how many of the sampled rows inside and outside of it have a point.
    `state`: it tells how a row is (`live`), else which kind of row it is (`where`)."""

    sql: str
    column: str
    inside: float
    outside: float
    state: bool


def condition(rows: Mapping[str, SampledRow], having: Collection[str]) -> Condition | None:
    """The best condition on one column that tells the rows `having` points from the others."""
    with_point = [row for key, row in rows.items() if key in having]
    without = [row for key, row in rows.items() if key not in having]
    if min(len(with_point), len(without)) < FEWEST:
        return None
    names = sorted({name for row in rows.values() for name in row.columns})
    found = [
        candidate
        for name in names
        for candidate in _on(name, [_value(row, name) for row in with_point],
                             [_value(row, name) for row in without])
    ]  # fmt: skip
    return min(found, key=_rank, default=None)


def _on(name: str, with_point: list[str | None], without: list[str | None]) -> Iterator[Condition]:
    """The conditions on one column that hold what they promise."""
    quoted = name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'
    values = {value for value in (*with_point, *without) if value is not None}
    sets: list[tuple[str, set[str | None]]] = [
        (f"{quoted} IS NULL", {None}),
        (f"{quoted} IS NOT NULL", set(values)),
    ]
    if len(values) <= FEW_VALUES:
        wanted = sorted(v for v in values if with_point.count(v) >= max(1, without.count(v)))
        sets.append((_listed(quoted, wanted), set(wanted)))
    for text, inside in sets:
        held = sum(value in inside for value in with_point)
        wrong = sum(value in inside for value in without)
        others = len(with_point) + len(without) - held - wrong
        if not held or not others:
            continue
        rate, rest = held / (held + wrong), (len(with_point) - held) / others
        if held >= HELD * len(with_point) and rate >= APART and rest <= 1 - APART:
            yield Condition(text, name, rate, rest, state=_tells_state(name))


def _listed(quoted: str, values: list[str]) -> str:
    literals = ["'" + value.replace("'", "''") + "'" for value in values]
    if len(literals) == 1:
        return f"{quoted} = {literals[0]}"
    return f"{quoted} IN ({', '.join(literals)})"


def _value(row: SampledRow, name: str) -> str | None:
    return row.columns.get(name)


def _tells_state(name: str) -> bool:
    tokens = set(name.lower().replace("-", "_").split("_"))
    return bool(tokens & set(_STATES))


def _rank(found: Condition) -> tuple[float, bool, int, str]:
    """What tells apart best; then what is called so; then what is said shortest."""
    return (-round(found.inside - found.outside, 2), not found.state, len(found.sql), found.sql)
