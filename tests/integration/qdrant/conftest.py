"""Real Qdrant deployments, collections of every kind, and a backup and restore of one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from vbackup.clock import SystemClock
from vbackup.config import QdrantConfig
from vbackup.model.manifest import Artifact, CollectionPart, ShardPart
from vbackup.ports import CollectionFacts, ShardSpool
from vbackup.progress import SilentReporter
from vbackup.qdrant.source import QdrantSource
from vbackup.qdrant.target import QdrantTarget
from vbackup.sandbox.servers import QdrantServer

SETTLE = 120.0


@dataclass(frozen=True)
class Saved:
    """A collection as a backup keeps it: its part, and the file of each artifact."""

    part: CollectionPart
    files: dict[str, Path]

    def open(self, artifact: Artifact) -> Iterator[bytes]:
        with self.files[artifact.name].open("rb") as file:
            while block := file.read(1 << 16):
                yield block


@dataclass
class Store:
    """One deployment: as vbackup's ports, and as plain REST to judge them by."""

    server: QdrantServer
    source: QdrantSource
    target: QdrantTarget
    http: httpx.Client
    made: list[str] = field(default_factory=list)
    page: int = 1000

    def name(self, suffix: str = "") -> str:
        """A collection name of this test's own; dropped at its end."""
        name = f"t{secrets.token_hex(5)}{suffix}"
        self.made.append(name)
        return name

    def call(self, method: str, path: str, body: object = None, **params: Any) -> Any:
        answer = self.http.request(method, path, json=body, params=params or None)
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        return answer.json()["result"]

    def path(self, name: str, rest: str = "") -> str:
        return f"/collections/{quote(name, safe='')}{rest}"

    def make(self, body: dict[str, Any], suffix: str = "") -> str:
        name = self.name(suffix)
        self.call("PUT", self.path(name), body)
        return name

    def put(
        self, name: str, points: list[dict[str, Any]], *, batch: int = 500, **body: Any
    ) -> None:
        for at in range(0, len(points), batch):
            some = {"points": points[at : at + batch], **body}
            self.call("PUT", self.path(name, "/points"), some, wait="true")

    def everything(self, name: str) -> dict[int | str, dict[str, Any]]:
        """Every point by id, read with plain REST."""
        found: dict[int | str, dict[str, Any]] = {}
        body: dict[str, Any] = {"limit": self.page, "with_payload": True, "with_vector": True}
        while True:
            page = self.call("POST", self.path(name, "/points/scroll"), body)
            found |= {point["id"]: point for point in page["points"]}
            if page["next_page_offset"] is None:
                return found
            body["offset"] = page["next_page_offset"]

    def facts(self, name: str) -> CollectionFacts:
        (found,) = self.source.facts([name]).collections
        return found

    def spool(self, name: str, directory: Path) -> list[ShardSpool]:
        """All shards of a collection, streamed to their end."""
        spools = [self.source.spool(shard, directory) for shard in self.facts(name).shards]
        for spool in spools:
            assert spool.done.wait(60)
        return spools

    def save(self, name: str, directory: Path) -> Saved:
        facts = self.facts(name)
        shards: list[ShardPart] = []
        files: dict[str, Path] = {}
        for spool in self.spool(name, directory):
            assert spool.error is None, spool.error
            assert spool.cut_at is not None
            artifact = Artifact(f"{name}/{spool.ref.id}", spool.length, spool.sha256)
            files[artifact.name] = spool.path
            shards.append(
                ShardPart(spool.ref.id, spool.ref.key, artifact, spool.requested_at, spool.cut_at)
            )
        part = CollectionPart(
            name=name,
            config=facts.config,
            payload_schema=facts.payload_schema,
            aliases=facts.aliases,
            shards=tuple(shards),
            points=facts.points,
            bytes=sum(shard.artifact.length for shard in shards),
            custom_sharding=facts.custom_sharding,
        )
        return Saved(part, files)

    def restore(self, saved: Saved, suffix: str = "") -> str:
        """Under a new name, settled."""
        name = self.name(suffix)
        assert self.target.preflight(saved.part, name, existing=False) == []
        self.target.create(saved.part, name)
        self.target.recover(saved.part, name, saved.open, SilentReporter())
        assert self.target.settle(name, timeout=SETTLE) == saved.part.points
        return name

    def close(self) -> None:
        for name in self.made:
            self.http.delete(self.path(name))
        self.source.close()
        self.target.close()
        self.http.close()


class Stores(Protocol):
    def __call__(
        self,
        version: str = "1.17.0",
        nodes: int = 1,
        *,
        cluster: bool = False,
        api_key: bool = False,
        only: int | None = None,
    ) -> Store: ...


@pytest.fixture
def stores(qdrant_servers: Callable[..., QdrantServer]) -> Iterator[Stores]:
    """`stores("1.16.3", nodes=3)`; `only` configures just that one node of several."""
    opened: list[Store] = []

    def get(
        version: str = "1.17.0",
        nodes: int = 1,
        *,
        cluster: bool = False,
        api_key: bool = False,
        only: int | None = None,
    ) -> Store:
        server = qdrant_servers(version, nodes, cluster=cluster, api_key=api_key)
        urls = server.urls if only is None else (server.urls[only],)
        key = SecretStr(server.api_key) if server.api_key else None
        options = QdrantConfig(nodes=urls, api_key=key)
        headers = {"api-key": server.api_key} if server.api_key else {}
        store = Store(
            server,
            QdrantSource(options, SystemClock()),
            QdrantTarget(options, SystemClock()),
            httpx.Client(base_url=server.url, headers=headers, timeout=60),
        )
        opened.append(store)
        return store

    yield get
    for store in opened:
        store.close()


@pytest.fixture(params=["1.16.3", "1.17.0"])
def store(request: pytest.FixtureRequest, stores: Stores) -> Store:
    """One node of each supported version."""
    return stores(request.param)
