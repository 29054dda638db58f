"""LangChain's index() over the SQL record manager and its Qdrant store, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psycopg
import pytest

pytest.importorskip("langchain_classic", reason="pip install vbackup[thirdparty]")
pytest.importorskip("langchain_qdrant", reason="pip install vbackup[thirdparty]")

from langchain_classic.indexes import SQLRecordManager, index
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

# Warnings of the libraries are their makers' concern.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

DOCUMENTS = 60


class Outage(Exception):
    """A side does not answer."""


@pytest.fixture
def app(presets: Callable[..., Any]) -> Iterator[Any]:
    application = Application(presets("langchain", "docs"))
    yield application
    application.close()


class Application:
    """An indexer as LangChain's documentation shows it."""

    def __init__(self, pair: Any) -> None:
        self.pair = pair
        (self.collection,) = pair.collections
        pair.qdrant(
            "PUT",
            f"/collections/{self.collection}",
            {"vectors": {"size": 8, "distance": "Cosine"}},
        )
        self.client = QdrantClient(pair.server.url, api_key=pair.server.api_key)
        self.store = QdrantVectorStore(
            self.client, self.collection, embedding=DeterministicFakeEmbedding(size=8)
        )
        url = pair.dsn.replace("postgresql://", "postgresql+psycopg://")
        self.records = SQLRecordManager(f"qdrant/{self.collection}", db_url=url)
        self.records.create_schema()

    def close(self) -> None:
        self.client.close()
        self.records.engine.dispose()

    def index(self, texts: Sequence[str], cleanup: str | None = "full") -> Any:
        documents = [Document(text, metadata={"source": text.split()[1]}) for text in texts]
        return index(documents, self.records, self.store, cleanup=cleanup, source_id_key="source")

    @contextmanager
    def failing(self, target: object, method: str) -> Iterator[None]:
        with patch.object(target, method, side_effect=Outage), pytest.raises(Outage):
            yield

    def ids(self) -> dict[str, str]:
        """Point ids by text."""
        return {p["page_content"]: i for i, p in self.pair.points(self.collection).items()}


def texts(*numbers: int) -> list[str]:
    return [f"document {number} says what it says" for number in numbers]


def test_every_fault_is_found_and_nothing_else(app: Any) -> None:
    everything = texts(*range(DOCUMENTS))
    assert app.index(everything)["num_added"] == DOCUMENTS
    ids = app.ids()
    assert app.pair.faults() == set()

    # PostgreSQL went back in time: points that it does not know any more.
    with psycopg.connect(app.pair.dsn, autocommit=True) as connection:
        forgotten = [ids[text] for text in texts(3, 4)]
        connection.execute("DELETE FROM upsertion_record WHERE key = ANY (%s)", (forgotten,))
    expected = {("orphan", i, i) for i in forgotten}
    # Qdrant went back in time: index() will skip these, it believes its records.
    lost = [ids[text] for text in texts(7, 8, 9)]
    app.pair.remove(app.collection, *lost)
    expected |= {("missing", i, None) for i in lost}
    assert app.pair.faults() == expected
    assert app.index(texts(7, 8, 9), cleanup=None)["num_skipped"] == 3
    assert app.pair.faults() == expected

    # The points were deleted, then the database did not answer.
    rest = [text for text in everything if text not in texts(20, 3, 4)]
    with app.failing(app.records, "delete_keys"):
        app.index(rest)
    expected.add(("missing", ids[texts(20)[0]], None))
    assert app.pair.faults() == expected

    # An edit during an outage: the new point was written, its record was not.
    edited = "document 30 was edited"
    with app.failing(app.records, "update"):
        app.index([edited], cleanup="incremental")
    new = app.ids()[edited]
    expected.add(("orphan", new, new))
    assert app.pair.faults() == expected


def test_an_outage_before_the_first_write_leaves_no_drift(app: Any) -> None:
    app.index(texts(1, 2, 3))
    with app.failing(app.store, "add_documents"):
        app.index(texts(1, 2, 3, 4))
    assert app.pair.faults() == set()
    assert app.index(texts(1, 2, 3, 4))["num_added"] == 1
    assert app.pair.faults() == set()
