"""Shard keys that points name and a collection lacks: made before the points are written."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from vbackup.errors import AlreadyExists
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.rest import collection_path
from vbackup.qdrant.settle import await_replicas

ShardKey = str | int | None


def ensure_keys(cluster: Cluster, name: str, keys: Iterable[ShardKey]) -> None:
    """Make those of these shard keys that the collection lacks; returns when they can be written
    to. None is no key, and always there.

    A tenant that came while a backup was made has points in its patch, but no shard among those
    that were cut. Raises Failed when replicas do not become Active, NotFound, Unreachable.
    """
    wanted = dict.fromkeys(key for key in keys if key is not None)
    if not wanted:
        return
    there = {replica.key for replica in cluster.replicas(name)}
    missing = [key for key in wanted if key not in there]
    for key in missing:
        # How many shards and replicas a key gets is the collection's own setting.
        with suppress(AlreadyExists):
            cluster.ask("PUT", collection_path(name, "shards"), {"shard_key": key})
    if missing:
        await_replicas(cluster, name, cluster.clock, cluster.timeout)
