"""What a configuration may say of vectors in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from vbackup.config_links import LinkConfig
from vbackup.engine.links import links_of, vector_collections
from vbackup.mistakes import validate
from vbackup.model.link import Link, VectorSource

ROWS = [{"table": "public.pages", "key": "id", "version": "v"}]
OWN = {"column": "embedding"}
APART = {"column": "embedding", "table": "public.parts", "key": "page"}


def mistakes(link: dict[str, Any], **more: Any) -> list[str]:
    values = {
        "postgres": {"dsn": ""},
        "repository": {"url": "file:///r", "encryption": "none"},
        "vectors": {"engine": "pgvector"},
        "link": [{"name": "pages", **link}],
        **more,
    }
    return [str(mistake) for mistake in validate(values, Path.cwd())[1]]


def test_vectors_take_the_name_of_their_table() -> None:
    own = LinkConfig.model_validate({"name": "a", "rows": ROWS, "vectors": OWN})
    apart = LinkConfig.model_validate({"name": "a", "rows": ROWS, "vectors": APART})
    said = LinkConfig.model_validate(
        {"name": "a", "rows": ROWS, "vectors": APART, "collection": "mine"}
    )
    assert [c.collection for c in (own, apart, said)] == ["public.pages", "public.parts", "mine"]


def test_points_of_qdrant_still_need_a_collection() -> None:
    found = mistakes({"rows": ROWS}, vectors={"engine": "qdrant"}, qdrant={})
    assert found == ["link[0].collection: missing"]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ({"rows": ROWS, "vectors": {"column": "e", "table": "t"}}, "table and key go together"),
        ({"rows": ROWS, "vectors": {"column": "e", "where": "x"}}, "where is for a table"),
        ({"rows": ROWS, "vectors": {"column": "e", "dimensions": 0}}, "greater than or equal"),
        ({"rows": ROWS, "vectors": {**APART, "key": ["a", "b"]}}, "vectors.key has 2"),
        ({"rows": ROWS, "vectors": OWN, "point": {"ref": "payload:a"}}, "no point.ref"),
        ({"rows": [{"sql": "SELECT 1 AS key"}], "vectors": OWN, "collection": "c"}, "from sql"),
        ({"rows": ROWS, "collection": "c"}, "link[0].vectors: missing"),
    ],
)
def test_mistakes_are_told(link: dict[str, Any], expected: str) -> None:
    [found] = mistakes(link)
    assert expected in found


def test_one_engine_at_a_time() -> None:
    link = {"rows": ROWS, "vectors": OWN}
    assert "remove this section" in mistakes(link, qdrant={})[0]
    [found] = mistakes(link, vectors={"engine": "qdrant"}, qdrant={})
    assert found == 'link[0].vectors: is for vectors.engine = "pgvector"'


def test_composite_keys_need_no_reference() -> None:
    rows = [{"table": "pages", "key": ["site", "path"]}]
    assert mistakes({"rows": rows, "vectors": OWN}) == []


def test_a_link_with_vectors_survives_a_manifest_and_old_manifests_have_none() -> None:
    values = {
        "postgres": {"dsn": ""},
        "repository": {"url": "file:///r", "encryption": "none"},
        "vectors": {"engine": "pgvector"},
        "link": [{"name": "pages", "rows": ROWS, "vectors": {**APART, "version": "v"}}],
    }
    config = validate(values, Path.cwd())[0]
    assert config is not None
    [link] = links_of(config)
    assert link.vectors == VectorSource("embedding", None, "public.parts", ("page",), "v")
    assert (link.keyed, link.by_id) == (True, False)
    assert vector_collections([link]) == {"public.parts": ()}
    stored = msgspec.json.encode(link)
    assert msgspec.json.decode(stored, type=Link) == link
    old = msgspec.json.decode(stored)
    del old["vectors"]
    assert msgspec.convert(old, Link).vectors is None
