"""Changed keys out of the write-ahead log: a temporary logical slot, decoded by test_decoding.

`pgoutput`, the other plugin that may be there, gives nothing without a publication, and a
publication is a schema change that makes UPDATE and DELETE fail on tables without a replica
identity. So there is test_decoding or no slot. The slot ends with its session.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterator
from typing import Self

import psycopg
from psycopg import errors as pg
from psycopg import sql

from vbackup.config import PostgresConfig
from vbackup.errors import Refused
from vbackup.model.link import RowSource
from vbackup.postgres import rows
from vbackup.postgres.connection import Connection, connect
from vbackup.postgres.row_plan import RowPlan

LIMIT = 1_000_000
"""Keys that are remembered; a slot that saw more knows nothing any more."""

BATCH = 20_000
"""Changes asked for at once; PostgreSQL finishes the transaction that it is in, however long."""

# integer, uuid, text, varchar: what the log shows as PostgreSQL writes them.
_KEYS = frozenset({20, 21, 23, 25, 1043, 2950})
_NAME = r"(?:\"(?:[^\"]|\"\")+\"|[^\"\[\]:. ]+)"
_LINE = re.compile(rf"table ({_NAME}\.{_NAME}): [A-Z]+: ")
_CELL = re.compile(rf"({_NAME})\[((?:[^\[\]]|\[\])+)\]:('(?:[^']|'')*'|[^ ]+) ?")
_MARKS = ("old-key: ", "new-tuple: ")
_UNKNOWN = frozenset({"null", "unchanged-toast-datum"})

Values = tuple[str, ...]


class SlotFeed:
    """The keys of every row changed since it was opened, until it is stopped. Thread-safe; one
    session of its own."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Take over a session that has made the slot `name`; see `open`."""
        self._connection = connection
        self._name = name
        self._busy = threading.Lock()
        self._read = 0
        self._count = 0
        self._followed: dict[str, dict[Values, dict[Values, int]]] = {}
        self._members: dict[RowSource, list[str]] = {}
        self.stopped = False
        self.lost = ""

    @classmethod
    def open(cls, config: PostgresConfig, database: str | None, timeout: float) -> Self:
        """Make a temporary slot. PostgreSQL waits until every transaction that is open now has
        ended: for `timeout` seconds at most.

        Raises Refused (why there can be none), Unreachable, Denied.
        """
        connection = connect(config, database=database)
        name = f"vbackup_{os.getpid()}_{secrets.token_hex(4)}"
        try:
            _bounded(connection, timeout)
            connection.execute(
                "SELECT pg_catalog.pg_create_logical_replication_slot(%s, 'test_decoding', true)",
                (name,),
            )
            _bounded(connection, 0)
        except psycopg.Error as error:
            connection.close()
            raise Refused(_why(error, timeout)) from error
        except BaseException:
            connection.close()
            raise
        return cls(connection, name)

    def follow(self, connection: Connection, source: RowSource, plan: RowPlan) -> None:
        """Remember the keys of this source's rows from now on, as far as the log shows them: not
        those of a query, a view, or a key that is an expression or of an unusual type."""
        with self._busy:
            if source in self._members:
                return
            plain = all(isinstance(part.value, sql.Identifier) for part in plan.key)
            known = plain and all(part.type_oid in _KEYS for part in plan.key)
            members: list[str] = []
            if known and plan.feeds and plan.lockable:
                found = connection.execute(_MEMBERS, (plan.lockable,))
                members = [str(name) for (name,) in found]
            self._members[source] = members
            for name in members:
                self._followed.setdefault(name, {}).setdefault(source.key, {})

    def drain(self) -> int:
        """Read what was committed since; how many rows' changes were read in all. A slot that
        broke just knows nothing any more (`lost` says why)."""
        with self._busy:
            while not (self.lost or self.stopped):
                try:
                    count = self._batch()
                except psycopg.Error as error:
                    self.lost = " ".join(str(error).split())
                    break
                if count < BATCH:
                    break
            if self.lost:
                # A slot that nobody reads would only keep the server's log.
                self._connection.close()
            return self._read

    def changed(self, source: RowSource, plan: RowPlan, since: int) -> list[str] | None:
        """Canonical keys of the source's rows changed after the first `since` changes; None when
        the slot cannot say."""
        with self._busy:
            if self.lost or not self._members.get(source):
                return None
            found = [
                values
                for name in self._members[source]
                for values, at in self._followed[name][source.key].items()
                if at > since
            ]
        columns: list[list[str | None]] = [list(column) for column in zip(*found, strict=True)]
        if not columns:
            return []
        keys = rows.keys_of(plan.key, columns)
        return list(dict.fromkeys(key for key in keys if key is not None))

    def stop(self) -> None:
        """Read what is there, and end the session, and the slot with it: it keeps the server from
        removing its log. What was read can still be asked for."""
        self.drain()
        with self._busy:
            self.stopped = True
            self._connection.close()

    def close(self) -> None:
        """End the session, and the slot with it."""
        self._connection.close()

    def _batch(self) -> int:
        """Read some changes, one at a time: a transaction may be larger than memory. How many."""
        count = 0
        values = ([_head(name) for name in self._followed], self._name, BATCH)
        with self._connection.cursor() as cursor, cursor.copy(_CHANGES, values) as copy:
            for (line,) in copy.rows():
                count += 1
                if line is not None:
                    self._remember(str(line))
        return count

    def _remember(self, line: str) -> None:
        head = _LINE.match(line)
        wanted = self._followed.get(head[1]) if head else None
        if head is None or wanted is None:
            return
        self._read += 1
        for cells in decoded(line[head.end() :]):
            for columns, seen in wanted.items():
                values = tuple(cells[name] for name in columns if name in cells)
                if len(values) == len(columns):
                    self._count += values not in seen
                    seen[values] = self._read
        if self._count > LIMIT:
            self.lost = f"more than {LIMIT:,} rows changed"
            self._followed.clear()


def _head(name: str) -> str:
    """How a change of this table begins, as far as the server compares it."""
    return f"table {name}: ".split(": ")[0]


def decoded(text: str) -> Iterator[dict[str, str]]:
    """The tuples of one change, old key first, by column name; without nulls."""
    cells: dict[str, str] = {}
    at = 0
    while at < len(text):
        mark = next((m for m in _MARKS if text.startswith(m, at)), "")
        if mark and cells:
            yield cells
            cells = {}
        found = _CELL.match(text, at + len(mark))
        if found is None:
            break
        name, _, value = found.groups()
        if value not in _UNKNOWN:
            cells[_bare(name, '"')] = _bare(value, "'")
        at = found.end()
    if cells:
        yield cells


def _bare(text: str, quote: str) -> str:
    return text[1:-1].replace(quote * 2, quote) if text.startswith(quote) else text


def _bounded(connection: Connection, timeout: float) -> None:
    for name in ("statement_timeout", "lock_timeout"):
        connection.execute(
            "SELECT pg_catalog.set_config(%s, %s, false)", (name, str(round(timeout * 1000)))
        )


def _why(error: psycopg.Error, timeout: float) -> str:
    """Why there is no slot, and what would help."""
    if isinstance(error, (pg.QueryCanceled, pg.LockNotAvailable)):
        return f"no logical slot: transactions stayed open for {timeout:g} s"
    if isinstance(error, pg.UndefinedFile):
        return "no logical slot: the server lacks test_decoding (package postgresql-contrib)"
    if isinstance(error, pg.InsufficientPrivilege):
        return "no logical slot: grant REPLICATION to the backup role (ALTER ROLE)"
    text = " ".join((error.diag.message_primary or str(error)).split())
    return f"no logical slot: {text}"


# Every change is a line; only those of followed tables have their text sent.
_CHANGES = """
COPY (SELECT CASE WHEN pg_catalog.split_part(data, ': ', 1) = ANY (%s) THEN data END
      FROM pg_catalog.pg_logical_slot_get_changes(
          %s, NULL, %s, 'skip-empty-xacts', '1', 'include-xids', '0')) TO STDOUT
"""
_MEMBERS = """
WITH RECURSIVE member(oid) AS (
    SELECT %s::pg_catalog.regclass::oid
    UNION ALL
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN member m ON i.inhparent = m.oid)
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM member m JOIN pg_catalog.pg_class c ON c.oid = m.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""
