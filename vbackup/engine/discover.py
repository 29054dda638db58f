"""Proposes links for a pair that nobody has described: what do sampled points refer to?

Every path that most points of a collection have, and their ids, are looked up in every column
that an index can find; what else rows and points agree on tells an owner from a coincidence.
Only reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, permutations

from vbackup.engine.evidence import (
    ID,
    Agreement,
    Drawn,
    agreements,
    joint_path,
    named_after,
    tenant_of,
    version_of,
)
from vbackup.engine.liveness import LIKELY, Condition, condition
from vbackup.model.link import JSON_STEP, Link, PayloadPath, RowSource
from vbackup.ports import (
    CollectionFacts,
    KeyCatalog,
    KeyColumn,
    PointSampler,
    Reporter,
    SampledRow,
)

SAMPLE = 500
FEW = 20
"""References that are looked up first."""
LEAST = 0.5
"""Share of the sampled references that must have a row."""
ASKED = 200
"""Rows whose points are looked for."""
SCANNED = 200_000
"""Points of a collection that may be scanned for want of a payload index."""
MANY = 0.05
COMBINATIONS = 200
"""Combinations of paths that are tried for one composite key and first path."""
_UUID_SIZED = 36


@dataclass(frozen=True, slots=True)
class Proposal:
    """One link that samples speak for. Rates are shares of what was sampled; `row_rate` (rows
    that have a point) is None where looking would have cost a scan of a large collection."""

    name: str
    collection: str
    table: str
    key: str
    ref: str
    keys: tuple[str, ...]
    refs: tuple[str, ...]
    match_rate: float
    row_rate: float | None
    sampled: int
    cardinality: str
    unique: bool
    version: Agreement | None = None
    tenant: Agreement | None = None
    count: str | None = None
    condition: Condition | None = None
    agrees: tuple[str, ...] = ()
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Discovery:
    """The best link of every collection, what else would be possible, and what has none."""

    proposals: tuple[Proposal, ...] = ()
    alternatives: tuple[Proposal, ...] = ()
    unmatched: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()


@dataclass(slots=True)
class Discover:
    """One look at a pair."""

    catalog: KeyCatalog
    points: PointSampler
    reporter: Reporter
    sample: int = SAMPLE
    _keys: Sequence[KeyColumn] = field(default_factory=list)

    def run(self, collections: Sequence[CollectionFacts]) -> Discovery:
        """Raises what the stores raise."""
        self._keys = self.catalog.keys()
        best: list[Proposal] = []
        others: list[Proposal] = []
        unmatched: list[str] = []
        empty: list[str] = []
        with self.reporter.step("discover", total=len(collections), unit="collections") as step:
            for facts in collections:
                step.detail(facts.name)
                drawn = Drawn.of(self.points.sample(facts.name, self.sample))
                found = sorted(self._found(facts, drawn), key=lambda p: -p.score)
                best += found[:1]
                others += found[1:]
                if not found:
                    (unmatched if drawn.points else empty).append(facts.name)
                step.advance()
        merged = _named(_merged(best))
        return Discovery(tuple(merged), tuple(others), tuple(unmatched), tuple(empty))

    def _found(self, facts: CollectionFacts, drawn: Drawn) -> Iterator[Proposal]:
        references = drawn.references()
        leading: dict[tuple[str, str], list[str]] = {}
        for ref, values in references.items():
            for key in self._keys:
                rows = {} if key.more else self._rows(key, values)
                if not rows:
                    continue
                if not key.unique:
                    leading.setdefault((key.table, key.column), []).append(ref)
                proposal = self._proposal(facts, drawn, ref, values, key, rows)
                if proposal:
                    yield proposal
        for key in self._keys:
            if key.more:
                firsts = leading.get((key.table, key.column), [])
                yield from self._composites(facts, drawn, key, firsts, list(references))

    def _composites(
        self,
        facts: CollectionFacts,
        drawn: Drawn,
        key: KeyColumn,
        firsts: Sequence[str],
        paths: Sequence[str],
    ) -> Iterator[Proposal]:
        """Links by several columns, the first of which has been found to fit one of `firsts`."""
        others = [path for path in paths if path != ID]
        for first in firsts:
            rest = [path for path in others if path != first]
            for tail in islice(permutations(rest, len(key.more)), COMBINATIONS):
                joined = drawn.joined((first, *tail))
                ref = joint_path((first, *tail))
                values = joined.reference(ref)
                rows = self._rows(key, values) if values else {}
                proposal = self._proposal(facts, joined, ref, values, key, rows) if rows else None
                if proposal:
                    yield proposal

    def _rows(self, key: KeyColumn, values: Sequence[str]) -> dict[str, SampledRow]:
        """Rows that the values refer to; none unless enough of the first few have one."""
        wanted = sorted({value for value in values if _fits(key, value)})
        if len(wanted) < LEAST * len(set(values)):
            return {}
        few = wanted[:: max(1, len(wanted) // FEW)]
        if len(self._lookup(key, few)) < LEAST / 2 * len(few):
            return {}
        return self._lookup(key, wanted)

    def _lookup(self, key: KeyColumn, wanted: Sequence[str]) -> dict[str, SampledRow]:
        return {row.key: row for row in self.catalog.rows(key, wanted)}

    def _proposal(
        self,
        facts: CollectionFacts,
        drawn: Drawn,
        ref: str,
        values: Sequence[str],
        key: KeyColumn,
        rows: Mapping[str, SampledRow],
    ) -> Proposal | None:
        match_rate = sum(value in rows for value in values) / len(drawn.points)
        if match_rate < LEAST:
            return None
        agreed = agreements(drawn, ref, key, rows)
        owned = self._owned(facts, ref, key, rows)
        if {*key.kinds} == {"integer"} and not _convincing(ref, key, agreed, owned):
            return None
        varying = [a for a in agreed if a.varies]
        proposal = Proposal(
            name=facts.name,
            collection=facts.name,
            table=key.table,
            key=", ".join(key.columns),
            ref=", ".join(_paths(ref)),
            keys=key.columns,
            refs=_paths(ref),
            match_rate=match_rate,
            row_rate=owned.row_rate if owned else None,
            sampled=len(drawn.points),
            cardinality="many" if _many(ref, values, owned) else "one",
            unique=key.unique,
            version=version_of(agreed),
            tenant=tenant_of(agreed),
            agrees=tuple(f"{a.path} = {a.column}" for a in agreed),
        )
        if owned and proposal.cardinality == "many":
            proposal = replace(proposal, count=owned.counted())
        if owned and owned.row_rate < LIKELY:
            proposal = replace(proposal, condition=owned.condition())
        return replace(proposal, score=_score(proposal, values, len(varying), ref, key))

    def _owned(
        self, facts: CollectionFacts, ref: str, key: KeyColumn, rows: Mapping[str, SampledRow]
    ) -> _Owned | None:
        """How many points some rows of the table have, and some of those referred to."""
        link = Link(
            name=facts.name,
            collection=facts.name,
            rows=(RowSource(table=key.table, key=key.columns),),
            ref=() if ref == ID else tuple(map(PayloadPath.parse, ref.split("\n"))),
        )
        indexed = link.by_id or any(
            path.indexable and str(path) in facts.payload_schema for path in link.ref
        )
        if not indexed and facts.points > SCANNED:
            return None
        drawn = {row.key: row for row in self.catalog.sample(key, ASKED)}
        asked = {**drawn, **dict(list(rows.items())[:ASKED])}
        block = self.points.owned(link, facts.name, sorted(asked))
        counts = Counter(ref for ref in block.refs if ref is not None)
        return _Owned(asked, frozenset(drawn), counts)


@dataclass(frozen=True, slots=True)
class _Owned:
    """Points by row."""

    rows: Mapping[str, SampledRow]
    drawn: frozenset[str]
    counts: Counter[str]

    @property
    def row_rate(self) -> float:
        """Share of the rows drawn from the table that have a point."""
        return sum(key in self.counts for key in self.drawn) / max(1, len(self.drawn))

    def condition(self) -> Condition | None:
        """What tells the rows that have points from the others in the table."""
        rows = {key: self.rows[key] for key in self.drawn}
        return condition(rows, self.counts.keys())

    @property
    def many(self) -> bool:
        several = sum(count > 1 for count in self.counts.values())
        return several > MANY * len(self.counts)

    def counted(self) -> str | None:
        """The column that says how many points a row has."""
        mine = [(self.rows[key], str(count)) for key, count in self.counts.items()]
        if len({count for _, count in mine}) < 2:
            return None
        names = {name for row, count in mine for name, v in row.columns.items() if v == count}
        shares = {
            name: sum(row.columns.get(name) == count for row, count in mine) / len(mine)
            for name in sorted(names)
        }
        best = max(shares, key=shares.__getitem__, default=None)
        return best if best and shares[best] >= 1 - MANY else None


def _convincing(
    ref: str, key: KeyColumn, agreed: Sequence[Agreement], owned: _Owned | None
) -> bool:
    """Small integers fit many tables: something else must speak for the link."""
    if any(agreement.varies for agreement in agreed) or named_after(ref, key):
        return True
    return ref == ID and owned is not None and owned.row_rate >= 1 - MANY


def _many(ref: str, values: Sequence[str], owned: _Owned | None) -> bool:
    if ref == ID:
        return False
    if owned is not None and owned.counts:
        return owned.many
    return len(values) - len(set(values)) > MANY * len(values)


def _score(
    proposal: Proposal, values: Sequence[str], varying: int, ref: str, key: KeyColumn
) -> float:
    """More of: matches, agreement beside the key, rows with points, finer keys, telling names."""
    row_rate = 0.5 if proposal.row_rate is None else proposal.row_rate
    score = proposal.match_rate + min(varying, 3) / 6 + 0.3 * row_rate
    score += 0.3 * len(set(values)) / len(values)
    score += 0.1 * named_after(ref, key) + 0.1 * key.unique + 0.2 * (ref == ID)
    score += 0.1 * (proposal.version is not None) - 0.2 * key.foreign
    # Numbers that count from 1 fit any table that does, unless its other columns agree as well;
    # a UUID or a text fits by no chance.
    score += 0.4 * ({*key.kinds} != {"integer"} or varying > 0)
    return score - 0.1 * (JSON_STEP in ref)


def _paths(ref: str) -> tuple[str, ...]:
    """A reference as links spell it."""
    return (ref,) if ref == ID else tuple(f"payload:{path}" for path in ref.split("\n"))


def _fits(key: KeyColumn, value: str) -> bool:
    """Whether the columns of this key may hold the value."""
    parts = json.loads(value) if key.more else [value]
    return all(map(_holds, key.kinds, parts))


def _holds(kind: str, value: str) -> bool:
    if kind == "integer":
        return value.lstrip("-").isdecimal() and value.isascii()
    return kind == "text" or (len(value) == _UUID_SIZED and value.count("-") == 4)


def _merged(best: Sequence[Proposal]) -> Iterator[Proposal]:
    """One link for the collections that share the rows of a table out among them."""
    groups: dict[tuple[object, ...], list[Proposal]] = {}
    for found in best:
        shape = (found.table, found.key, found.ref, found.version, found.cardinality)
        groups.setdefault(shape, []).append(found)
    for group in groups.values():
        rates = [found.row_rate for found in group if found.row_rate is not None]
        # Together they hold each row once: so they are parts, not copies.
        if len(group) == 1 or len(rates) < len(group) or sum(rates) > 1 + MANY:
            yield from group
            continue
        yield replace(
            group[0],
            collection=",".join(found.collection for found in group),
            match_rate=min(found.match_rate for found in group),
            row_rate=sum(rates),
            sampled=sum(found.sampled for found in group),
        )


def _named(proposals: Collection[Proposal] | Iterator[Proposal]) -> Iterator[Proposal]:
    """Each with a name of its own: the table's when only one link has it, else the collection's."""
    listed = list(proposals)
    tables = Counter(_plain(found.table) for found in listed)
    for found in listed:
        table = _plain(found.table)
        yield replace(found, name=table if tables[table] == 1 else found.name)


def _plain(table: str) -> str:
    return table.rpartition(".")[2].strip('"')
