"""Whose a point is: a row is told by its key, or, where rows name their collection, by both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from vbackup.engine import versions
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link
from vbackup.model.patch import named


class Owner(NamedTuple):
    """A row of a link. `collection` is where its points are: None where rows do not say and the
    link's collections are one set, "" where this row should say and names none."""

    key: str
    collection: str | None = None

    @property
    def named(self) -> str:
        """As `model.patch.Reembed.named` spells it."""
        return self.key if self.collection is None else named(self.key, self.collection)

    def may_own(self, collection: str) -> bool:
        """Whether a point in this collection can be the row's."""
        return self.collection is None or self.collection == collection


def owners(block: RowBlock, aliases: Mapping[str, str]) -> list[Owner]:
    """The rows of a block. An alias counts as its collection."""
    if block.collections is None:
        return [Owner(key) for key in block.keys]
    return [
        Owner(key, aliases.get(name, name) if name else "")
        for key, name in zip(block.keys, block.collections, strict=True)
    ]


def rows_of(link: Link, block: RowBlock, aliases: Mapping[str, str]) -> Iterator[tuple[int, Owner]]:
    """Where each row stands in a block. Of a row that several sources repeat that one counts
    which counts in a comparison: live first, then the newest version."""
    found = owners(block, aliases)
    if len(set(found)) == len(found):
        yield from enumerate(found)
        return
    rank = _ranks(link, block)
    best: dict[Owner, int] = {}
    for at, owner in enumerate(found):
        if owner not in best or rank[at] > rank[best[owner]]:
            best[owner] = at
    yield from ((at, owner) for owner, at in best.items())


def at_collection(found: Iterable[Owner], collection: str) -> list[Owner]:
    """Those whose points may be in this collection."""
    return [owner for owner in found if owner.may_own(collection)]


def _ranks(link: Link, block: RowBlock) -> Sequence[tuple[bool, int, int, int]]:
    """As `engine.judge` sorts rows of one key."""
    count = len(block)
    live = block.live if block.live is not None else [True] * count
    counts = [-1 if c is None else c for c in block.counts or [None] * count]
    if block.versions is None or not link.keyed:
        return [(bool(live[at]), 0, 0, counts[at]) for at in range(count)]
    said = versions.encode(block.versions)
    kinds, values = said.kind.tolist(), said.value.tolist()
    return [(bool(live[at]), kinds[at], values[at], counts[at]) for at in range(count)]
