"""Shard snapshots back into a collection: checked first, then uploaded, then waited for.

A shard upload checks nothing before it replaces the shard (wrong vectors destroy it, a shard of
another number is taken), so everything is compared here before a byte is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from vbackup.errors import Damaged, Refused, Unreachable
from vbackup.model.manifest import Artifact, CollectionPart, ShardPart
from vbackup.ports import Reporter, Step
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.collections import differences, sync_indexes
from vbackup.qdrant.rest import Node, collection_path

UPLOADS = 4
"""Shards uploaded at once; each is spooled to the server's disk."""


TRIES = 3
"""Uploads of one shard, when its connection breaks."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one saved shard goes."""

    part: ShardPart
    shard: int
    node: Node


def recover_collection(
    cluster: Cluster,
    part: CollectionPart,
    name: str,
    open_artifact: Callable[[Artifact], Iterator[bytes]],
    report: Reporter,
) -> None:
    """Upload every shard to a node that holds it, and wait until the server has taken it.

    Raises Refused before anything is touched when vectors, shards or keys differ.
    """
    placements = placed(cluster, part, name)
    _warn_of_replicas(cluster, part, name, report)
    total = sum(placement.part.artifact.length for placement in placements)
    with (
        report.step(f"upload {name}", total=total) as step,
        ThreadPoolExecutor(UPLOADS, thread_name_prefix="recover") as pool,
    ):
        jobs = [
            pool.submit(_uploaded, placement, name, open_artifact, step) for placement in placements
        ]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    sync_indexes(cluster, part.payload_schema, name)
    # Recovered shards stay grey until something wakes their optimizers.
    wake(cluster, name)


def wake(cluster: Cluster, name: str) -> None:
    """Start the optimizers of a collection by an update that changes nothing."""
    body: dict[str, object] = {"optimizers_config": {}}
    cluster.ask("PATCH", collection_path(name), body)


def placed(cluster: Cluster, part: CollectionPart, name: str) -> list[Placement]:
    """Where each saved shard goes. Raises Refused.

    Shard ids are the target's own: shards of one key are matched in the order of their ids.
    """
    problems = differences(cluster, part, name)
    if problems:
        hint = "restore under a new name, and switch an alias to it"
        raise Refused("; ".join(problems), hint=hint)
    holders: dict[tuple[str, int], Node] = {}
    replicas = cluster.replicas(name)
    for replica in replicas:
        if replica.node:
            holders.setdefault((str(replica.key), replica.shard), replica.node)
    targets = sorted({(str(replica.key), replica.shard) for replica in replicas})
    saved = sorted(part.shards, key=lambda shard: (str(shard.key), shard.id))
    found = []
    for shard, target in zip(saved, targets, strict=True):
        if target not in holders:
            raise Refused(
                f"shard {target[1]} of collection {name!r} is on no configured Qdrant node",
                hint="list the REST address of every node in [qdrant] nodes",
            )
        found.append(Placement(shard, target[1], holders[target]))
    return found


def _uploaded(
    placement: Placement,
    name: str,
    open_artifact: Callable[[Artifact], Iterator[bytes]],
    step: Step,
) -> None:
    """Upload a shard; again from its start when the connection broke. It replaces the shard, so
    that one which arrived all the same does no harm."""
    for attempt in range(1, TRIES + 1):
        try:
            _upload(placement, name, open_artifact, step)
        except Unreachable as error:
            if attempt == TRIES or not error.retryable:
                raise
            step.detail(f"shard {placement.shard} of {name} again: {error.message}")
        else:
            return


def _upload(
    placement: Placement,
    name: str,
    open_artifact: Callable[[Artifact], Iterator[bytes]],
    step: Step,
) -> None:
    artifact = placement.part.artifact
    step.detail(f"shard {placement.shard} of {name}")
    boundary = uuid4().hex
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="snapshot"; filename="shard.snapshot"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield head
        for data in _exactly(artifact, open_artifact(artifact)):
            yield data
            sent += len(data)
            step.advance(len(data))
        yield tail

    try:
        placement.node.upload(
            collection_path(name, "shards", placement.shard, "snapshots", "upload"),
            body(),
            headers={
                "content-type": f"multipart/form-data; boundary={boundary}",
                "content-length": str(len(head) + artifact.length + len(tail)),
            },
            params={"wait": True, "priority": "snapshot", "checksum": artifact.sha256},
        )
    except Unreachable:
        step.advance(-sent)
        raise


def _exactly(artifact: Artifact, stream: Iterator[bytes]) -> Iterator[bytes]:
    """The stream, as long as the artifact says; the server was told this length already."""
    passed = 0
    for data in stream:
        passed += len(data)
        if passed > artifact.length:
            break
        yield data
    if passed != artifact.length:
        raise Damaged(f"{artifact.name} is not {artifact.length} bytes long")


def _warn_of_replicas(cluster: Cluster, part: CollectionPart, name: str, report: Reporter) -> None:
    wanted = part.config["params"].get("replication_factor") or 1
    per_shard: dict[int, int] = {}
    for replica in cluster.replicas(name):
        per_shard[replica.shard] = per_shard.get(replica.shard, 0) + 1
    fewest = min(per_shard.values(), default=wanted)
    if fewest < wanted:
        report.warn("fewer replicas than wanted", collection=name, wanted=wanted, found=fewest)
