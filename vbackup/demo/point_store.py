"""What the application asks of the place that keeps its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self


class PointStore(Protocol):
    """Points as Qdrant's REST has them, wherever they are kept. Thread-safe."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def sibling(self, name: str) -> PointStore:
        """What the same server holds under another name (of a collection, or a database)."""
        ...

    def create(self, dimensions: int, shards: int, *, optimizers: bool = False) -> None: ...

    def exists(self) -> bool: ...

    def index(self, field: str, schema: str) -> None: ...

    def drop(self) -> None: ...

    def upsert(self, points: Sequence[dict[str, object]], *, wait: bool) -> None: ...

    def delete(self, ids: Sequence[int | str], *, wait: bool) -> None: ...

    def scroll(self) -> Iterator[list[dict[str, Any]]]:
        """Every point with payload and vector, page by page."""
        ...

    def search(
        self, vector: Sequence[float], limit: int, *, section: str = ""
    ) -> list[dict[str, Any]]:
        """The nearest points, exactly, best first; with their scores and payload."""
        ...

    def close(self) -> None: ...
