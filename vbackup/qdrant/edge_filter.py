"""Filters and payload indexes for Qdrant's engine in process; only its own process imports this."""

from __future__ import annotations

from collections import Counter
from typing import Any

import qdrant_edge

from vbackup.model.link import Link, PayloadPath
from vbackup.qdrant.conditions import JsonFilter, Kind, covering_kind, matchable, server_key

INDEXED_AFTER = 3
"""Searches by payload that read everything before an index is made; making one costs about as
much as four of them."""
_SAMPLE = 200
_TYPES = {
    str: qdrant_edge.PayloadSchemaType.Keyword,
    int: qdrant_edge.PayloadSchemaType.Integer,
}


def edge_filter(wanted: JsonFilter) -> qdrant_edge.Filter:
    """The engine's form of what `conditions.owned_filter` makes for a server."""
    return qdrant_edge.Filter(
        must=[
            qdrant_edge.Filter(should=[_condition(each) for each in part["should"]])
            for part in wanted["must"]
        ]
    )


def _condition(condition: dict[str, Any]) -> Any:
    if "has_id" in condition:
        return qdrant_edge.HasIdCondition(set(condition["has_id"]))
    match = condition["match"]
    return qdrant_edge.FieldCondition(
        key=condition["key"],
        match=qdrant_edge.MatchAny(match["any"])
        if "any" in match
        else qdrant_edge.MatchValue(match["value"]),
    )


class FieldIndexes:
    """Makes payload indexes for the references that are searched again and again."""

    def __init__(self, shard: qdrant_edge.EdgeShard) -> None:
        self._shard = shard
        self._asked: Counter[tuple[PayloadPath, ...]] = Counter()

    def asked(self, link: Link) -> list[Kind | None]:
        """The link's reference is about to be searched; the types that its parts all have."""
        self._asked[link.ref] += 1
        if self._asked[link.ref] == INDEXED_AFTER:
            for path in filter(matchable, link.ref):
                self._make(path)
        schema = self._shard.info().payload_schema
        total = self._shard.info().points_count
        return [self._covering(path, schema.get(path.root), total) for path in link.ref]

    def _covering(self, path: PayloadPath, index: Any, total: int) -> Kind | None:
        if index is None:
            return None
        indexed = str(index.data_type).rpartition(".")[2].lower()
        return covering_kind(path, indexed, index.points, total)

    def _make(self, path: PayloadPath) -> None:
        there = self._shard.info().payload_schema
        kind = self._kind(path)
        if path.root not in there and kind is not None:
            update = qdrant_edge.UpdateOperation.create_field_index(server_key(path.steps), kind)
            self._shard.update(update)

    def _kind(self, path: PayloadPath) -> qdrant_edge.PayloadSchemaType | None:
        """What can index the values of this path, if all that are looked at are of one type."""
        request = qdrant_edge.ScrollRequest(
            limit=_SAMPLE, with_payload=[server_key(path.steps)], with_vector=False
        )
        values = [path.extract(record.payload) for record in self._shard.scroll(request)[0]]
        types = {type(value) for value in values if value is not None}
        return _TYPES.get(types.pop()) if len(types) == 1 else None
