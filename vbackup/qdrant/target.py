"""The Qdrant deployment that collections are restored into: `vbackup.ports.PointTarget`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vbackup.config import QdrantConfig
from vbackup.errors import NotFound
from vbackup.model.blocks import Point, PointId
from vbackup.model.manifest import Artifact, CollectionPart, JsonObject
from vbackup.ports import Clock, PointSource, Reporter
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.collections import create_collection, differences, restore_strict_mode
from vbackup.qdrant.recover import recover_collection
from vbackup.qdrant.rest import collection_path
from vbackup.qdrant.settle import await_replicas, settle_collection
from vbackup.qdrant.source import QdrantSource
from vbackup.qdrant.write import delete_points, upsert_points


class QdrantTarget:
    """Writes one deployment. Thread-safe; `close` frees its connections."""

    def __init__(self, options: QdrantConfig, clock: Clock) -> None:
        self._options = options
        self._cluster = Cluster(options, clock)
        self._source = QdrantSource(options, clock, cluster=self._cluster)
        self._clock = clock
        self._strict: dict[str, JsonObject] = {}

    def close(self) -> None:
        self._source.close()
        self._cluster.close()

    def preflight(self, part: CollectionPart, name: str, *, existing: bool) -> list[str]:
        """Everything that would make the restore fail, found before anything is touched."""
        self._cluster.versions()
        if existing:
            return differences(self._cluster, part, name)
        problems = []
        if self.exists(name):
            problems.append(f"collection {name!r} exists already")
        elif name in self._cluster.aliases():
            problems.append(f"{name!r} is an alias, no collection can have that name")
        if part.custom_sharding and not self._cluster.distributed():
            problems.append(
                f"collection {part.name!r} has shard keys: the target needs cluster mode"
            )
        problems += self._lost(part)
        return problems

    def _lost(self, part: CollectionPart) -> list[str]:
        """Qdrant gives a lost member its share of a new collection, which then never is whole."""
        replicas = len(part.shards) * int(part.config["params"].get("replication_factor") or 1)
        if replicas < len(self._cluster.peers()):
            return []
        return [
            f"member {uri} of the Qdrant cluster does not answer, and would get shards of the new"
            " collections: start it, or remove it from the cluster (DELETE /cluster/peer/ID)"
            for uri in self._cluster.lost_peers()
        ]

    def create(self, part: CollectionPart, name: str) -> None:
        """Create the collection from its saved configuration, all but strict mode, which the
        next `settle` sets. Raises AlreadyExists, Refused."""
        create_collection(self._cluster, part, name)
        await_replicas(self._cluster, name, self._clock, self._options.timeout)
        self._strict[name] = part.config

    def recover(
        self,
        part: CollectionPart,
        name: str,
        open_artifact: Callable[[Artifact], Iterator[bytes]],
        report: Reporter,
    ) -> None:
        """Upload every shard to a node that holds it, with its checksum, and wait for it."""
        recover_collection(self._cluster, part, name, open_artifact, report)

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Write whole points; returns when they can be read. Shard keys that they name and the
        collection lacks are made."""
        upsert_points(self._cluster, name, points)

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """Remove points; absent ones are no error."""
        delete_points(self._cluster, name, ids)

    def settle(self, name: str, *, timeout: float) -> int:
        """Wait until all replicas are Active, counts agree and the status is green; the count.

        A strict mode that `create` left out is set then.
        """
        points = settle_collection(self._cluster, name, self._clock, timeout)
        restore_strict_mode(self._cluster, self._strict.pop(name, {}), name)
        return points

    def exists(self, name: str) -> bool:
        return self._cluster.exists(name)

    def drop(self, name: str) -> None:
        """Delete the collection, its aliases too; an absent one is no error."""
        self._cluster.ask("DELETE", collection_path(name))

    def alias(self, changes: Sequence[tuple[str, str]]) -> None:
        """Point aliases at collections, in one request; an alias that exists is moved without a
        gap. Raises NotFound before anything is changed."""
        names = self._cluster.names()
        for _, collection in changes:
            # Qdrant applies the actions one by one, and keeps the first ones when one fails.
            if collection not in names:
                raise NotFound(f"Qdrant has no collection {collection!r} to point an alias at")
        actions = [
            {"create_alias": {"alias_name": alias, "collection_name": collection}}
            for alias, collection in changes
        ]
        if actions:
            body = {"actions": actions}
            self._cluster.ask("POST", "/collections/aliases", body)

    def reader(self) -> PointSource:
        """The live collections."""
        return self._source
