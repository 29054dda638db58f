"""A throwaway Qdrant: one node, or a cluster of several on loopback that has found itself."""

from __future__ import annotations

import functools
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from vbackup.errors import Failed
from vbackup.sandbox import docker, process
from vbackup.sandbox.ledger import Ledger, write_private
from vbackup.sandbox.loopback import HOST, on_free_ports, request
from vbackup.sandbox.process import Launch
from vbackup.sandbox.qdrant_binary import QdrantBinary, find_qdrant
from vbackup.sandbox.readiness import TIMEOUT, check_alive, wait_ready
from vbackup.sandbox.servers import QdrantServer


def _default_limit() -> int:
    """Half of the machine, at most 8 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(total // 2, 8 * 1024**3))


@dataclass(frozen=True, slots=True)
class QdrantOptions:
    """`version` None: any found, else the default. `cluster` None: exactly when nodes > 1.

    `memory_limit` is private memory a node in bytes, 0 for none: a damaged shard snapshot can
    make a server ask for all there is (Qdrant 1.16, 1.17).
    """

    version: str | None = None
    program: Path | None = None
    nodes: int = 1
    cluster: bool | None = None
    api_key: bool = False
    memory_limit: int = field(default_factory=_default_limit)

    @property
    def clustered(self) -> bool:
        return self.nodes > 1 if self.cluster is None else self.cluster or self.nodes > 1


@dataclass(frozen=True, slots=True)
class _Node:
    directory: Path
    http: int
    grpc: int
    p2p: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http}"

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.p2p}"


def start_qdrant(options: QdrantOptions, ledger: Ledger) -> QdrantServer:
    """Start all nodes and wait until each is ready and knows all others.

    Raises Usage, NotFound, Failed, Damaged.
    """
    binary = find_qdrant(options.version, options.program)
    api_key = secrets.token_urlsafe(18) if options.api_key else None
    nodes: list[_Node] = []
    for _ in range(options.nodes):
        start = functools.partial(
            _start_node,
            others=nodes,
            binary=binary,
            options=options,
            api_key=api_key,
            ledger=ledger,
        )
        nodes.append(on_free_ports(3, start))
    _wait_for_peers(nodes, options, api_key, ledger)
    return QdrantServer(
        urls=tuple(node.url for node in nodes),
        version=binary.version,
        api_key=api_key,
        clustered=options.clustered,
        grpc_ports=tuple(node.grpc for node in nodes),
    )


def _start_node(
    ports: list[int],
    others: list[_Node],
    binary: QdrantBinary,
    options: QdrantOptions,
    api_key: str | None,
    ledger: Ledger,
) -> _Node:
    number = len(others) + 1
    node = _Node(ledger.directory / f"qdrant-{number}", *ports)
    node.directory.mkdir(mode=0o700, exist_ok=True)
    config = node.directory / "config.yaml"
    write_private(config, json.dumps(_config(node, options, api_key), indent=1))
    container, command = _program(binary, node.directory, options.memory_limit)
    command += ["--config-path", str(config), "--disable-telemetry"]
    if options.clustered:
        command += ["--uri", node.uri]
    if others:
        command += ["--bootstrap", others[0].uri]
    log = ledger.directory / f"qdrant-{number}.log"
    log.unlink(missing_ok=True)
    server = process.spawn(
        Launch(
            kind=f"qdrant-{number}",
            name=f"Qdrant {binary.version}" + (f" node {number}" if options.nodes > 1 else ""),
            argv=tuple(command),
            cwd=str(node.directory),
            environment={**_environment(), process.MARK: ledger.state.mark},
            log=str(log),
            # It needs no API key; in a cluster it also waits until the node has caught up.
            ready=f"{node.url}/readyz",
            memory_limit=0 if container else options.memory_limit,
            container=container,
        )
    )
    ledger.started(server)
    wait_ready(server)
    return node


def _program(binary: QdrantBinary, directory: Path, memory_limit: int) -> tuple[str, list[str]]:
    """The container's name, if it is one, and the start of the command line."""
    if not binary.image:
        return "", [str(binary.path)]
    name = f"vbackup-{secrets.token_hex(6)}"
    command = docker.foreground(binary.path, binary.image, name, directory, memory_limit)
    return name, [*command, "/qdrant/qdrant"]


def _config(node: _Node, options: QdrantOptions, api_key: str | None) -> dict[str, object]:
    """Small write-ahead logs and little parallelism: many of these run on one small machine."""
    service: dict[str, object] = {
        "host": HOST,
        "http_port": node.http,
        "grpc_port": node.grpc,
        "enable_static_content": False,
        "max_workers": 4,
    }
    if api_key:
        service["api_key"] = api_key
    return {
        "log_level": "INFO,actix_web=WARN,actix_server=WARN",
        "telemetry_disabled": True,
        "service": service,
        "storage": {
            "storage_path": str(node.directory / "storage"),
            "snapshots_path": str(node.directory / "snapshots"),
            "temp_path": str(node.directory / "temp"),
            "wal": {"wal_capacity_mb": 2, "wal_segments_ahead": 0},
            "optimizers": {"default_segment_number": 2},
        },
        "cluster": {
            "enabled": options.clustered,
            "p2p": {"port": node.p2p},
            "consensus": {"tick_period_ms": 50},
        },
    }


def _environment() -> dict[str, str]:
    """QDRANT__… variables of the user would override the configuration written here."""
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "RUST_BACKTRACE")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    return {**own, **docker.environment()}


def _wait_for_peers(
    nodes: list[_Node], options: QdrantOptions, api_key: str | None, ledger: Ledger
) -> None:
    """A cluster is there when every node lists every peer and knows a leader."""
    if not options.clustered:
        return
    deadline = time.monotonic() + TIMEOUT
    while not all(_knows_all(node, len(nodes), api_key) for node in nodes):
        check_alive(ledger.state.processes)
        if time.monotonic() > deadline:
            raise Failed(
                f"the Qdrant cluster of {len(nodes)} nodes did not form in {TIMEOUT:.0f} s",
                hint=f"see the logs beside {nodes[0].directory}",
            )
        time.sleep(0.05)


def _knows_all(node: _Node, count: int, api_key: str | None) -> bool:
    status, body = request(f"{node.url}/cluster", headers={"api-key": api_key} if api_key else {})
    if status != 200:
        return False
    result = json.loads(body)["result"]
    raft = result.get("raft_info", {})
    return (
        len(result.get("peers", {})) == count
        and raft.get("leader") is not None
        and raft.get("pending_operations") == 0
    )
