"""The user's own questions to a restored pair: `[[drill.check]]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from vbackup.config import DrillCheckConfig
from vbackup.model.blocks import PointId
from vbackup.model.keys import canonical

Ask = Callable[[str, str, float], object]
"""The single value that a query in a database yields, within so many seconds."""
Nearest = Callable[[str, Sequence[float] | PointId, str | None, int], Sequence[PointId]]
"""Ids of the points of a collection nearest to a vector or point (`using`, `limit`)."""
RunCommand = Callable[[str, Mapping[str, str], float], tuple[int | None, str]]
"""Exit code (None: it took too long) and the end of the output of a shell command."""

_NOT_RUN = {126: "the shell may not run it", 127: "the shell does not find it"}


class NotHere(Exception):
    """A check cannot run on these servers or this machine: it says nothing about the backup."""


class Wrong(Exception):
    """A check got another answer than it expects."""


@dataclass(frozen=True, slots=True)
class Restored:
    """The restored pair as checks reach it. `collections` maps names and aliases of the backup
    to the names they have now."""

    database: str
    collections: Mapping[str, str]
    ask: Ask
    nearest: Nearest | None
    run: RunCommand
    environment: Mapping[str, str] = field(default_factory=dict)

    def check(self, check: DrillCheckConfig) -> str:
        """Run one check; what it saw. Raises Wrong, NotHere, and what the servers raise."""
        if check.sql:
            return self._sql(check, check.sql)
        if check.collection:
            return self._search(check, check.collection)
        return self._command(check, check.command or "")

    def _sql(self, check: DrillCheckConfig, query: str) -> str:
        found = self.ask(self.database, query, check.timeout)
        if check.expect_min is not None:
            if not _is_number(found) or float(str(found)) < check.expect_min:
                raise Wrong(f"found {_shown(found)}, expected at least {check.expect_min:g}")
        elif not _same(found, check.expect):
            raise Wrong(f"found {_shown(found)}, expected {_shown(check.expect)}")
        return f"found {_shown(found)}"

    def _search(self, check: DrillCheckConfig, collection: str) -> str:
        if self.nearest is None or collection not in self.collections:
            there = ", ".join(self.collections) or "none"
            raise Wrong(f"the backup has no collection {collection!r} (it has: {there})")
        query = check.vector or check.like
        if query is None:
            raise Wrong("nothing to search for")
        name = self.collections[collection]
        found = [canonical(point) for point in self.nearest(name, query, check.using, check.limit)]
        missing = [str(point) for point in check.expect_ids if canonical(point) not in found]
        if missing:
            nearest = ", ".join(map(str, found[:5])) or "nothing"
            raise Wrong(
                f"{', '.join(missing)} not among the {len(found)} nearest (they begin {nearest})"
            )
        return f"{len(check.expect_ids)} expected points among the {len(found)} nearest"

    def _command(self, check: DrillCheckConfig, command: str) -> str:
        code, said = self.run(command, self.environment, check.timeout)
        last = f": {said.splitlines()[-1]}" if said else ""
        if code is None:
            raise Wrong(f"took longer than {check.timeout:g} s{last}")
        if code in _NOT_RUN:
            raise NotHere(f"{_NOT_RUN[code]} (exit code {code}){last}")
        if code != 0:
            raise Wrong(f"exit code {code}{last}")
        return f"exit code 0{last}"


def _same(found: object, expected: object) -> bool:
    if isinstance(expected, bool) or isinstance(found, bool):
        return found is expected
    if isinstance(expected, (int, float)):
        return _is_number(found) and float(str(found)) == float(expected)
    return canonical(found) == canonical(expected)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """As the configuration would write it, not longer than a line."""
    text = "NULL" if value is None else canonical(value) or ""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
