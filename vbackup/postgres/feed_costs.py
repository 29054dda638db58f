"""What each change feed costs for a link, measured by reading it once: for `check`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import errors as pg
from psycopg import sql

from vbackup.errors import Refused
from vbackup.model.link import Link
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection
from vbackup.postgres.feeds import ChangeFeed, Feed, Planner, column_since
from vbackup.postgres.row_plan import RowPlan
from vbackup.postgres.slot import SlotFeed

PATIENCE_MS = 30_000
"""A feed that takes longer is not measured to its end."""


@dataclass(frozen=True, slots=True)
class FeedCost:
    """One feed for one link: the milliseconds of one read, or why it cannot be had."""

    feed: Feed
    milliseconds: float | None = None
    why_not: str = ""


def costs(
    connection: Connection,
    link: Link,
    planner: Planner,
    slack: float,
    open_slot: Callable[[], SlotFeed],
) -> list[FeedCost]:
    """Read each feed once, as of now. Raises what the readers raise."""
    plans = [planner(source) for source in link.rows]
    connection.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(PATIENCE_MS)))
    feed = ChangeFeed()
    base = feed.base(connection, [link], planner)
    found = [_timed("xmin", lambda: feed.rows(connection, link, base, planner))]
    if not link.keyed:
        why = "rows and points say no common version"
        return [*found, FeedCost("column", why_not=why), FeedCost("slot", why_not=why)]
    if all(plan.changed_by for plan in plans):
        found.append(_timed("column", lambda: _by_column(connection, plans, slack)))
    else:
        found.append(FeedCost("column", why_not="no changed_by in rows"))
    found.append(_slot_cost(connection, link, planner, open_slot))
    return found


def _by_column(connection: Connection, plans: Sequence[RowPlan], slack: float) -> Iterator[object]:
    for plan in plans:
        query = plan.select(column_since(connection, plan, slack))
        yield from rows.stream(connection, plan, query)


def _slot_cost(
    connection: Connection, link: Link, planner: Planner, open_slot: Callable[[], SlotFeed]
) -> FeedCost:
    try:
        slot = open_slot()
    except Refused as error:
        return FeedCost("slot", why_not=error.message)
    try:
        for source in link.rows:
            slot.follow(connection, source, planner(source))
            if slot.changed(source, planner(source), 0) is None:
                return FeedCost("slot", why_not="the log does not show these rows' keys")
        return _timed("slot", lambda: [slot.drain()])
    finally:
        slot.close()


def _timed(feed: Feed, read: Callable[[], Iterable[object]]) -> FeedCost:
    started = time.perf_counter()
    try:
        for _ in read():
            pass
    except pg.QueryCanceled:
        return FeedCost(feed, why_not=f"takes more than {PATIENCE_MS // 1000} s")
    return FeedCost(feed, (time.perf_counter() - started) * 1000)
