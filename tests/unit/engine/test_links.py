"""Links out of the configuration, and onto the collections that exist."""

from __future__ import annotations

from typing import Any

import pytest

from vbackup.config import Config
from vbackup.engine.links import links_of, resolve
from vbackup.errors import Usage
from vbackup.model.link import Link, PayloadPath, RowSource

ROWS = {"table": "public.documents", "key": "id"}


def config(*links: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "postgres": {"dsn": "postgresql:///x"},
            "repository": {"url": "file:///tmp/x", "encryption": "none"},
            "link": list(links),
        }
    )


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "documents", "collection": "documents", "rows": [ROWS], **changes}


def link(name: str, collection: str, **changes: Any) -> Link:
    return Link(name, collection, (RowSource(table="t", key=("id",)),), **changes)


def test_a_link_as_it_is_written() -> None:
    (made,) = links_of(
        config(
            entry(
                rows=[ROWS | {"version": "version", "live": "status = 'indexed'"}],
                point={
                    "ref": "payload:pg_id",
                    "version": "payload:meta|json.version",
                    "cardinality": "many",
                    "filter": {"kind": "chunk"},
                    "tenant": "owner",
                },
                not_live="keep",
            )
        )
    )
    assert made == Link(
        name="documents",
        collection="documents",
        rows=(
            RowSource(
                table="public.documents",
                key=("id",),
                version="version",
                live="status = 'indexed'",
            ),
        ),
        ref=(PayloadPath(("pg_id",)),),
        version=PayloadPath(("meta", "|json", "version")),
        cardinality="many",
        filter={"kind": "chunk"},
        tenant=PayloadPath(("owner",)),
        not_live="keep",
    )


def test_composite_references_and_the_default_reference() -> None:
    composite, plain = links_of(
        config(
            entry(
                rows=[{"table": "t", "key": ["tenant", "id"]}],
                point={"ref": ["payload:tenant", "payload:metadata.file_id"]},
            ),
            entry(name="plain"),
        )
    )
    assert [str(path) for path in composite.ref] == ["tenant", "metadata.file_id"]
    assert plain.by_id


def test_mistakes_between_links_and_sources_come_at_once() -> None:
    mixed = [ROWS, {**ROWS, "version": "v"}]
    with pytest.raises(Usage) as caught:
        links_of(config(entry(rows=mixed), entry()))
    assert caught.value.message == (
        "link[0].rows: either all tables say a version or none does;"
        " link[1].name: 'documents' is taken by an earlier link"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"rows": []},
        {"rows": [{"key": "id"}]},
        {"rows": [{"table": "t"}]},
        {"rows": [{"sql": "select 1 as key", "live": "true"}]},
        {"rows": [{"table": "t", "key": ["a", "b"]}]},
        {"point": {"ref": []}},
        {"point": {"ref": "pg_id"}},
        {"point": {"ref": ["id", "payload:a"]}},
        {"point": {"ref": "payload:a..b"}},
        {"point": {"version": "a.|json"}},
        {"point": {"tenant": ""}},
    ],
)
def test_no_link_is_made_of_what_means_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="link"):
        config(entry(**changes))


# ------------------------------------------------------------ collections

NAMES = {"docs_v2": ("docs",), "chunks-1": (), "chunks-2": (), "web-cache": (), "b[1]": ()}


@pytest.mark.parametrize(
    ("pattern", "collections"),
    [
        ("docs_v2", ("docs_v2",)),
        ("docs", ("docs_v2",)),
        ("chunks-*", ("chunks-1", "chunks-2")),
        ("chunks-*, !chunks-2", ("chunks-1",)),
        ("doc*, chunks-2", ("chunks-2", "docs_v2")),
        ("*, !docs", ("b[1]", "chunks-1", "chunks-2")),
        ("b[1]", ("b[1]",)),
        ("web-*", ()),
        ("web-cache", ("web-cache",)),
        ("Docs", ()),
    ],
)
def test_collections_of_a_link(pattern: str, collections: tuple[str, ...]) -> None:
    (target,) = resolve([link("l", pattern)], ["web-*"], NAMES).targets
    assert target.collections == collections


def test_what_a_person_should_know() -> None:
    found = resolve(
        [
            link("a", "docs"),
            link("b", "nothing-*"),
            link("c", "docs", version=PayloadPath(("v",))),
            Link("d", "docs", (RowSource(table="t", key=("id",), version="v"),)),
        ],
        ["web-*", "b*"],
        NAMES,
    )
    assert found.warnings == (
        "link 'b' matches no collection (nothing-*)",
        "link 'c' says a version only for its points: versions are not compared",
        "link 'd' says a version only for its rows: versions are not compared",
        "collection 'chunks-1' has no link and is not ignored: its points are not compared",
        "collection 'chunks-2' has no link and is not ignored: its points are not compared",
    )


def test_ignoring_leaves_out_what_an_exclamation_mark_keeps() -> None:
    found = resolve([], ["*", "!chunks-*"], NAMES)
    assert [w.split("'")[1] for w in found.warnings] == ["chunks-1", "chunks-2"]


def test_names_without_aliases() -> None:
    assert resolve([link("a", "x*")], [], ["x1", "x2"]).targets[0].collections == ("x1", "x2")


def test_many_collections_without_a_link_are_one_line() -> None:
    (warning,) = resolve([], [], [f"tenant-{n:03}" for n in range(200)]).warnings
    assert warning.startswith("200 collections have no link")
    assert "'tenant-000'" in warning
    assert warning.endswith("197 more")
