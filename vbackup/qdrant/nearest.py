"""Search as an application does: the nearest points to a vector, or to a point."""

from __future__ import annotations

from collections.abc import Sequence

from vbackup.config import QdrantConfig
from vbackup.errors import Failed
from vbackup.model.blocks import PointId
from vbackup.ports import Clock
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.rest import collection_path


class Neighbours:
    """Searches in one deployment; `close` frees its connections."""

    def __init__(self, options: QdrantConfig, clock: Clock) -> None:
        self._cluster = Cluster(options, clock)

    def close(self) -> None:
        self._cluster.close()

    def nearest(
        self,
        collection: str,
        query: Sequence[float] | PointId,
        using: str | None,
        limit: int,
    ) -> list[PointId]:
        """Ids, best first; the point that is asked about is not among them. Through the index,
        as every search (POST /collections/{name}/points/query). Raises NotFound, Failed."""
        body: dict[str, object] = {"query": query, "limit": limit, "with_payload": False}
        if using is not None:
            body["using"] = using
        path = collection_path(collection, "points", "query")
        answer = self._cluster.any(lambda node: node.result("POST", path, body))
        try:
            return [point["id"] for point in answer["points"]]
        except (KeyError, TypeError):
            raise Failed(f"Qdrant's answer to POST {path} holds no points") from None
