"""The nodes of one Qdrant deployment: who answers, which collections there are, who holds what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vbackup.config import QdrantConfig
from vbackup.errors import Failed, NotFound, Unreachable
from vbackup.ports import Clock
from vbackup.qdrant.failures import NotAsked
from vbackup.qdrant.rest import ATTEMPTS, Node, Params, collection_path

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of one shard. `node` is None when it lives on a node that is not configured (or
    does not answer), and then `points` is not known."""

    shard: int
    key: str | int | None
    state: str
    peer: int
    node: Node | None
    points: int | None = None


class Cluster:
    """Several nodes that serve the same collections; or one."""

    def __init__(self, options: QdrantConfig, clock: Clock) -> None:
        self.clock = clock
        self.timeout = options.timeout
        self.nodes = tuple(Node(url, options, clock) for url in options.urls)

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def node(self, location: str) -> Node:
        """The node shown under this address. Raises Failed."""
        for node in self.nodes:
            if node.location == location:
                return node
        raise Failed(f"{location} is not among the configured Qdrant nodes")

    def any(self, ask: Callable[[Node], T], passes: type[Unreachable] = Unreachable) -> T:
        """The answer of the first node that is up. Raises what the last one failed with, and at
        once what is no failure that `passes` the question on to the next node."""
        last: Unreachable | None = None
        for node in self.nodes:
            try:
                return ask(node)
            except passes as error:
                last = error
        raise last or Unreachable("no Qdrant node is configured")

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Params | None = None,
        attempts: int = ATTEMPTS,
    ) -> bytes:
        """The raw answer of the first node that is up. With `attempts=1` the request is made once
        in all: no other node is asked after one that may have done it."""
        return self.any(
            lambda node: node.call(method, path, body, params=params, attempts=attempts),
            NotAsked if attempts == 1 else Unreachable,
        )

    def up(self, ask: Callable[[Node], T]) -> dict[Node, T]:
        """The answers of all nodes that are up; at least one. Raises Unreachable."""
        answers: dict[Node, T] = {}
        last: Unreachable | None = None
        for node in self.nodes:
            try:
                answers[node] = ask(node)
            except Unreachable as error:
                last = error
        if not answers:
            raise last or Unreachable("no Qdrant node is configured")
        return answers

    def versions(self) -> dict[str, str]:
        """The version of each node that is up, by its address. Raises Unreachable."""
        return {node.location: version for node, version in self.up(_version).items()}

    def names(self) -> list[str]:
        """The names of all collections, sorted."""
        listed = self.any(lambda node: node.get("/collections"))
        return sorted(entry["name"] for entry in listed["collections"])

    def aliases(self) -> dict[str, str]:
        """Every alias and the collection it stands for."""
        listed = self.any(lambda node: node.get("/aliases"))
        return {entry["alias_name"]: entry["collection_name"] for entry in listed["aliases"]}

    def exists(self, name: str) -> bool:
        try:
            self.info(name)
        except NotFound:
            return False
        return True

    def info(self, name: str) -> dict[str, Any]:
        """`GET /collections/{name}`. Raises NotFound."""
        answer: dict[str, Any] = self.any(lambda node: node.get(collection_path(name)))
        return answer

    def count(self, name: str, node: Node | None = None) -> int:
        """The exact number of points."""

        def ask(asked: Node) -> int:
            path = collection_path(name, "points", "count")
            return int(asked.result("POST", path, {"exact": True})["count"])

        return ask(node) if node else self.any(ask)

    def replicas(self, name: str) -> list[Replica]:
        """Every replica of every shard, as the configured nodes tell. Raises NotFound."""
        found: dict[tuple[int, int], Replica] = {}
        for node, told in self._told(name).items():
            for replica in _told_by(node, told):
                # A node knows its own replicas best.
                if replica.node or (replica.shard, replica.peer) not in found:
                    found[replica.shard, replica.peer] = replica
        return sorted(found.values(), key=lambda replica: (replica.shard, replica.peer))

    def busy(self, name: str) -> str:
        """What keeps shards moving, as text; empty when nothing does."""
        moving: set[str] = set()
        for told in self._told(name).values():
            moving |= {f"shard {t['shard_id']} is being moved" for t in told["shard_transfers"]}
            if told.get("resharding_operations"):
                moving.add("the collection is being resharded")
        return ", ".join(sorted(moving))

    def distributed(self) -> bool:
        """Whether this is a cluster (`cluster.enabled`), even one of a single node."""
        return bool(self.any(lambda node: node.get("/cluster"))["status"] == "enabled")

    def peers(self) -> dict[int, str]:
        """The address that other nodes use for each peer."""
        told = self.any(lambda node: node.get("/cluster"))
        return {int(peer): entry["uri"] for peer, entry in told.get("peers", {}).items()}

    def lost_peers(self) -> list[str]:
        """The addresses of members that do not answer, as the leader tells: followers also
        remember failures of long ago. Empty when the leader is not among the nodes."""
        told = self.up(lambda node: node.get("/cluster")).values()
        answering = {one.get("peer_id") for one in told}
        failing = {
            uri
            for one in told
            if (one.get("raft_info") or {}).get("role") == "Leader"
            for uri in one.get("message_send_failures") or {}
        }
        return sorted(
            uri for peer, uri in self.peers().items() if uri in failing and peer not in answering
        )

    def _told(self, name: str) -> dict[Node, dict[str, Any]]:
        path = collection_path(name, "cluster")
        return self.up(lambda node: node.get(path))


def _told_by(node: Node, told: dict[str, Any]) -> list[Replica]:
    me = int(told["peer_id"])
    local = [
        Replica(s["shard_id"], s.get("shard_key"), s["state"], me, node, s.get("points_count"))
        for s in told["local_shards"]
    ]
    remote = [
        Replica(s["shard_id"], s.get("shard_key"), s["state"], int(s["peer_id"]), None)
        for s in told["remote_shards"]
    ]
    return local + remote


def lowest(versions: Sequence[str]) -> str:
    """The oldest of several versions."""
    return min(versions, key=version_number)


def version_number(version: str) -> tuple[int, ...]:
    """`1.17.0-dev` as (1, 17, 0)."""
    return tuple(
        int(part) for part in version.split("-")[0].split("+")[0].split(".") if part.isdigit()
    )


def _version(node: Node) -> str:
    raw = node.greet()
    try:
        told = msgspec.json.decode(raw)
        if "qdrant" in told["title"]:
            return str(told["version"])
    except (msgspec.DecodeError, KeyError, TypeError):
        pass
    raise node.foreign("GET", "/")
