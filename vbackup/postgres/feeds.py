"""Change feeds: which rows changed since a base. A hint of what to capture, never the authority.

xmin    every row written by a transaction that was running at the base, or by a later one
column  rows whose `changed_by` is not older than it was at the base, less some slack
slot    keys out of the write-ahead log (postgres.slot), looked up in the snapshot

Rows whose link says no version always come by xmin: there the feed also says which points prove
nothing (docs/guarantees.md). So do sources that the configured feed cannot follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from psycopg import sql

from vbackup.errors import Usage
from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link, RowSource
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection, one
from vbackup.postgres.row_plan import RowPlan
from vbackup.postgres.slot import SlotFeed

Planner = Callable[[RowSource], RowPlan]
Feed = Literal["xmin", "column", "slot"]

SEQUENCE_SLACK = 10_000
"""How far back numbers are looked at: those that open transactions took before the base."""

_NUMBERS = frozenset({20, 21, 23, 1700})
_TIMES = {1184: "timestamptz", 1114: "timestamp"}


@dataclass(frozen=True, slots=True)
class Base:
    """Where changes are counted from: a transaction as the 32 bits that `xmin` has, the column
    feed's value by source, and how much had been read of the slot."""

    xmin: str
    marks: Mapping[str, str] = field(default_factory=dict)
    slot: int = 0

    @classmethod
    def parse(cls, text: str) -> Base:
        """Read what `str` wrote. Raises Usage."""
        xmin, _, rest = text.partition(" ")
        if not (xmin.isascii() and xmin.isdigit() and int(xmin) < 2**32):
            raise Usage(f"{text!r} is not a change base")
        if not rest:
            return cls(xmin)
        try:
            slot, marks = json.loads(rest)
            return cls(xmin, {str(k): str(v) for k, v in marks.items()}, int(slot))
        except (ValueError, TypeError, AttributeError):
            raise Usage(f"{text!r} is not a change base") from None

    def __str__(self) -> str:
        if not self.marks and not self.slot:
            return self.xmin
        return f"{self.xmin} {json.dumps([self.slot, dict(self.marks)])}"


@dataclass(slots=True)
class ChangeFeed:
    """Reads changed rows the way that the configuration asks for. `slack` is seconds: how far
    behind its commit a row's `changed_by` may be."""

    feed: Feed = "xmin"
    slack: float = 300.0
    slot: SlotFeed | None = None

    def base(self, connection: Connection, links: Sequence[Link], planner: Planner) -> str:
        """This moment as a base: every row that a later snapshot sees and this moment's does
        not was written by this transaction or a younger one, also by subtransactions, which a
        snapshot does not list."""
        read = self._follow(connection, links, planner)
        (xmin,) = one(connection, _OLDEST_RUNNING)
        marks: dict[str, str] = {}
        if self.feed == "column":
            for source in (source for link in links if link.keyed for source in link.rows):
                plan = planner(source)
                if plan.changed_by:
                    marks[_name(source)] = _mark(connection, plan, self.slack)
        return str(Base(str(xmin), marks, read))

    def rows(
        self, connection: Connection, link: Link, base: str, planner: Planner
    ) -> Iterator[RowBlock]:
        """Rows of a link changed since the base, as the open transaction sees them.

        Queries, views and foreign tables have no `xmin`: all their rows come.
        """
        since = Base.parse(base)
        for source in link.rows:
            plan = planner(source)
            keys = self._logged(source, plan, since) if link.keyed else None
            if keys is not None:
                yield from rows.looked_up(connection, plan, keys)
                continue
            mark = since.marks.get(_name(source)) if link.keyed else None
            condition = plan.since(since.xmin) if mark is None else _from(plan, mark)
            yield from rows.stream(connection, plan, plan.select(condition))

    def _follow(self, connection: Connection, links: Sequence[Link], planner: Planner) -> int:
        if self.slot is None:
            return 0
        for source in (source for link in links if link.keyed for source in link.rows):
            self.slot.follow(connection, source, planner(source))
        return self.slot.drain()

    def _logged(self, source: RowSource, plan: RowPlan, since: Base) -> list[str] | None:
        """Keys out of the slot; None when it does not know."""
        if self.slot is None:
            return None
        self.slot.drain()
        return self.slot.changed(source, plan, since.slot)


def changed(
    connection: Connection,
    feed: ChangeFeed,
    links: Sequence[Link],
    base: str,
    planner: Planner,
    most: int | None = None,
) -> tuple[dict[str, RowBlock], str]:
    """The changed rows of all links (whole blocks up to `most` rows a link) in one snapshot, and
    the base for the next call."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        following = feed.base(connection, links, planner)
        found = {
            link.name: rows.joined(_some(feed.rows(connection, link, base, planner), most))
            for link in links
        }
    finally:
        connection.rollback()
    return found, following


def _some(blocks: Iterator[RowBlock], most: int | None) -> list[RowBlock]:
    """Blocks with up to about that many rows. The rest is read all the same: to break a COPY off
    would break the transaction."""
    found: list[RowBlock] = []
    count = 0
    for block in blocks:
        if most is None or count < most:
            found.append(block)
            count += len(block)
    return found


def column_since(connection: Connection, plan: RowPlan, slack: float) -> sql.Composable:
    """The condition of the column feed as of now, to measure it."""
    return _from(plan, _mark(connection, plan, slack))


def _name(source: RowSource) -> str:
    return f"{source.table}.{source.changed_by}"


def _mark(connection: Connection, plan: RowPlan, slack: float) -> str:
    """The column's value to start from, as text; empty when the table is. A time in the future
    (one row with a wrong clock is enough) counts as now. Raises Usage for other types."""
    by = plan.changed_by
    if by is None or by.type_oid not in _TIMES.keys() | _NUMBERS:
        raise Usage("changed_by must be a timestamp or a number")
    if by.type_oid in _TIMES:
        least = sql.SQL(
            "(least(max({}), pg_catalog.clock_timestamp()::{}) - {} * interval '1 s')::text"
        ).format(by.value, sql.SQL(_TIMES[by.type_oid]), sql.Literal(slack))
    else:
        least = sql.SQL("(max({}) - {})::text").format(by.value, sql.Literal(SEQUENCE_SLACK))
    query = sql.SQL("SELECT {} FROM {}").format(least, plan.origin)
    row = connection.execute(query).fetchone()
    return str(row[0]) if row and row[0] is not None else ""


def _from(plan: RowPlan, mark: str) -> sql.Composable:
    if plan.changed_by is None or not mark:
        return sql.SQL("true")
    kind = _TIMES.get(plan.changed_by.type_oid, "numeric")
    if kind == "numeric":
        kind = "int8" if plan.changed_by.type_oid != 1700 else kind
    return sql.SQL("{} >= {}::{}").format(
        plan.changed_by.value, sql.Literal(mark), sql.Identifier("pg_catalog", kind)
    )


_OLDEST_RUNNING = (
    "SELECT (pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::numeric"
    " % 4294967296)::bigint::text"
)
