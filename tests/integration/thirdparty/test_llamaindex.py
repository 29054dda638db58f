"""LlamaIndex's ingestion over its PostgreSQL document store and Qdrant store, broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import psycopg
import pytest

pytest.importorskip("llama_index.core", reason="pip install vbackup[thirdparty]")
pytest.importorskip("llama_index.vector_stores.qdrant", reason="pip install vbackup[thirdparty]")
pytest.importorskip("llama_index.storage.docstore.postgres", reason="vbackup[thirdparty]")

from llama_index.core import Document, MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.storage.docstore.postgres import PostgresDocumentStore
from llama_index.storage.kvstore.postgres import PostgresKVStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

# Warnings of the libraries are their makers' concern.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

DOCUMENTS = 30


class Outage(Exception):
    """A side does not answer."""


@pytest.fixture
def app(presets: Callable[..., Any]) -> Iterator[Any]:
    pair = presets("llamaindex", "docs", changes={'"llama_index"': '"{prefix}docs"'})
    application = Application(pair)
    yield application
    application.close()


class Application:
    """An ingestion pipeline with upserts, as LlamaIndex's documentation shows it."""

    def __init__(self, pair: Any) -> None:
        self.pair = pair
        (self.collection,) = pair.collections
        self.client = QdrantClient(pair.server.url, api_key=pair.server.api_key)
        self.store = QdrantVectorStore(self.collection, client=self.client)
        self.documents = PostgresDocumentStore(
            PostgresKVStore.from_uri(pair.dsn, table_name="docstore")
        )
        self.pipeline = IngestionPipeline(
            transformations=[
                SentenceSplitter(
                    chunk_size=24,
                    chunk_overlap=0,
                    tokenizer=str.split,
                    chunking_tokenizer_fn=lambda text: [f"{s}." for s in text.split(".") if s],
                ),
                MockEmbedding(embed_dim=8),
            ],
            docstore=self.documents,
            vector_store=self.store,
            docstore_strategy=DocstoreStrategy.UPSERTS,
        )

    def close(self) -> None:
        self.client.close()

    def ingest(self, *documents: Document) -> None:
        self.pipeline.run(documents=list(documents))

    def points(self, document: str) -> list[str]:
        """The ids of a document's points."""
        points = self.pair.points(self.collection)
        return [i for i, payload in points.items() if payload["doc_id"] == document]


def text(number: int, edition: int = 1) -> Document:
    sentence = f"Sentence of document {number} in edition {edition} with a few more words. "
    return Document(text=sentence * 6, id_=f"doc-{number}")


def orphans(document: str, ids: Sequence[str]) -> set[tuple[str, str, str | None]]:
    return {("orphan", document, point) for point in ids}


def test_every_fault_is_found_and_nothing_else(app: Any) -> None:
    app.ingest(*(text(number) for number in range(DOCUMENTS)))
    assert len(app.points("doc-1")) > 1
    assert app.pair.faults() == set()
    app.ingest(*(text(number, 1 + number % 2) for number in range(DOCUMENTS)))
    assert app.pair.faults() == set()

    # PostgreSQL went back in time: one document is unknown, one is known in its old edition.
    with psycopg.connect(app.pair.dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM data_docstore WHERE key = 'doc-3'")
        connection.execute(
            "UPDATE data_docstore SET value = jsonb_set(value::jsonb, '{doc_hash}', '\"old\"')"
            " WHERE key = 'doc-5' AND namespace = 'docstore/metadata'"
        )
    expected = orphans("doc-3", app.points("doc-3"))
    expected |= {("stale", "doc-5", point) for point in app.points("doc-5")}
    # Qdrant lost all points of a document.
    app.pair.remove(app.collection, *app.points("doc-7"))
    expected |= {("missing", "doc-7", None)}
    assert app.pair.faults() == expected

    # An edit during an outage: the old points are gone, the new ones never came. The document
    # store keeps the old hash.
    with patch.object(type(app.store), "add", side_effect=Outage), pytest.raises(Outage):
        app.ingest(text(9, 7))
    expected |= {("missing", "doc-9", None)}
    assert app.pair.faults() == expected

    # The delete reached the document store only.
    left = app.points("doc-11")
    app.documents.delete_document("doc-11")
    expected |= orphans("doc-11", left)
    assert app.pair.faults() == expected
