"""Change feeds: which rows changed since a base. A hint of what to capture, never the authority."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vbackup.model.blocks import RowBlock
from vbackup.model.link import Link, RowSource
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection, one
from vbackup.postgres.row_plan import RowPlan

Planner = Callable[[RowSource], RowPlan]


def change_base(connection: Connection) -> str:
    """The oldest transaction that may still be running, as the 32 bits that `xmin` has.

    Every row that a later snapshot sees and this moment's does not was written by this
    transaction or a younger one: also by subtransactions, which a snapshot does not list.
    """
    (base,) = one(
        connection,
        "SELECT (pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::numeric"
        " % 4294967296)::bigint::text",
    )
    return str(base)


def changed_rows(
    connection: Connection, link: Link, base: str, planner: Planner
) -> Iterable[RowBlock]:
    """Rows of a link changed since the base, as the open transaction sees them.

    A superset. Queries, views and foreign tables have no `xmin`: all their rows come.
    """
    for source in link.rows:
        plan = planner(source)
        yield from rows.stream(connection, plan, plan.select(plan.since(base)))


def changed(
    connection: Connection, links: Sequence[Link], base: str, planner: Planner
) -> tuple[dict[str, RowBlock], str]:
    """The changed rows of all links in one snapshot, and the base for the next call."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        following = change_base(connection)
        found = {
            link.name: rows.joined(list(changed_rows(connection, link, base, planner)))
            for link in links
        }
    finally:
        connection.rollback()
    return found, following
