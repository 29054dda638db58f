"""Pairs that other people's programs write, compared by the links of their presets."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from vbackup.cli import template
from vbackup.clock import SystemClock
from vbackup.config import Config, PostgresConfig, QdrantConfig
from vbackup.engine.links import links_of
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, live_rows
from vbackup.model.finding import Finding
from vbackup.postgres.source import PostgresSource
from vbackup.progress import SilentReporter
from vbackup.qdrant.source import QdrantSource
from vbackup.sandbox.servers import PostgresServer, QdrantServer

Fault = tuple[str, str, str | int | None]


@dataclass(frozen=True)
class Preset:
    """A database, a Qdrant server and the preset that links them; `changes` are what its
    comments ask the user to change."""

    name: str
    dsn: str
    server: QdrantServer
    tmp_path: Path
    collections: tuple[str, ...]
    changes: Mapping[str, str]

    @property
    def config(self) -> Config:
        text = (files("vbackup.cli") / "presets" / f"{self.name}.toml").read_text("utf-8")
        for old, new in self.changes.items():
            assert old in text
            text = text.replace(old, new)
        return Config.model_validate(tomllib.loads(template.with_links(template.example(), text)))

    def qdrant(self, method: str, path: str, body: object = None) -> Any:
        headers = {"api-key": self.server.api_key} if self.server.api_key else {}
        answer = httpx.request(
            method, f"{self.server.url}{path}", json=body, headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def create(self) -> None:
        """The collections, with vectors of two dimensions."""
        for name in self.collections:
            body = {"vectors": {"size": 2, "distance": "Dot"}}
            self.qdrant("PUT", f"/collections/{name}", body)

    def put(self, collection: str, points: Mapping[str, object]) -> None:
        """Points by id with their payloads."""
        listed = [{"id": i, "vector": [1, 0], "payload": p} for i, p in points.items()]
        self.qdrant("PUT", f"/collections/{collection}/points?wait=true", {"points": listed})

    def remove(self, collection: str, *ids: str) -> None:
        path = f"/collections/{collection}/points/delete?wait=true"
        self.qdrant("POST", path, {"points": list(ids)})

    def points(self, collection: str) -> dict[str, dict[str, Any]]:
        """All payloads by id."""
        body = {"limit": 10_000, "with_payload": True}
        page = self.qdrant("POST", f"/collections/{collection}/points/scroll", body)
        return {point["id"]: point["payload"] for point in page["points"]}

    def faults(self) -> set[Fault]:
        """What reconcile finds: kind, key, point."""
        found: list[Finding] = []
        key = SecretStr(self.server.api_key) if self.server.api_key else None
        options = QdrantConfig(nodes=self.server.urls, api_key=key)
        postgres = PostgresConfig(dsn=SecretStr(self.dsn))
        with (
            closing(QdrantSource(options, SystemClock())) as points,
            closing(PostgresSource(postgres, clock=SystemClock())) as records,
        ):
            config = self.config
            result = Reconcile(
                links=links_of(config),
                ignore=config.ignore,
                open_rows=live_rows(records),
                points=points,
                names=dict.fromkeys(self.collections, ()),
                options=ReconcileOptions(confirm=False, work_dir=self.tmp_path),
                reporter=SilentReporter(),
                clock=SystemClock(),
            ).run(found.append)
        assert result.warnings == []
        faults: set[Fault] = {(f.kind, f.key or "", f.point) for f in found}
        assert len(faults) == len(found)
        return faults


@pytest.fixture
def presets(
    postgres_server: PostgresServer,
    new_database: Callable[[PostgresServer], str],
    qdrant_server: QdrantServer,
    collection_prefix: str,
    tmp_path: Path,
) -> Callable[..., Preset]:
    """`presets("flowise", "docs", changes={...})`: collections get a prefix of their own, also
    within the changes, as `{prefix}`."""

    def make(
        name: str,
        *collections: str,
        changes: Mapping[str, str] | None = None,
        prefix: str | None = None,
    ) -> Preset:
        own = collection_prefix if prefix is None else prefix
        named = tuple(f"{own}{collection}" for collection in collections)
        asked = {old: new.format(prefix=own) for old, new in (changes or {}).items()}
        return Preset(name, new_database(postgres_server), qdrant_server, tmp_path, named, asked)

    return make
