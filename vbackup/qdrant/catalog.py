"""Which collections a backup covers, and which node streams each of their shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from fnmatch import fnmatchcase

from vbackup.errors import NotFound, Refused
from vbackup.model.names import COPIES
from vbackup.ports import CollectionFacts, PointStoreFacts, ShardRef
from vbackup.qdrant.cluster import Cluster, Replica, lowest


def store_facts(
    cluster: Cluster, patterns: Sequence[str], *, ignore_missing: bool
) -> PointStoreFacts:
    """The deployment and the collections that match. Raises NotFound, Refused, Unreachable."""
    versions = cluster.versions()
    aliases = cluster.aliases()
    names = selected(cluster.names(), patterns, aliases, ignore_missing=ignore_missing)
    load: Counter[str] = Counter()
    collections = []
    for name in names:
        # A collection that was only matched by a glob may be dropped while we look.
        with nullcontext() if name in patterns else suppress(NotFound):
            collections.append(_facts(cluster, name, aliases, load))
    return PointStoreFacts(
        server_version=lowest(list(versions.values())),
        nodes=tuple(versions),
        collections=tuple(collections),
    )


def selected(
    names: Sequence[str],
    patterns: Sequence[str],
    aliases: dict[str, str],
    *,
    ignore_missing: bool,
) -> list[str]:
    """The names that a pattern admits and no `!pattern` leaves out. The globs of copies leave out
    only those that no alias stands for: a restored collection is made live by one.

    A pattern without glob characters names one collection: it must exist. Raises NotFound.
    """
    wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    live = set(aliases.values())
    if not ignore_missing:
        for pattern in wanted:
            if pattern not in names and not any(c in pattern for c in "*?["):
                raise _missing(pattern, names, aliases)

    def matched(name: str, pattern: str) -> bool:
        # A name that is there means itself, also when it could be read as a glob.
        return name == pattern if pattern in names else fnmatchcase(name, pattern)

    return [
        name
        for name in names
        if any(matched(name, pattern) for pattern in wanted)
        and not any(
            matched(name, pattern)
            for pattern in unwanted
            if not (pattern in COPIES and name in live)
        )
    ]


def _missing(name: str, names: Sequence[str], aliases: dict[str, str]) -> NotFound:
    if name in aliases:
        hint = f"it is an alias: write its collection {aliases[name]!r} instead"
    else:
        hint = f"there are: {', '.join(names[:20])}" if names else "this Qdrant has no collections"
    return NotFound(f"Qdrant has no collection {name!r}", hint=hint)


def _facts(
    cluster: Cluster, name: str, aliases: dict[str, str], load: Counter[str]
) -> CollectionFacts:
    info = cluster.info(name)
    config = info["config"]
    return CollectionFacts(
        name=name,
        config=config,
        payload_schema=info["payload_schema"],
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == name)),
        shards=_sources(cluster, name, load),
        points=cluster.count(name),
        custom_sharding=config["params"].get("sharding_method") == "custom",
    )


def _sources(cluster: Cluster, name: str, load: Counter[str]) -> tuple[ShardRef, ...]:
    """One Active replica a shard, the load spread over the nodes."""
    by_shard: dict[int, list[Replica]] = {}
    for replica in cluster.replicas(name):
        by_shard.setdefault(replica.shard, []).append(replica)
    found = []
    for shard, replicas in sorted(by_shard.items()):
        active = [r.node for r in replicas if r.node and r.state == "Active"]
        if not active:
            raise _no_source(cluster, name, shard, replicas)
        node = min(active, key=lambda node: load[node.location])
        load[node.location] += 1
        found.append(ShardRef(name, shard, replicas[0].key, node.location))
    return tuple(found)


def _no_source(cluster: Cluster, name: str, shard: int, replicas: Sequence[Replica]) -> Refused:
    elsewhere = [r for r in replicas if r.node is None and r.state == "Active"]
    if not elsewhere:
        states = ", ".join(sorted({replica.state for replica in replicas}))
        return Refused(
            f"shard {shard} of collection {name!r} has no Active replica ({states})",
            hint="wait until the cluster has recovered, or look at GET /collections/{name}/cluster",
        )
    peers = cluster.peers()
    where = ", ".join(f"{r.peer} ({peers.get(r.peer, 'unknown address')})" for r in elsewhere)
    return Refused(
        f"shard {shard} of collection {name!r} is only on peer {where}, which is not configured",
        hint="list the REST address of every node in [qdrant] nodes",
    )
