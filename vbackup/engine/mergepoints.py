"""Brings the points of an extracted tenant back into the live collections.

Their rows are there again. Each point is written under the rules of a repair (engine.revival):
where none is, or over the very point that does not fit its row, and only while the row has the
version that the point says; what is overwritten goes to a file first. Rows whose points cannot be
brought back go on the re-embed list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vbackup.engine.links import Target
from vbackup.engine.repair import Repair, RepairKind, RepairOptions, RepairResult
from vbackup.model.finding import Finding

KINDS: frozenset[RepairKind] = frozenset({"missing", "stale", "ahead"})


@dataclass(slots=True)
class PointsBack:
    """What became of the points; `listed` are the keys, by link, that are left to the indexer."""

    revived: int = 0
    reembed: int = 0
    removed_file: Path | None = None
    listed: dict[str, set[str]] = field(default_factory=dict)

    def add(self, link: str, keys: set[str], done: RepairResult) -> None:
        self.revived += done.revived
        self.reembed += done.reembed
        self.removed_file = done.removed_file or self.removed_file
        if done.reembed:
            self.listed.setdefault(link, set()).update(keys)


def bring_back(
    repair: Repair,
    targets: Sequence[Target],
    keys: Iterable[tuple[str, list[str]]],
    removed_file: Path,
) -> PointsBack:
    """Bring back what the rows with these keys, by the names of their links, lack."""
    by_name = {target.link.name: target for target in targets}
    options = RepairOptions(KINDS, removed_file)
    back = PointsBack()
    for name, batch in keys:
        target = by_name.get(name)
        if target is None:
            continue
        asked = [Finding("missing", name, "", key) for key in batch]
        wrong = repair.reread.findings(target, asked)
        if wrong:
            keys_wrong = {finding.key for finding in wrong if finding.key is not None}
            back.add(name, keys_wrong, repair.run([target], [], partial(list, wrong), options))
    return back
