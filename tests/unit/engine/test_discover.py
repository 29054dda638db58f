"""Links found in samples: the owner comes first, coincidences do not come at all."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from vbackup.cli import discovered, template
from vbackup.config import Config
from vbackup.engine.discover import Discover, Discovery
from vbackup.engine.evidence import named_after
from vbackup.engine.payloads import scalars
from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.keys import canonical, composite
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
            str(p.id)
            if link.by_id
            else composite(canonical(path.extract(p.payload)) for path in link.ref)
            for p in found
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


# ---------------------------------------------------------------- composite keys


def files_of_bases() -> tuple[Tables, Collections]:
    """Files in several knowledge bases: only both together tell whose a point is."""
    held: dict[str, Mapping[str, str]] = {}
    by_base: dict[str, Mapping[str, str]] = {}
    by_file: dict[str, Mapping[str, str]] = {}
    points = []
    for base in range(6):
        for file in range(40):
            if (base + file) % 3:
                continue
            row = {"base_id": uid(f"b{base}"), "file_id": uid(f"f{file}"), "at": str(base * file)}
            key = json.dumps([row["base_id"], row["file_id"]], separators=(",", ":"))
            held[key] = by_base[row["base_id"]] = by_file[row["file_id"]] = row
            payload = {"base": row["base_id"], "meta": {"file": row["file_id"]}, "page": 3}
            points += [Point(uid((base, file, n)), None, payload) for n in range(2)]
    tables = Tables(
        {
            KeyColumn("public.base_file", "base_id", "uuid", unique=False): by_base,
            KeyColumn("public.base_file", "base_id", "uuid", more=(("file_id", "uuid"),)): held,
        }
    )
    return tables, Collections({"docs": points})


def test_a_composite_key_is_found_when_no_part_alone_is_one() -> None:
    best = discover(*files_of_bases()).proposals[0]
    assert best.keys == ("base_id", "file_id")
    assert best.refs == ("payload:base", "payload:meta.file")
    assert (best.match_rate, best.row_rate, best.cardinality) == (1.0, 1.0, "many")
    assert best.unique
    text = discovered.toml(discover(*files_of_bases()))
    (entry,) = Config.model_validate(
        tomllib.loads(template.with_links(template.example(), text))
    ).link
    assert entry.rows[0].key == ("base_id", "file_id")
    assert entry.point.ref == ("payload:base", "payload:meta.file")


def test_small_integers_make_no_composite_key_by_chance() -> None:
    rows: dict[str, Mapping[str, str]] = {
        json.dumps([str(a), str(b)], separators=(",", ":")): {"a": str(a), "b": str(b)}
        for a in range(30)
        for b in range(30)
    }
    tables = Tables(
        {
            KeyColumn("public.grid", "a", "integer", unique=False): {
                str(n): {"a": str(n), "b": "1"} for n in range(30)
            },
            KeyColumn("public.grid", "a", "integer", more=(("b", "integer"),)): rows,
        }
    )
    points = [Point(uid(n), None, {"page": n % 30, "part": n % 7}) for n in range(200)]
    assert discover(tables, Collections({"docs": points})).proposals == ()


# ---------------------------------------------------------------- live and where


def pages(
    count: int, indexed: Callable[[int], bool], **columns: Callable[[int], str | None]
) -> Any:
    """A table whose rows have points only where `indexed`, with further columns."""
    rows: dict[str, Mapping[str, str]] = {
        uid(n): {
            "id": uid(n),
            **{name: v for name, of in columns.items() if (v := of(n)) is not None},
        }
        for n in range(count)
    }
    points = [Point(uid(n), None, {"title": f"t{n}"}) for n in range(count) if indexed(n)]
    tables = Tables({KeyColumn("public.pages", "id", "uuid"): rows})
    return discover(tables, Collections({"pages": points})).proposals[0]


def test_deleted_rows_have_no_points() -> None:
    best = pages(
        150, lambda n: n % 5 > 0,
        deleted_at=lambda n: None if n % 5 else "2026-01-01 00:00:00",
        title=lambda n: f"t{n}",
    )  # fmt: skip
    found = best.condition
    assert found is not None
    assert (found.sql, found.state) == ("deleted_at IS NULL", True)
    assert (found.inside, found.outside) == (1.0, 0.0)
    text = discovered.toml(Discovery((best,)))
    assert 'live = "deleted_at IS NULL"' in text
    assert "100 % of the sampled rows with deleted_at IS NULL have a point, 0 % of the" in text


def test_states_and_lag() -> None:
    """Some indexed rows lack their point, some states are on their way."""
    states = ("indexed", "indexed", "stale", "failed", "new")
    best = pages(
        190, lambda n: states[n % 5] in ("indexed", "stale") and n % 40 != 0,
        status=lambda n: states[n % 5],
    )  # fmt: skip
    assert best.condition is not None
    assert best.condition.sql == "status IN ('indexed', 'stale')"
    assert 0.9 < best.condition.inside < 1.0


def test_rows_of_another_kind_and_odd_names() -> None:
    best = pages(
        120, lambda n: n % 3 == 0,
        **{'Kind "x"': lambda n: "it's" if n % 3 == 0 else "other"},
    )  # fmt: skip
    assert best.condition is not None
    assert best.condition.sql == '"Kind ""x""" = \'it\'\'s\''
    assert not best.condition.state
    assert "where = " in discovered.toml(Discovery((best,)))


def test_no_column_tells_lost_points_apart() -> None:
    best = pages(
        150, lambda n: n % 4 > 0,
        status=lambda n: "ok" if n % 7 else "new", number=lambda n: str(n % 6),
        note=lambda n: "x" if n % 2 else None,
    )  # fmt: skip
    assert best.condition is None
    assert "say which" in discovered.toml(Discovery((best,)))
    # A table in which nearly all rows have a point needs none.
    assert (
        pages(150, lambda n: n % 50 > 0, status=lambda n: "ok" if n % 50 else "x").condition is None
    )


def test_a_column_that_counts_the_points() -> None:
    rows: dict[str, Mapping[str, str]] = {
        uid(n): {"id": uid(n), "size": "3", "chunks": str(n % 4 + 1)} for n in range(60)
    }
    points = [
        Point(uid((n, chunk)), None, {"doc": uid(n)})
        for n in range(60)
        for chunk in range(n % 4 + 1)
    ]
    tables = Tables({KeyColumn("public.docs", "id", "uuid"): rows})
    best = discover(tables, Collections({"docs": points})).proposals[0]
    assert (best.cardinality, best.count) == ("many", "chunks")
