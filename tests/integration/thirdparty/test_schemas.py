"""Presets of applications that pip does not have: their tables as their migrations leave them,
a few rows and points, and faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import psycopg
import pytest

pytestmark = pytest.mark.integration

SCHEMAS = Path(__file__).parent / "schemas"

FILL = {
    "uuid": "gen_random_uuid()",
    "integer": "0",
    "bigint": "0",
    "double precision": "0",
    "timestamp without time zone": "now()",
}
"""What columns hold that must be filled and do not matter here; texts are empty."""


def uid(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, name))


def rows(connection: psycopg.Connection, table: str, *values: dict[str, Any]) -> None:
    """Insert rows; columns that are not named and must not be null get anything."""
    needed = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s"
        " AND is_nullable = 'NO' AND column_default IS NULL",
        (table,),
    ).fetchall()
    for row in values:
        rest = {name: FILL.get(kind, "''") for name, kind in needed if name not in row}
        columns = ", ".join(f'"{name}"' for name in (*row, *rest))
        places = ", ".join([*["%s"] * len(row), *rest.values()])
        statement = f"INSERT INTO {table} ({columns}) VALUES ({places})"
        connection.execute(statement.encode(), list(row.values()))


@pytest.fixture
def database() -> Iterator[Callable[[Any], psycopg.Connection]]:
    """`database(pair)` makes the tables of its application."""
    made: list[psycopg.Connection] = []

    def make(pair: Any) -> psycopg.Connection:
        made.append(psycopg.connect(pair.dsn, autocommit=True))
        made[-1].execute((SCHEMAS / f"{pair.name}.sql").read_bytes())
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def dify_point(node: str, hashed: str = "h1", **more: Any) -> dict[str, Any]:
    metadata = {"doc_id": uid(node), "doc_hash": hashed, "document_id": uid("d"), **more}
    return {"page_content": node, "metadata": metadata, "group_id": "g"}


def test_dify(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    pair = presets(
        "dify", "Vector_index_one_Node", "Vector_index_two_Node", "Vector_index_notes_Node",
        changes={'"Vector_index_*_Node"': '"{prefix}Vector_index_*_Node"'},
    )  # fmt: skip
    pair.create()
    one, two, notes = pair.collections
    connection = database(pair)
    tenant = uid("tenant")
    common = {"tenant_id": tenant, "document_id": uid("flat"), "dataset_id": uid(one)}
    for name in (one, two):
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
    # Two apps with annotations; replies out of them are switched on for one.
    rows(connection, "dataset_collection_bindings",
         {"id": uid("notes"), "collection_name": notes, "type": "annotation"})  # fmt: skip
    rows(connection, "apps", {"id": uid("app"), "tenant_id": tenant}, {"id": uid("mute")})
    rows(connection, "app_annotation_settings",
         {"app_id": uid("app"), "collection_binding_id": uid("notes")})  # fmt: skip
    for number in range(3):
        rows(connection, "message_annotations",
             {"id": uid(f"a{number}"), "app_id": uid("app"), "question": "q"},
             {"id": uid(f"mute{number}"), "app_id": uid("mute"), "question": "q"})  # fmt: skip
        noted = {"annotation_id": uid(f"a{number}"), "app_id": uid("app")}
        metadata = noted | {"doc_id": uid(f"a{number}")}
        pair.put(notes, {uid(f"pa{number}"): {"page_content": "q", "metadata": metadata}})
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
    pair.remove(notes, uid("pa0"))
    connection.execute("DELETE FROM message_annotations WHERE id = %s", (uid("a1"),))
    assert pair.faults() == {
        ("missing", uid("n0"), None),
        ("missing", uid("sum0"), None),
        ("missing", uid("picture"), None),
        ("orphan", uid("c1"), uid("c1")),
        ("not_live", uid("n3"), uid("n3")),
        ("stale", uid("n4"), uid("n4")),
        ("orphan", uid("n5"), uid("stray")),
        ("missing", uid("a0"), None),
        ("orphan", uid("a1"), uid("pa1")),
    }


def test_open_webui(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    names = ("open-webui_files", "open-webui_knowledge", "open-webui_memories",
             "open-webui_web-search", "open-webui_hash-based")  # fmt: skip
    pair = presets("open-webui", *names, changes={"open-webui_": "{prefix}open-webui_"})
    pair.create()
    files, knowledge, memories, web, hashed = pair.collections
    connection = database(pair)

    def point(file: str, tenant: str) -> dict[str, Any]:
        return {"text": "t", "metadata": {"file_id": uid(file), "hash": "x"}, "tenant_id": tenant}

    def file_row(name: str, status: str | None, *, embedded: bool) -> None:
        data = {"content": "text"} | ({"status": status} if status else {})
        meta = {"name": name} | ({"collection_name": f"file-{uid(name)}"} if embedded else {})
        row = {"id": uid(name), "user_id": "u", "hash": "x" if embedded else None}
        both = {"data": json.dumps(data), "meta": json.dumps(meta)}
        rows(connection, "file", row | both)

    rows(connection, "knowledge", {"id": uid("k"), "user_id": "u"})
    # Being read; could not be read; a video, and what was only stored; what an older version read.
    file_row("pending", "pending", embedded=False)
    file_row("failed", "failed", embedded=False)
    file_row("video", "completed", embedded=False)
    file_row("kept", None, embedded=False)
    file_row("old", None, embedded=True)
    pair.put(files, {uid("old/0"): point("old", f"file-{uid('old')}")})
    for number in range(5):
        file = f"f{number}"
        file_row(file, "completed", embedded=True)
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
    # An edited file, of which the knowledge base still has the old text.
    connection.execute("UPDATE file SET hash = 'y' WHERE id = %s", (uid("f4"),))
    for chunk in range(2):
        edited = point("f4", f"file-{uid('f4')}")
        edited["metadata"]["hash"] = "y"
        pair.put(files, {uid(f"f4/{chunk}"): edited})
    connection.execute("DELETE FROM memory WHERE id = %s", (uid("m2"),))
    pair.remove(memories, uid("m3"))
    both_keys = json.dumps([uid("k"), uid("f1")], separators=(",", ":"))
    edited_keys = json.dumps([uid("k"), uid("f4")], separators=(",", ":"))
    assert pair.faults() == {
        ("missing", uid("f0"), None),
        ("orphan", both_keys, uid("kf1/0")),
        ("orphan", both_keys, uid("kf1/1")),
        ("stale", edited_keys, uid("kf4/0")),
        ("stale", edited_keys, uid("kf4/1")),
        ("orphan", uid("m2"), uid("m2")),
        ("missing", uid("m3"), None),
    }


def test_flowise(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    pair = presets(
        "flowise", "flowise", changes={'collection = "flowise"': 'collection = "{prefix}flowise"'}
    )
    pair.create()
    (collection,) = pair.collections
    connection = database(pair)
    for number in range(6):
        # Named after the chatflow, or by the node.
        owner = uid("chatflow") if number < 3 else "docs"
        row = {"key": uid(f"{number}"), "namespace": f"{owner}_flowise", "updated_at": 1.5}
        rows(connection, "upsertion_records", row)
    # The same text in two chatflows that share the collection is one point.
    rows(connection, "upsertion_records", row | {"namespace": "other_flowise"})
    rows(connection, "upsertion_records", row | {"namespace": "docs_more", "key": uid("other")})
    rows(connection, "upsertion_records", row | {"namespace": "myflowise", "key": uid("other")})
    pair.put(collection, {uid(f"{n}"): {"content": "c", "metadata": {}} for n in range(6)})
    assert pair.faults() == set()
    pair.remove(collection, uid("1"))
    connection.execute("DELETE FROM upsertion_records WHERE key = %s", (uid("2"),))
    assert pair.faults() == {("missing", uid("1"), None), ("orphan", uid("2"), uid("2"))}


def test_trieve(presets: Callable[..., Any], database: Callable[..., Any]) -> None:
    pair = presets(
        "trieve", "1536_vectors", "768_vectors_dot",
        changes={"*_vectors": "{prefix}*_vectors"},
    )  # fmt: skip
    pair.create()
    collection, dot = pair.collections
    connection = database(pair)
    rows(connection, "datasets", {"id": uid("data"), "server_configuration": "{}"})
    rows(connection, "chunk_metadata", {"qdrant_point_id": uid("dot"), "dataset_id": uid("data")})
    pair.put(dot, {uid("dot"): {"dataset_id": uid("data"), "content": "c"}})
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
