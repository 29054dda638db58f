"""The Qdrant deployment that is backed up: `vbackup.ports.PointSource`.

What only backups need is imported where it is used: a reconcile starts without it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

from vbackup.config import QdrantConfig
from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.link import Link
from vbackup.ports import Clock, PointReader, PointStoreFacts, ShardRef, ShardSpool
from vbackup.qdrant.catalog import store_facts
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.points import LivePoints
from vbackup.qdrant.sample import sample


class QdrantSource:
    """Reads one deployment. Thread-safe; `close` stops running streams and frees connections."""

    def __init__(
        self, options: QdrantConfig, clock: Clock, *, cluster: Cluster | None = None
    ) -> None:
        """`cluster` shares the connections of somebody else, who closes them."""
        self._options = options
        self._clock = clock
        self._borrowed = cluster is not None
        self._cluster = cluster or Cluster(options, clock)
        self._points = LivePoints(self._cluster)
        self._stop = threading.Event()
        self._numbers = count()

    def close(self) -> None:
        self._stop.set()
        if not self._borrowed:
            self._cluster.close()

    def facts(self, patterns: Sequence[str]) -> PointStoreFacts:
        """Versions, nodes that are up, and the collections that match.

        A pattern without glob characters must exist (NotFound), and every shard must have an
        Active replica on a configured node (Refused).
        """
        ignore = self._options.collections_ignore_missing
        return store_facts(self._cluster, patterns, ignore_missing=ignore)

    def spool(self, shard: ShardRef, directory: Path) -> ShardSpool:
        """Start streaming one shard snapshot into a new file below `directory`."""
        from vbackup.qdrant.shards import start_spool

        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", shard.collection)[:80]
        path = directory / f"{safe}-{shard.id}-{next(self._numbers)}.snapshot"
        node = self._cluster.node(shard.node)
        return start_spool(node, shard, path, self._clock, self._stop)

    def collections(self) -> Sequence[str]:
        return self._points.collections()

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        return self._points.points(link, collection)

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        return self._points.lookup(link, collection, ids)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        return self._points.owned(link, collection, keys)

    def fetch(self, link: Link, collection: str, keys: Sequence[str]) -> dict[str, list[Point]]:
        return self._points.fetch(link, collection, keys)

    def fetch_ids(self, collection: str, ids: Sequence[PointId]) -> list[Point]:
        return self._points.fetch_ids(collection, ids)

    def sample(self, collection: str, count: int) -> list[Point]:
        return sample(self._cluster, collection, count)

    def offline(
        self, spools: Sequence[ShardSpool], directory: Path
    ) -> AbstractContextManager[PointReader]:
        """The collections as these finished spools hold them. Raises what a spool failed with."""
        from vbackup.qdrant.offline import open_spools

        return open_spools(spools, directory)
