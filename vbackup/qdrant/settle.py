"""Waits until a collection is as good as it gets: replicas Active, counts agreed, green."""

from __future__ import annotations

from vbackup.errors import Failed
from vbackup.ports import Clock
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.recover import wake
from vbackup.qdrant.rest import collection_path

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0


def settle_collection(cluster: Cluster, name: str, clock: Clock, timeout: float) -> int:
    """Wait; the number of points. Raises Failed with what is still not so after `timeout` s."""
    deadline = clock.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        problem, points = _state(cluster, name)
        if not problem:
            return points
        if clock.monotonic() >= deadline:
            hint = "look at GET /collections/{name}/cluster and the server's log, then try again"
            raise Failed(
                f"collection {name!r} has not settled in {timeout:.0f} s: {problem}",
                hint=hint,
                retryable=True,
            )
        clock.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _state(cluster: Cluster, name: str) -> tuple[str, int]:
    """What is not well yet (empty when all is), and the number of points."""
    replicas = cluster.replicas(name)
    waiting = [f"shard {r.shard} on {r.peer} is {r.state}" for r in replicas if r.state != "Active"]
    if waiting:
        return ", ".join(waiting), 0
    if moving := cluster.busy(name):
        return moving, 0
    for node, info in cluster.up(lambda node: node.get(collection_path(name))).items():
        if info["status"] == "grey":
            wake(cluster, name)
        if info["status"] != "green":
            reason = info["optimizer_status"]
            detail = f" ({reason['error']})" if isinstance(reason, dict) else ""
            return f"{node.location} says {info['status']}{detail}", 0
    counts = cluster.up(lambda node: cluster.count(name, node))
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{node.location} {count}" for node, count in counts.items())
        return f"the nodes count differently ({told})", 0
    return "", next(iter(counts.values()))
