"""Presets of applications that pip does not have: their tables as their migrations leave them,
a few rows and points, and faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import psycopg
import pytest

pytestmark = pytest.mark.integration

DIFY = """
CREATE TABLE datasets (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL,
    name varchar(255) NOT NULL, indexing_technique varchar(255), index_struct text,
    collection_binding_id uuid, is_multimodal boolean NOT NULL DEFAULT false,
    created_by uuid NOT NULL DEFAULT gen_random_uuid()
);
CREATE TABLE dataset_collection_bindings (
    id uuid PRIMARY KEY, provider_name varchar(255) NOT NULL, model_name varchar(255) NOT NULL,
    type varchar(40) NOT NULL DEFAULT 'dataset', collection_name varchar(64) NOT NULL
);
CREATE TABLE documents (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
    position int NOT NULL DEFAULT 1, name varchar(255) NOT NULL,
    indexing_status varchar(255) NOT NULL DEFAULT 'waiting',
    enabled boolean NOT NULL DEFAULT true, archived boolean NOT NULL DEFAULT false,
    doc_form varchar(255) NOT NULL DEFAULT 'text_model'
);
CREATE TABLE document_segments (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, dataset_id uuid NOT NULL,
    document_id uuid NOT NULL, position int NOT NULL DEFAULT 1, content text NOT NULL DEFAULT '',
    word_count int NOT NULL DEFAULT 1, tokens int NOT NULL DEFAULT 1, keywords json,
    index_node_id varchar(255), index_node_hash varchar(255),
    enabled boolean NOT NULL DEFAULT true, status varchar(255) NOT NULL DEFAULT 'waiting'
);
CREATE TABLE child_chunks (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL,
    dataset_id uuid NOT NULL, document_id uuid NOT NULL, segment_id uuid NOT NULL,
    position int NOT NULL DEFAULT 1, content text NOT NULL DEFAULT '',
    index_node_id varchar(255), index_node_hash varchar(255),
    type varchar(255) NOT NULL DEFAULT 'automatic'
);
CREATE TABLE document_segment_summaries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), dataset_id uuid NOT NULL,
    document_id uuid NOT NULL, chunk_id uuid NOT NULL, summary_content text,
    summary_index_node_id varchar(255), summary_index_node_hash varchar(255),
    status varchar(32) NOT NULL DEFAULT 'generating', enabled boolean NOT NULL DEFAULT true
);
CREATE TABLE segment_attachment_bindings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL,
    dataset_id uuid NOT NULL, document_id uuid NOT NULL, segment_id uuid NOT NULL,
    attachment_id uuid NOT NULL
);
"""
OPEN_WEBUI = """
CREATE TABLE file (
    id text PRIMARY KEY, user_id text, hash text, filename text, path text, data json, meta json,
    created_at bigint, updated_at bigint
);
CREATE TABLE knowledge (
    id text PRIMARY KEY, user_id text, name text, description text, meta json,
    created_at bigint, updated_at bigint
);
CREATE TABLE knowledge_file (
    id text PRIMARY KEY, knowledge_id text NOT NULL REFERENCES knowledge ON DELETE CASCADE,
    file_id text NOT NULL REFERENCES file ON DELETE CASCADE, user_id text NOT NULL,
    created_at bigint, updated_at bigint, UNIQUE (knowledge_id, file_id)
);
CREATE TABLE memory (
    id varchar PRIMARY KEY, user_id varchar, content text, created_at bigint, updated_at bigint
);
"""
FLOWISE = """
CREATE TABLE upsertion_records (
    uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(), key text NOT NULL, namespace text NOT NULL,
    updated_at double precision NOT NULL, group_id text, UNIQUE (key, namespace)
);
"""
TRIEVE = """
CREATE TABLE chunk_metadata (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), link text, qdrant_point_id uuid NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now(),
    chunk_html text, metadata jsonb, tracking_id text, time_stamp timestamp,
    dataset_id uuid NOT NULL, weight double precision NOT NULL DEFAULT 0
);
"""


def uid(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, name))


def rows(connection: psycopg.Connection, table: str, *values: dict[str, Any]) -> None:
    for row in values:
        columns = ", ".join(row)
        places = ", ".join(["%s"] * len(row))
        statement = f"INSERT INTO {table} ({columns}) VALUES ({places})"
        connection.execute(statement.encode(), list(row.values()))


@pytest.fixture
def database() -> Iterator[Callable[[Any, str], psycopg.Connection]]:
    """`database(pair, schema)` makes the tables."""
    made: list[psycopg.Connection] = []

    def make(pair: Any, schema: str) -> psycopg.Connection:
        made.append(psycopg.connect(pair.dsn, autocommit=True))
        made[-1].execute(schema.encode())
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def dify_point(node: str, hashed: str = "h1", **more: Any) -> dict[str, Any]:
    metadata = {"doc_id": uid(node), "doc_hash": hashed, "document_id": uid("d"), **more}
    return {"page_content": node, "metadata": metadata, "group_id": "g"}


def test_dify(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    pair = presets(
        "dify", "Vector_index_one_Node", "Vector_index_two_Node",
        changes={'"Vector_index_*_Node"': '"{prefix}Vector_index_*_Node"'},
    )  # fmt: skip
    pair.create()
    one, two = pair.collections
    connection = database(pair, DIFY)
    tenant = uid("tenant")
    common = {"tenant_id": tenant, "document_id": uid("flat"), "dataset_id": uid(one)}
    for name in pair.collections:
        # The name from before another embedding model was chosen stays in the structure.
        shown = "Vector_index_before_Node" if name == one else name
        struct = {"type": "qdrant", "vector_store": {"class_prefix": shown}}
        dataset = {"id": uid(name), "tenant_id": tenant, "name": name}
        technique = {"indexing_technique": "high_quality", "is_multimodal": name == one}
        technique["collection_binding_id"] = uid("binding") if name == one else None
        rows(connection, "datasets", dataset | technique | {"index_struct": json.dumps(struct)})
    binding = {"id": uid("binding"), "provider_name": "p", "model_name": "m"}
    rows(connection, "dataset_collection_bindings", binding | {"collection_name": one})
    keyword = {"id": uid("eco"), "tenant_id": tenant, "name": "eco", "index_struct": None}
    rows(connection, "datasets", keyword | {"indexing_technique": "economy"})
    document = {"tenant_id": tenant, "name": "n", "indexing_status": "completed"}
    for name, dataset_, form in (
        ("flat", one, "text_model"), ("tree", two, "hierarchical_model"),
        ("eco-d", "eco", "text_model"),
    ):  # fmt: skip
        own = {"id": uid(name), "dataset_id": uid(dataset_), "doc_form": form}
        rows(connection, "documents", document | own)

    def segment(name: str, **more: Any) -> None:
        own = {"id": uid(f"s-{name}"), "index_node_id": uid(name), "index_node_hash": "h1"}
        rows(connection, "document_segments", common | own | {"status": "completed"} | more)

    for number in range(8):
        segment(f"n{number}")
    # Economy datasets have no vectors; parents of a hierarchy are not indexed themselves.
    segment("eco-n", document_id=uid("eco-d"), dataset_id=uid("eco"))
    segment("parent", document_id=uid("tree"), dataset_id=uid(two))
    child = {"tenant_id": tenant, "dataset_id": uid(two), "document_id": uid("tree")}
    for number in range(3):
        own = {"index_node_id": uid(f"c{number}"), "index_node_hash": "h1"}
        rows(connection, "child_chunks", child | {"segment_id": uid("s-parent")} | own)
    summary = {"document_id": uid("flat"), "dataset_id": uid(one), "status": "completed"}
    for number in range(3):
        own = {"chunk_id": uid(f"s-n{number}"), "summary_index_node_id": uid(f"sum{number}")}
        rows(connection, "document_segment_summaries",
             summary | own | {"summary_index_node_hash": "h1"})  # fmt: skip
    binding = common | {"segment_id": uid("s-n1"), "attachment_id": uid("picture")}
    rows(connection, "segment_attachment_bindings", binding)
    pair.put(one, {uid(f"n{n}"): dify_point(f"n{n}") for n in range(8)})
    pair.put(one, {uid(f"sum{n}"): dify_point(f"sum{n}", is_summary=True) for n in range(3)})
    pair.put(one, {uid("picture"): dify_point("picture", "", doc_type="image")})
    pair.put(two, {uid(f"c{n}"): dify_point(f"c{n}") for n in range(3)})
    assert pair.faults() == set()

    pair.remove(one, uid("n0"), uid("sum0"), uid("picture"))
    connection.execute("DELETE FROM child_chunks WHERE index_node_id = %s", (uid("c1"),))
    connection.execute(
        "UPDATE document_segments SET enabled = false WHERE index_node_id = %s", (uid("n3"),)
    )
    connection.execute(
        "UPDATE document_segments SET index_node_hash = 'h2' WHERE index_node_id = %s",
        (uid("n4"),),
    )
    pair.put(two, {uid("stray"): dify_point("n5")})
    assert pair.faults() == {
        ("missing", uid("n0"), None),
        ("missing", uid("sum0"), None),
        ("missing", uid("picture"), None),
        ("orphan", uid("c1"), uid("c1")),
        ("not_live", uid("n3"), uid("n3")),
        ("stale", uid("n4"), uid("n4")),
        ("orphan", uid("n5"), uid("stray")),
    }


def test_open_webui(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    names = ("open-webui_files", "open-webui_knowledge", "open-webui_memories",
             "open-webui_web-search", "open-webui_hash-based")  # fmt: skip
    pair = presets("open-webui", *names, changes={"open-webui_": "{prefix}open-webui_"})
    pair.create()
    files, knowledge, memories, web, hashed = pair.collections
    connection = database(pair, OPEN_WEBUI)

    def point(file: str, tenant: str) -> dict[str, Any]:
        return {"text": "t", "metadata": {"file_id": uid(file), "hash": "x"}, "tenant_id": tenant}

    rows(connection, "knowledge", {"id": uid("k"), "user_id": "u"})
    for number in range(5):
        file = f"f{number}"
        # A file that is still being read, or could not be, has no points.
        data = {"content": "text", "status": "completed" if number < 4 else "failed"}
        rows(connection, "file", {"id": uid(file), "user_id": "u", "data": json.dumps(data)})
        if number == 4:
            continue
        both = {"id": uid(f"kf{number}"), "knowledge_id": uid("k"), "file_id": uid(file)}
        rows(connection, "knowledge_file", both | {"user_id": "u"})
        for chunk in range(2):
            pair.put(files, {uid(f"{file}/{chunk}"): point(file, f"file-{uid(file)}")})
            pair.put(knowledge, {uid(f"k{file}/{chunk}"): point(file, uid("k"))})
        rows(connection, "memory", {"id": uid(f"m{number}"), "user_id": "u"})
        remembered = {"text": "t", "metadata": {"created_at": 1}, "tenant_id": "user-memory-u"}
        pair.put(memories, {uid(f"m{number}"): remembered})
    pair.put(web, {uid("w"): point("w", "web-search-1")})
    pair.put(hashed, {uid("h"): point("h", "0" * 63)})
    # Knowledge bases can be searched by name and description, too.
    base = {
        "text": "k",
        "metadata": {"knowledge_base_id": uid("k")},
        "tenant_id": "knowledge-bases",
    }
    pair.put(knowledge, {uid("k"): base})
    assert pair.faults() == set()

    pair.remove(files, uid("f0/0"), uid("f0/1"))
    connection.execute("DELETE FROM knowledge_file WHERE file_id = %s", (uid("f1"),))
    connection.execute("DELETE FROM memory WHERE id = %s", (uid("m2"),))
    pair.remove(memories, uid("m3"))
    both_keys = json.dumps([uid("k"), uid("f1")], separators=(",", ":"))
    assert pair.faults() == {
        ("missing", uid("f0"), None),
        ("orphan", both_keys, uid("kf1/0")),
        ("orphan", both_keys, uid("kf1/1")),
        ("orphan", uid("m2"), uid("m2")),
        ("missing", uid("m3"), None),
    }


def test_flowise(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    pair = presets(
        "flowise", "flowise", changes={'collection = "flowise"': 'collection = "{prefix}flowise"'}
    )
    pair.create()
    (collection,) = pair.collections
    connection = database(pair, FLOWISE)
    for number in range(6):
        row = {"key": uid(f"{number}"), "namespace": "qdrant/flowise", "updated_at": 1.5}
        rows(connection, "upsertion_records", row)
    rows(connection, "upsertion_records", row | {"namespace": "other", "key": uid("other")})
    pair.put(collection, {uid(f"{n}"): {"content": "c", "metadata": {}} for n in range(6)})
    assert pair.faults() == set()
    pair.remove(collection, uid("1"))
    connection.execute("DELETE FROM upsertion_records WHERE key = %s", (uid("2"),))
    assert pair.faults() == {("missing", uid("1"), None), ("orphan", uid("2"), uid("2"))}


def test_trieve(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    pair = presets("trieve", "1536_vectors", changes={'"*_vectors"': '"{prefix}*_vectors"'})
    pair.create()
    (collection,) = pair.collections
    connection = database(pair, TRIEVE)
    for number in range(6):
        chunk = {"qdrant_point_id": uid(f"{number}"), "dataset_id": uid("data")}
        rows(connection, "chunk_metadata", chunk)
    payload = {"dataset_id": uid("data"), "content": "c", "metadata": None, "tag_set": None}
    pair.put(collection, {uid(f"{n}"): payload for n in range(6)})
    assert pair.faults() == set()
    # The row is written first: a queue that lost its job leaves it alone.
    pair.remove(collection, uid("1"))
    connection.execute("DELETE FROM chunk_metadata WHERE qdrant_point_id = %s", (uid("2"),))
    assert pair.faults() == {("missing", uid("1"), None), ("orphan", uid("2"), uid("2"))}
