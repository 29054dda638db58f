"""Links found in samples: the owner comes first, coincidences do not come at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from vbackup.engine.discover import Discover, Discovery
from vbackup.engine.evidence import named_after
from vbackup.engine.payloads import scalars
from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.keys import canonical
from vbackup.model.link import Link, PayloadPath
from vbackup.ports import CollectionFacts, KeyColumn, SampledRow
from vbackup.progress import SilentReporter


def uid(name: object) -> str:
    return str(uuid5(NAMESPACE_URL, str(name)))


@dataclass
class Tables:
    """`ports.KeyCatalog` over rows by key column."""

    held: dict[KeyColumn, dict[str, Mapping[str, str]]] = field(default_factory=dict)

    def keys(self) -> Sequence[KeyColumn]:
        return list(self.held)

    def rows(self, key: KeyColumn, wanted: Sequence[str]) -> Sequence[SampledRow]:
        return [SampledRow(w, self.held[key][w]) for w in wanted if w in self.held[key]]

    def sample(self, key: KeyColumn, count: int) -> Sequence[SampledRow]:
        return [SampledRow(k, columns) for k, columns in self.held[key].items()][-count:]


@dataclass
class Collections:
    """`ports.PointSampler` over points by collection."""

    held: dict[str, list[Point]] = field(default_factory=dict)

    def facts(self) -> list[CollectionFacts]:
        return [
            CollectionFacts(name, {}, {}, (), (), len(points)) for name, points in self.held.items()
        ]

    def collections(self) -> Sequence[str]:
        return list(self.held)

    def sample(self, collection: str, count: int) -> Sequence[Point]:
        return self.held[collection][:count]

    def points(self, link: Link, collection: str) -> Iterator[PointBlock]:
        found = self.held[collection]
        refs = [
            str(p.id) if link.by_id else canonical(link.ref[0].extract(p.payload)) for p in found
        ]
        yield PointBlock([p.id for p in found], refs)

    def owned(self, link: Link, collection: str, keys: Sequence[str]) -> PointBlock:
        (block,) = self.points(link, collection)
        mine = [(i, r) for i, r in zip(block.ids, block.refs, strict=True) if r in set(keys)]
        return PointBlock([i for i, _ in mine], [r for _, r in mine])

    def lookup(self, link: Link, collection: str, ids: Sequence[PointId]) -> PointBlock:
        raise NotImplementedError


def discover(tables: Tables, collections: Collections) -> Discovery:
    return Discover(tables, collections, SilentReporter()).run(collections.facts())


def numbered(count: int) -> dict[str, Mapping[str, str]]:
    return {str(n): {"id": str(n), "price": str(n * 7)} for n in range(1, count)}


def test_payloads_are_flattened_as_paths_are_written() -> None:
    payload = {
        "a": {"b": {"c": 1, "d": {"e": 2}}},
        "node": json.dumps({"relationships": {"1": {"hash": "x"}}}),
        "list": [1], "flag": True, "long": "x" * 300, "dotted.name": 1, "broken": "{", "none": None,
    }  # fmt: skip
    found = scalars(payload)
    assert found["a.b.c"] == "1"
    assert found["node|json.relationships.1.hash"] == "x"
    assert not {"a.b.d.e", "list", "flag", "long", "dotted.name", "broken", "none"} & set(found)
    for path, value in found.items():
        assert canonical(PayloadPath.parse(path).extract(payload)) == value


def test_small_integers_that_fit_by_chance_are_no_link() -> None:
    tables = Tables({KeyColumn("public.orders", "id", "integer"): numbered(900)})
    points = [Point(uid(n), None, {"page": n, "score": n % 50}) for n in range(1, 300)]
    found = discover(tables, Collections({"docs": points}))
    assert found.proposals == ()
    assert found.unmatched == ("docs",)


def test_what_agrees_or_is_named_alike_is_a_link() -> None:
    tables = Tables(
        {
            KeyColumn("public.orders", "id", "integer"): numbered(900),
            KeyColumn("public.pages", "id", "integer"): numbered(300),
        }
    )
    points = [Point(uid(n), None, {"page_id": n}) for n in range(1, 300)]
    (best,) = discover(tables, Collections({"docs": points})).proposals
    assert (best.table, best.ref, best.match_rate) == ("public.pages", "payload:page_id", 1.0)


def test_collections_that_share_the_rows_out_get_one_link_and_copies_one_each() -> None:
    key = KeyColumn("public.files", "id", "uuid")
    rows: dict[str, Mapping[str, str]] = {
        uid(n): {"id": uid(n), "version": str(n % 9)} for n in range(200)
    }
    points = [Point(uid(n), None, {"version": n % 9}) for n in range(200)]
    shared = Collections({"files_a": points[::2], "files_b": points[1::2], "files_c": []})
    found = discover(Tables({key: rows}), shared)
    (one,) = found.proposals
    assert (one.name, one.collection, one.row_rate) == ("files", "files_a,files_b", 1.0)
    assert one.version is not None
    assert found.empty == ("files_c",)
    copied = discover(Tables({key: rows}), Collections({"small": points, "large": points}))
    assert [p.name for p in copied.proposals] == ["small", "large"]


def test_names_of_references() -> None:
    chunks = KeyColumn('public."chunks"', "id", "integer")
    assert all(
        named_after(ref, chunks) for ref in ("chunk_id", "meta.chunkId", "chunk", "chunk.id")
    )
    assert not any(named_after(ref, chunks) for ref in ("id", "page_id", "meta.id", "position"))
