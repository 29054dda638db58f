"""Points into live collections, in requests of a size that servers take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vbackup.model.blocks import Point, PointId
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.limits import MATCHED, Limits
from vbackup.qdrant.rest import collection_path
from vbackup.qdrant.shardkeys import ShardKey, ensure_keys

REQUEST_BYTES = 8 << 20
"""A quarter of what Qdrant takes by default (service.max_request_size_mb)."""


def upsert_points(cluster: Cluster, name: str, points: Sequence[Point]) -> None:
    """Write whole points and wait until they can be read. Shard keys that they name and the
    collection lacks are made."""
    if not points:
        return
    ensure_keys(cluster, name, (point.shard_key for point in points))
    most = Limits.of(cluster.info(name)["config"]).upserted
    path = collection_path(name, "points")
    for key, batch in _batches(points, most):
        body: dict[str, object] = {"points": batch}
        if key is not None:
            body["shard_key"] = key
        cluster.ask("PUT", path, body, params={"wait": True})


def delete_points(cluster: Cluster, name: str, ids: Sequence[PointId]) -> None:
    """Remove points and wait until they are gone."""
    if not ids:
        return
    path = collection_path(name, "points", "delete")
    where: dict[str, object] = {}
    if cluster.info(name)["config"]["params"].get("sharding_method") == "custom":
        # With shard keys Qdrant wants to know where to look, and all of them is an answer.
        where["shard_key"] = list({replica.key: None for replica in cluster.replicas(name)})
    for start in range(0, len(ids), MATCHED):
        body = {"points": list(ids[start : start + MATCHED]), **where}
        cluster.ask("POST", path, body, params={"wait": True})


def _batches(points: Sequence[Point], most: int) -> Iterator[tuple[ShardKey, list[msgspec.Raw]]]:
    """Points of one shard key together, at most so many and so many bytes a request."""
    open_batches: dict[ShardKey, list[msgspec.Raw]] = {}
    sizes: dict[ShardKey, int] = {}
    for point in points:
        key = point.shard_key
        encoded = msgspec.json.encode(
            {"id": point.id, "vector": point.vector or {}, "payload": point.payload}
        )
        batch = open_batches.setdefault(key, [])
        if batch and (len(batch) >= most or sizes[key] + len(encoded) > REQUEST_BYTES):
            yield key, batch
            batch = open_batches[key] = []
            sizes[key] = 0
        batch.append(msgspec.Raw(encoded))
        sizes[key] = sizes.get(key, 0) + len(encoded)
    yield from open_batches.items()
