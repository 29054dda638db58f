"""Collections made anew from their saved configuration, and compared with it before an upload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vbackup.errors import NotFound, Refused
from vbackup.model.manifest import CollectionPart
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.rest import collection_path

_CREATED = (
    "vectors",
    "sparse_vectors",
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "on_disk_payload",
)
"""Members of `config.params` that a new collection takes; the rest are set afterwards."""
_PATCHED = ("read_fan_out_factor", "read_fan_out_delay_ms")
_REST = {
    "hnsw_config": "hnsw_config",
    "optimizer_config": "optimizers_config",
    "wal_config": "wal_config",
    "quantization_config": "quantization_config",
    "metadata": "metadata",
}
"""Other members of `config`, and what a new collection calls them."""


def create_collection(cluster: Cluster, part: CollectionPart, name: str) -> None:
    """Create it empty: vectors, shards, shard keys, payload indexes. Strict mode comes last of
    all (`restore_strict_mode`), as it could forbid what a restore does.

    Raises AlreadyExists, Refused.
    """
    if part.custom_sharding and not cluster.distributed():
        raise Refused(
            f"collection {part.name!r} has shard keys, which this Qdrant cannot hold",
            hint="enable cluster mode on the target (cluster.enabled, a single node is enough)",
        )
    path = collection_path(name)
    # Not tried again by itself: a lost answer would look like a collection of somebody else's.
    cluster.ask("PUT", path, creation(part), attempts=1)
    params = part.config["params"]
    patched = {key: params[key] for key in _PATCHED if params.get(key) is not None}
    if patched:
        cluster.ask("PATCH", path, {"params": patched})
    if part.custom_sharding:
        _create_keys(cluster, part, name)
    create_indexes(cluster, part.payload_schema, name)


def creation(part: CollectionPart) -> dict[str, Any]:
    """The body of `PUT /collections/{name}` that makes the saved collection."""
    config = part.config
    params = config["params"]
    body = {key: params[key] for key in _CREATED if params.get(key) is not None}
    # A collection may have sparse vectors alone; the server wants the member all the same.
    body.setdefault("vectors", {})
    for saved, asked in _REST.items():
        value = config.get(saved)
        # An absent setting is a null here; within metadata a null is somebody's value.
        if isinstance(value, dict) and saved != "metadata":
            value = {key: inner for key, inner in value.items() if inner is not None}
        if value:
            body[asked] = value
    return body


def create_indexes(cluster: Cluster, schema: dict[str, Any], name: str) -> None:
    """Create the payload indexes with all their parameters; waits for each."""
    path = collection_path(name, "index")
    for field, saved in schema.items():
        body = {"field_name": field, "field_schema": _index(saved)}
        cluster.ask("PUT", path, body, params={"wait": True})


def sync_indexes(cluster: Cluster, schema: dict[str, Any], name: str) -> None:
    """Make the payload indexes of an existing collection those of the saved one."""
    there = cluster.info(name)["payload_schema"]
    for field in there.keys() - schema.keys():
        cluster.ask("DELETE", collection_path(name, "index", field), params={"wait": True})
    missing = {f: saved for f, saved in schema.items() if _index(saved) != _index(there.get(f))}
    create_indexes(cluster, missing, name)


def restore_strict_mode(cluster: Cluster, config: dict[str, Any], name: str) -> None:
    """Set the saved strict mode, if there was one."""
    strict = config.get("strict_mode_config")
    if strict:
        body = {"strict_mode_config": strict}
        cluster.ask("PATCH", collection_path(name), body)


def differences(cluster: Cluster, part: CollectionPart, name: str) -> list[str]:
    """What of an existing collection would make a shard upload destroy it. Empty when nothing."""
    try:
        found = cluster.info(name)["config"]["params"]
    except NotFound:
        return [f"collection {name!r} does not exist"]
    saved = part.config["params"]
    problems = [
        f"collection {name!r} has other {member.replace('_', ' ')}"
        for member in ("vectors", "sparse_vectors")
        if _shape(saved.get(member)) != _shape(found.get(member))
    ]
    there = sorted({(replica.shard, replica.key) for replica in cluster.replicas(name)})
    if len(there) != len(part.shards):
        problems.append(
            f"collection {name!r} has {len(there)} shards, the backup {len(part.shards)}"
        )
    elif _per_key(there) != _per_key([(shard.id, shard.key) for shard in part.shards]):
        problems.append(f"collection {name!r} has other shard keys")
    return problems


def _index(saved: dict[str, Any] | None) -> Any:
    """What defines a payload index: its type, or its type and parameters."""
    return saved and (saved.get("params") or saved["data_type"])


def _create_keys(cluster: Cluster, part: CollectionPart, name: str) -> None:
    path = collection_path(name, "shards")
    params = part.config["params"]
    counts = _per_key([(shard.id, shard.key) for shard in part.shards])
    for key, number in counts.items():
        body = {
            "shard_key": key,
            "shards_number": number,
            "replication_factor": params.get("replication_factor", 1),
        }
        cluster.ask("PUT", path, body, attempts=1)


def _per_key(shards: Sequence[tuple[int, str | int | None]]) -> dict[str | int | None, int]:
    counts: dict[str | int | None, int] = {}
    for _, key in shards:
        counts[key] = counts.get(key, 0) + 1
    return counts


def _shape(vectors: Any) -> Any:
    """What stored vectors depend on: size, distance, type, multi-vector, modifier, by name."""
    if not vectors:
        return {}
    if "size" in vectors:
        vectors = {"": vectors}
    return {
        name: (
            params.get("size"),
            params.get("distance"),
            params.get("datatype") or "float32",
            (params.get("multivector_config") or {}).get("comparator"),
            params.get("modifier") or "none",
        )
        for name, params in vectors.items()
    }
