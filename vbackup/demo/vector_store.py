"""The application's own client of Qdrant: it writes over plain REST, as a busy worker would, and
reads with Qdrant's client, which shares nothing with vbackup's way of reading."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from vbackup.errors import Failed, Unreachable

T = TypeVar("T")

_PAGE = 1_000
_TLS = httpx.create_ssl_context()
"""One for all: reading the certificates takes longer than hundreds of requests."""


class VectorStore:
    """One collection. Thread-safe. Raises Failed when Qdrant refuses, Unreachable when it is
    not there.

    Every thread has a client of its own: httpcore's pool closes connections that it takes for
    idle, also one that another thread was just given
    (https://github.com/encode/httpcore/issues/1110)."""

    def __init__(self, url: str, collection: str, *, api_key: str = "") -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._clients: list[httpx.Client] = []
        self._url, self._api_key = url, api_key
        self.collection = collection
        self._path = f"/collections/{collection}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            for client in self._clients:
                client.close()
        if "_reader" in self.__dict__:
            self._reader.close()

    @property
    def _client(self) -> httpx.Client:
        client: httpx.Client | None = getattr(self._own, "client", None)
        if client is None:
            client = self._own.client = httpx.Client(
                base_url=self._url,
                headers=self._headers,
                timeout=60.0,
                verify=_TLS,
                trust_env=False,
            )
            with self._lock:
                self._clients.append(client)
        return client

    @cached_property
    def _reader(self) -> QdrantClient:
        # It keeps no connection, so that threads may share it.
        return QdrantClient(
            url=self._url,
            timeout=60,
            check_compatibility=False,
            metadata=self._headers,
            verify=_TLS,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    @property
    def _headers(self) -> dict[str, str]:
        return {"api-key": self._api_key} if self._api_key else {}

    def sibling(self, name: str) -> VectorStore:
        """Another collection of the same server, with connections of its own."""
        return VectorStore(self._url, name, api_key=self._api_key)

    def create(self, dimensions: int, shards: int, *, optimizers: bool = False) -> None:
        """Create the collection, with an index on the payload key that links to rows."""
        settings: dict[str, object] = {
            "vectors": {"size": dimensions, "distance": "Cosine"},
            "shard_number": shards,
        }
        if optimizers:
            # Small thresholds, so that segments are rebuilt all the time even with few points.
            settings["optimizers_config"] = {
                "indexing_threshold": 30,
                "max_segment_size": 400,
                "flush_interval_sec": 1,
                "default_segment_number": 2,
            }
            settings["hnsw_config"] = {"full_scan_threshold": 10, "m": 8, "ef_construct": 32}
        self.call("PUT", self._path, settings)

    def exists(self) -> bool:
        return bool(self.call("GET", f"{self._path}/exists")["exists"])

    def index(self, field: str, schema: str) -> None:
        body = {"field_name": field, "field_schema": schema}
        self.call("PUT", f"{self._path}/index?wait=true", body)

    def drop(self) -> None:
        self.call("DELETE", self._path)

    def upsert(self, points: Sequence[dict[str, object]], *, wait: bool) -> None:
        if points:
            self.call("PUT", f"{self._path}/points?wait={_flag(wait)}", {"points": list(points)})

    def delete(self, ids: Sequence[int | str], *, wait: bool) -> None:
        if ids:
            path = f"{self._path}/points/delete?wait={_flag(wait)}"
            self.call("POST", path, {"points": list(ids)})

    def scroll(self) -> Iterator[list[dict[str, Any]]]:
        """Every point with payload and vector, page by page, in id order."""
        offset: Any = None
        while True:
            asked = partial(
                QdrantClient.scroll,
                collection_name=self.collection,
                limit=_PAGE,
                offset=offset,
                with_vectors=True,
            )
            found, offset = self._read(asked)
            yield [
                {"id": point.id, "payload": point.payload, "vector": point.vector}
                for point in found
            ]
            if offset is None:
                return

    def search(
        self, vector: Sequence[float], limit: int, *, section: str = ""
    ) -> list[dict[str, Any]]:
        """The nearest points, exactly (no index), best first; with their scores and payload."""
        where = models.FieldCondition(key="section", match=models.MatchValue(value=section))
        asked = partial(
            QdrantClient.query_points,
            collection_name=self.collection,
            query=list(vector),
            limit=limit,
            query_filter=models.Filter(must=[where]) if section else None,
            search_params=models.SearchParams(exact=True),
        )
        return [
            {"id": point.id, "score": point.score, "payload": point.payload}
            for point in self._read(asked).points
        ]

    def _read(self, ask: Callable[[QdrantClient], T]) -> T:
        try:
            return ask(self._reader)
        except UnexpectedResponse as error:
            raise Failed(f"Qdrant answered {error.status_code} to a read") from error
        except ApiException as error:
            raise Unreachable(f"no answer from Qdrant to a read: {error}") from error

    def download_snapshot(self, file: Path) -> None:
        """A collection snapshot as one file; removed from the server again."""
        made = self.call("POST", f"{self._path}/snapshots?wait=true")
        path = f"{self._path}/snapshots/{made['name']}"
        try:
            with self._client.stream("GET", path) as answer, file.open("wb") as sink:
                answer.raise_for_status()
                for piece in answer.iter_bytes(1 << 20):
                    sink.write(piece)
        except httpx.HTTPError as error:
            raise Failed(f"Qdrant did not deliver the snapshot {made['name']}: {error}") from error
        finally:
            self.call("DELETE", path)

    def upload_snapshot(self, file: Path) -> None:
        """Make the collection out of a collection snapshot."""
        path = f"{self._path}/snapshots/upload?wait=true&priority=snapshot"
        with file.open("rb") as source:
            try:
                answer = self._client.post(path, files={"snapshot": source})
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise Failed(f"Qdrant did not take the snapshot {file.name}: {error}") from error

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request; returns the answer's `result`."""
        content = msgspec.json.encode(body) if body is not None else None
        answer = self._send(method, path, content)
        if answer.status_code >= 400:
            what = answer.text[:200].replace("\n", " ")
            raise Failed(f"Qdrant answered {answer.status_code} to {method} {path}: {what}")
        return msgspec.json.decode(answer.content).get("result")

    def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        headers = {"content-type": "application/json"}
        try:
            try:
                return self._client.request(method, path, content=content, headers=headers)
            except httpx.RemoteProtocolError:
                # Qdrant closed an idle connection; every request here may be sent twice.
                return self._client.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise Unreachable(f"no answer from Qdrant to {method} {path}: {error}") from error


def _flag(value: bool) -> str:
    return "true" if value else "false"
