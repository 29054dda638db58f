"""Waits until a collection is as good as it gets: replicas Active, counts agreed, green."""

from __future__ import annotations

from collections.abc import Callable

from vbackup.errors import Failed, NotFound
from vbackup.ports import Clock
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.recover import wake
from vbackup.qdrant.rest import collection_path

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0


def settle_collection(cluster: Cluster, name: str, clock: Clock, timeout: float) -> int:
    """Wait until replicas are Active and agree and all nodes say green; the number of points.

    Raises Failed with what is still not so after `timeout` seconds.
    """
    _wait(lambda: _unsettled(cluster, name), f"collection {name!r} to settle", clock, timeout)
    return cluster.count(name)


def await_replicas(cluster: Cluster, name: str, clock: Clock, timeout: float) -> None:
    """Wait until a new collection is there on every node and can be written to."""
    _wait(lambda: _inactive(cluster, name), f"collection {name!r} to be created", clock, timeout)


def _wait(problem: Callable[[], str], what: str, clock: Clock, timeout: float) -> None:
    deadline = clock.monotonic() + timeout
    pause = FIRST_PAUSE
    while found := problem():
        if clock.monotonic() >= deadline:
            raise Failed(
                f"waited {timeout:.0f} s for {what}: {found}",
                hint="look at the collection's /cluster page (is a member down?) and the server's"
                " log, then try again",
                retryable=True,
            )
        clock.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _unsettled(cluster: Cluster, name: str) -> str:
    """What is not well yet; empty when all is."""
    return (
        _inactive(cluster, name)
        or cluster.busy(name)
        or _not_green(cluster, name)
        or _disagreeing(cluster, name)
    )


def _inactive(cluster: Cluster, name: str) -> str:
    try:
        replicas = cluster.replicas(name)
    except NotFound:
        return "not every node knows it yet"
    return ", ".join(
        f"shard {r.shard} on peer {r.peer} is {r.state}" for r in replicas if r.state != "Active"
    )


def _not_green(cluster: Cluster, name: str) -> str:
    for node, info in cluster.up(lambda node: node.get(collection_path(name))).items():
        if info["status"] == "grey":
            wake(cluster, name)
        if info["status"] != "green":
            reason = info["optimizer_status"]
            detail = f" ({reason['error']})" if isinstance(reason, dict) else ""
            return f"{node.location} says {info['status']}{detail}"
    return ""


def _disagreeing(cluster: Cluster, name: str) -> str:
    """A replica that was just brought back may say Active while it is still empty."""
    counts: dict[int, set[int]] = {}
    for replica in cluster.replicas(name):
        if replica.points is not None:
            counts.setdefault(replica.shard, set()).add(replica.points)
    for shard, found in counts.items():
        if len(found) > 1:
            return f"replicas of shard {shard} hold {' and '.join(map(str, sorted(found)))} points"
    exact = cluster.up(lambda node: cluster.count(name, node))
    if len(set(exact.values())) > 1:
        told = ", ".join(f"{node.location} {count}" for node, count in exact.items())
        return f"the nodes count differently ({told})"
    return ""
