"""Both sides once more, for a few keys: what confirmation and repair judge by.

The judge is the comparison itself, on fresh reads, so that a second look can never follow
other rules than the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from vbackup.engine.compare import Comparison
from vbackup.engine.links import Target
from vbackup.model.blocks import PointBlock, PointId, RowBlock
from vbackup.model.finding import Finding
from vbackup.ports import PointReader, RowReader

OpenRows = Callable[[], AbstractContextManager[RowReader]]
"""Opens a fresh consistent view of the rows."""


@dataclass(frozen=True, slots=True)
class Reread:
    """Reads the pair again. `open_rows` gives a new snapshot each time."""

    open_rows: OpenRows
    points: PointReader
    workdir: Path
    aliases: Mapping[str, str] = field(default_factory=dict)

    def findings(
        self, target: Target, doubtful: Sequence[Finding], *, tenant: str | None = None
    ) -> list[Finding]:
        """What is wrong now with the keys and points of these findings.

        Rows are read before their points: whoever writes rows first can only look better."""
        rows = self.rows(target, doubtful)
        return self.judge(target, rows, self.blocks(target, doubtful, rows), tenant=tenant)

    def rows(self, target: Target, doubtful: Sequence[Finding]) -> RowBlock:
        """The rows that these findings name, in a new snapshot."""
        keys = keys_of(doubtful)
        if not keys:
            return RowBlock([])
        with self.open_rows() as view:
            return view.lookup(target.link, keys)

    def judge(
        self,
        target: Target,
        rows: RowBlock,
        points: Iterable[tuple[str, PointBlock]],
        *,
        tenant: str | None = None,
    ) -> list[Finding]:
        """The comparison of just these rows and points."""
        with Comparison(
            target.link, self.workdir, tenant=tenant, aliases=self.aliases
        ) as comparison:
            comparison.add_rows(rows)
            for collection, block in points:
                comparison.add_points(collection, block)
            return list(comparison.finish().findings)

    def blocks(
        self, target: Target, doubtful: Sequence[Finding], rows: RowBlock
    ) -> list[tuple[str, PointBlock]]:
        """All points of the findings' keys and the points that the findings name, by collection.
        `rows` only tells where to look."""
        keys = keys_of(doubtful)
        wanted = set(keys)
        named: dict[str, list[PointId]] = {}
        for finding in doubtful:
            if finding.point is not None:
                named.setdefault(finding.collection, []).append(finding.point)
        found = []
        for collection in self._collections(target, named, doubtful, rows):
            owned = self.points.owned(target.link, collection, keys) if keys else None
            seen = set(owned.ids) if owned else set()
            others = [point for point in named.get(collection, []) if point not in seen]
            if owned:
                found.append((collection, owned))
            if others:
                block = self.points.lookup(target.link, collection, others)
                # A point that refers to another key by now is not this key's business.
                keep = [ref is None or ref in wanted for ref in block.refs]
                found.append((collection, chosen(block, keep)))
        return found

    def _collections(
        self,
        target: Target,
        named: Mapping[str, object],
        doubtful: Sequence[Finding],
        rows: RowBlock,
    ) -> Sequence[str]:
        if rows.collections is None:
            return target.collections
        # Every row lives in one collection: the thousands of others need no look.
        concerned = {*named, *(f.collection for f in doubtful)}
        concerned |= {self.aliases.get(name, name) for name in rows.collections if name}
        return [name for name in target.collections if name in concerned]


def keys_of(findings: Iterable[Finding]) -> list[str]:
    """The distinct keys of findings, in their order."""
    return list(dict.fromkeys(f.key for f in findings if f.key is not None))


def chosen(block: PointBlock, keep: Sequence[bool]) -> PointBlock:
    """The points of a block that are marked."""
    at = [number for number, kept in enumerate(keep) if kept]
    return PointBlock(
        ids=[block.ids[i] for i in at],
        refs=[block.refs[i] for i in at],
        versions=[block.versions[i] for i in at] if block.versions is not None else None,
        tenants=[block.tenants[i] for i in at] if block.tenants is not None else None,
    )
