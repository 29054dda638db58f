"""A link's filters and references as Qdrant filter JSON, and the same tests made here.

Both are needed: a server filters a scan of everything, while offline reading, lookups by id and
collections whose strict mode forbids unindexed filters are filtered here. They agree with
Qdrant: a value matches its equal, and an array matches when one of its elements does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from vbackup.model.blocks import PointId
from vbackup.model.link import Link, PayloadPath

JsonFilter = dict[str, Any]
Scalar = str | int | bool
Kind = Literal["text", "integer", "uuid"]

_KINDS: dict[str, Kind] = {"integer": "integer", "keyword": "text", "uuid": "uuid"}
_NOTHING: JsonFilter = {"has_id": []}

_DECIMAL = re.compile(r"0|-?[1-9]\d{0,18}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)


def server_key(steps: Sequence[str]) -> str:
    """A payload path as Qdrant spells it, every step quoted: `"my key"."b"`."""
    return ".".join(f'"{step}"' for step in steps)


def link_filter(link: Link) -> JsonFilter:
    """The link's `filter` and `must_not` for a server; empty when there are none."""
    found: JsonFilter = {}
    if link.filter:
        found["must"] = [_equals(path, value) for path, value in link.filter.items()]
    if link.must_not:
        found["must_not"] = [_equals(path, value) for path, value in link.must_not.items()]
    return found


def _equals(path: str, value: Scalar) -> JsonFilter:
    return {"key": server_key(path.split(".")), "match": {"value": value}}


def filter_paths(link: Link) -> list[PayloadPath]:
    """What must be read of a payload to test the link's filters here."""
    return [PayloadPath.parse(path) for path in (*link.filter, *link.must_not)]


class Admission:
    """The link's filters, tested here."""

    def __init__(self, filters: Mapping[str, Scalar], must_not: Mapping[str, Scalar]) -> None:
        self._must = [(tuple(path.split(".")), value) for path, value in filters.items()]
        self._must_not = [(tuple(path.split(".")), value) for path, value in must_not.items()]

    @property
    def everything(self) -> bool:
        """Whether there is nothing to test."""
        return not self._must and not self._must_not

    def __call__(self, payload: object) -> bool:
        return all(_holds(payload, path, value) for path, value in self._must) and not any(
            _holds(payload, path, value) for path, value in self._must_not
        )


def _holds(payload: object, steps: Sequence[str], wanted: Scalar) -> bool:
    """Whether the value at the path, or one element of an array there, is the wanted one."""
    value = payload
    for step in steps:
        if not isinstance(value, Mapping):
            return False
        value = value.get(step)
    found = value if isinstance(value, list) else (value,)
    return any(type(item) is type(wanted) and item == wanted for item in found)


def point_ids(keys: Iterable[str]) -> list[PointId]:
    """The keys that can be point ids, as such; others own no point of a link by id."""
    found: list[PointId] = []
    for key in keys:
        if key.isdecimal() and key.isascii() and str(int(key)) == key and int(key) in _UINT64:
            found.append(int(key))
        elif _UUID.fullmatch(key):
            found.append(key)
    return found


def owned_filter(
    refs: Sequence[PayloadPath], keys: Sequence[str], kinds: Sequence[Kind | None] = ()
) -> JsonFilter | None:
    """What a server can match to find a superset of the points that refer to these keys.

    `kinds` tells, reference by reference, of which type all the values are known to be: values
    of other types are not searched, so that a payload index can answer alone. None is returned
    when no part of the reference can be matched by a server (JSON text on the way).
    """
    columns = _parts(keys, len(refs))
    known = list(kinds) or [None] * len(refs)
    must = [
        {"should": list(_matches(server_key(path.steps), column, kind)) or [_NOTHING]}
        for path, column, kind in zip(refs, columns, known, strict=True)
        if matchable(path)
    ]
    return {"must": must} if must else None


def covering_kind(path: PayloadPath, indexed: str | None, points: int, total: int) -> Kind | None:
    """The type of all values of a path, when a payload index of that type holds every point."""
    if points < total or not matchable(path):
        return None
    return _KINDS.get(indexed or "")


def matchable(path: PayloadPath) -> bool:
    """Whether a server can match this path: no JSON text, no list index on the way."""
    return path.indexable and not any(step.isdigit() for step in path.steps)


def _parts(keys: Sequence[str], count: int) -> list[set[str]]:
    """The distinct values of each part of composite keys; keys that are none are left out."""
    if count == 1:
        return [set(keys)]
    columns: list[set[str]] = [set() for _ in range(count)]
    for key in keys:
        try:
            parts = json.loads(key)
        except ValueError:
            continue
        if isinstance(parts, list) and len(parts) == count:
            for column, part in zip(columns, parts, strict=True):
                column.add(str(part))
    return columns


def _matches(key: str, values: Iterable[str], kind: Kind | None) -> Iterator[JsonFilter]:
    """Conditions for every form in which a payload may hold these canonical values: as text, as
    an integer, as another common spelling of a UUID, as a boolean."""
    texts: list[str] = []
    integers: list[int] = []
    for value in sorted(values):
        if kind != "uuid" or _UUID.fullmatch(value):
            texts += _spellings(value)
        if _DECIMAL.fullmatch(value) and int(value) in _INT64:
            integers.append(int(value))
        if value in ("true", "false") and kind is None:
            yield {"key": key, "match": {"value": value == "true"}}
    if texts and kind != "integer":
        yield {"key": key, "match": {"any": texts}}
    if integers and kind in (None, "integer"):
        yield {"key": key, "match": {"any": integers}}


def _spellings(value: str) -> list[str]:
    if not _UUID.fullmatch(value):
        return [value]
    plain = UUID(value).hex
    return [value, value.upper(), plain, plain.upper()]
