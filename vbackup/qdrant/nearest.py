"""Search as an application does, through Qdrant's own client: the points nearest to a vector, or
to a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vbackup import redact
from vbackup.config import QdrantConfig
from vbackup.errors import Unreachable, VbackupError
from vbackup.model.blocks import PointId
from vbackup.qdrant import failures
from vbackup.qdrant.rest import LOOPBACK, shown, tls_context

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import ApiException


class Neighbours:
    """Searches in one deployment; `close` frees its connections."""

    def __init__(self, options: QdrantConfig) -> None:
        self._clients = {shown(url): _client(url, options) for url in options.urls}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def nearest(
        self,
        collection: str,
        query: Sequence[float] | PointId,
        using: str | None,
        limit: int,
    ) -> list[PointId]:
        """Ids, best first; the point that is asked about is not among them. Through the index,
        as every search, at the first node that is up. Raises NotFound, Failed, Unreachable."""
        last: Unreachable | None = None
        for location, client in self._clients.items():
            try:
                return _ids(client, location, collection, query, using, limit)
            except Unreachable as error:
                last = error
        raise last or Unreachable("no Qdrant node is configured")


def _ids(
    client: QdrantClient,
    location: str,
    collection: str,
    query: Sequence[float] | PointId,
    using: str | None,
    limit: int,
) -> list[PointId]:
    from qdrant_client.http.exceptions import ApiException

    wanted = query if isinstance(query, int | str) else list(query)
    try:
        answer = client.query_points(
            collection, query=wanted, using=using, limit=limit, with_payload=False
        )
    except ApiException as error:
        raise _failure(error, f"the search in {collection!r}", location) from error
    return [point.id if isinstance(point.id, int) else str(point.id) for point in answer.points]


def _failure(error: ApiException, what: str, location: str) -> VbackupError:
    import httpx
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    from vbackup.qdrant.pooled import standard

    if isinstance(error, UnexpectedResponse):
        return failures.of_status(error.status_code or 0, error.content, what, location)
    if isinstance(error, ResourceExhaustedResponse):
        return failures.of_status(429, b"", what, location)
    source = error.source if isinstance(error, ResponseHandlingException) else error
    cause = standard(source) if isinstance(source, httpx.TransportError) else source
    return failures.of_transport(cause, what, location)


def _client(url: str, options: QdrantConfig) -> QdrantClient:
    from qdrant_client import QdrantClient

    parts = urlsplit(url)
    more: dict[str, Any] = {}
    if parts.username:
        more["auth"] = (unquote(parts.username), unquote(parts.password or ""))
    if key := options.api_key:
        redact.register(key.get_secret_value())
        # Not as `api_key`: without TLS the client would warn on stderr, at every drill.
        more["metadata"] = {"api-key": key.get_secret_value()}
    return QdrantClient(
        url=url.rstrip("/"),
        port=443 if parts.scheme == "https" else 80,  # Where the URL says none.
        timeout=round(options.timeout),
        check_compatibility=False,
        verify=tls_context(options),
        trust_env=parts.hostname not in LOOPBACK,
        **more,
    )
