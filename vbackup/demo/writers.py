"""Writer threads: seeded inserts, updates and deletes through both stores, in a chosen order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from vbackup import fence
from vbackup.demo.content import Change, Key, parts, revised
from vbackup.demo.corpus import Passage
from vbackup.demo.index_queue import IndexQueue
from vbackup.demo.latencies import Latencies
from vbackup.demo.ledger import Ledger, State
from vbackup.demo.point_writer import PointWriter
from vbackup.demo.scenario import Scenario

_MOST_ROWS_OF_A_LONG_TRANSACTION = 6

# A vector that is a column goes in the same statement.
_DRAFT = {
    "qdrant": (
        "UPDATE chunks SET status = 'draft', version = %(version)s, updated_at = now()"
        " WHERE id = %(key)s"
    ),
    "pgvector": (
        "UPDATE chunks SET status = 'draft', version = %(version)s, updated_at = now(),"
        " embedding = NULL, embedded_version = NULL WHERE id = %(key)s"
    ),
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What all writers of one application share."""

    scenario: Scenario
    connect: Callable[[], psycopg.Connection]
    ledger: Ledger
    passages: Sequence[Passage]
    points: PointWriter
    queue: IndexQueue
    stop: threading.Event
    latencies: Latencies | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One planned write of one key, which the writer holds until it is released."""

    key: Key
    verb: str
    before: State
    after: State
    passage: Passage

    @property
    def indexed(self) -> bool:
        """Whether the row's points change."""
        return self.verb != "touch"


class Writer(threading.Thread):
    """One writer with its own connection. `error` says why it ended, if not by `stop`;
    `worst_lead` the longest that points stood there before their rows did, in seconds."""

    def __init__(self, desk: Desk, number: int) -> None:
        super().__init__(name=f"writer-{number}")
        self._desk = desk
        self._scenario = desk.scenario
        self._rng = desk.scenario.random(f"writer-{number}")
        self.writes = 0
        self.worst_lead = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._desk.connect() as connection:
                self._write_until_stopped(connection)
        except BaseException as error:  # noqa: BLE001 - raised by Application.stop
            self.error = error

    def _write_until_stopped(self, connection: psycopg.Connection) -> None:
        interval = self._scenario.writers / self._scenario.writes_per_second
        due = time.monotonic() + self._rng.random() * interval
        while not self._desk.stop.wait(max(0.0, due - time.monotonic())):
            # A writer that fell behind does not try to catch up with a burst.
            due = max(due + interval, time.monotonic() - interval)
            edits = self._plan()
            try:
                self._carry_out(connection, edits)
            finally:
                for edit in edits:
                    self._desk.ledger.release(edit.key, edit.after)
            self.writes += len(edits)

    # -------------------------------------------------------------- planning

    def _plan(self) -> list[Edit]:
        count = 1
        if self._rng.random() < self._scenario.long_share:
            count = self._rng.randint(2, _MOST_ROWS_OF_A_LONG_TRANSACTION)
        return [edit for edit in (self._edit() for _ in range(count)) if edit]

    def _edit(self) -> Edit | None:
        rng, ledger = self._rng, self._desk.ledger
        if self._scenario.hot_rows and rng.random() < self._scenario.hot_share:
            return self._taken(ledger.take(rng, "published", hot=True), "update", "published")
        verb = self._scenario.mix.draw(rng)
        if verb == "insert":
            passage = rng.choice(self._desk.passages)
            key = ledger.fresh(rng, passage)
            return Edit(key, "insert", "deleted", "published", passage)
        if verb == "reinsert":
            return self._taken(ledger.take(rng, "deleted"), verb, "deleted", "published")
        if verb == "toggle" and (draft := ledger.take(rng, "draft")) is not None:
            return self._taken(draft, "update", "draft", "published")
        after: State = {"toggle": "draft", "delete": "deleted"}.get(verb, "published")  # type: ignore[assignment]
        return self._taken(ledger.take(rng, "published"), verb, "published", after)

    def _taken(
        self, key: Key | None, verb: str, before: State, after: State = "published"
    ) -> Edit | None:
        if key is None:
            return None
        return Edit(key, verb, before, after, self._desk.ledger.passage(key))

    # -------------------------------------------------------------- writing

    def _carry_out(self, connection: psycopg.Connection, edits: list[Edit]) -> None:
        if not edits:
            return
        match self._scenario.order:
            case "row-first":
                self._rows_first(connection, edits)
            case "point-first":
                for edit in edits:
                    self._point_first(connection, edit)
            case "in-transaction":
                self._in_transaction(connection, edits)

    def _rows_first(self, connection: psycopg.Connection, edits: list[Edit]) -> None:
        """Commit the rows; the indexer follows when it gets to them."""
        changes = [self._change(connection, edit) for edit in edits]
        began = time.monotonic()
        with connection.transaction():
            for edit, change in zip(edits, changes, strict=True):
                self._write_row(connection, edit, change)
            if len(edits) > 1:
                self._pause(self._rng.uniform(0.3, 1.0) * self._scenario.long_seconds)
        self._time_row(began)
        for edit, change in zip(edits, changes, strict=True):
            if edit.indexed:
                self._desk.queue.put(change, self._scenario.lag.draw(self._rng), began)

    def _point_first(self, connection: psycopg.Connection, edit: Edit) -> None:
        """Write the points; the row follows, as LangChain's index() does it."""
        change = self._change(connection, edit)
        ahead = time.monotonic()
        if edit.indexed:
            self._desk.points.write([change], self._rng)
            self._pause(self._scenario.lag.draw(self._rng))
        with connection.transaction():
            self._write_row(connection, edit, change)
        self._time_lead(ahead)

    def _in_transaction(self, connection: psycopg.Connection, edits: list[Edit]) -> None:
        """Write the points while the rows' transaction is open."""
        changes = [self._change(connection, edit) for edit in edits]
        fenced = self._scenario.fenced
        began, lag = time.monotonic(), self._scenario.lag.draw(self._rng)
        with fence.shared(connection) if fenced else connection.transaction():
            for edit, change in zip(edits, changes, strict=True):
                self._write_row(connection, edit, change)
            self._time_row(began)
            moved = [c for e, c in zip(edits, changes, strict=True) if e.indexed]
            ahead = time.monotonic()
            self._desk.points.write(moved, self._rng)
            self._pause(lag)
            if len(edits) > 1:
                self._pause(self._rng.uniform(0.3, 1.0) * self._scenario.long_seconds)
        self._time_lead(ahead)
        if self._desk.latencies:
            self._desk.latencies.pair(began, lag)

    def _time_lead(self, ahead: float) -> None:
        self.worst_lead = max(self.worst_lead, time.monotonic() - ahead)

    def _time_row(self, began: float) -> None:
        if self._desk.latencies:
            self._desk.latencies.row(began)

    def _change(self, connection: psycopg.Connection, edit: Edit) -> Change:
        row = connection.execute("SELECT nextval('chunk_versions')").fetchone()
        version = int(row[0]) if row else 0
        text = revised(edit.passage, self._rng) if edit.after == "published" else None
        return Change(edit.key, version, text, edit.passage)

    def _write_row(self, connection: psycopg.Connection, edit: Edit, change: Change) -> None:
        with self._savepoint(connection):
            statement, values = _statement(edit, change, self._scenario)
            connection.execute(statement, values)

    @contextmanager
    def _savepoint(self, connection: psycopg.Connection) -> Iterator[None]:
        """Now and then write inside a subtransaction, after one that was rolled back."""
        if self._rng.random() >= self._scenario.savepoint_share:
            yield
            return
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO users (name) VALUES ('nobody')")
        with connection.transaction():
            yield

    def _pause(self, seconds: float) -> None:
        self._desk.stop.wait(seconds)


def _statement(edit: Edit, change: Change, scenario: Scenario) -> tuple[str, dict[str, object]]:
    values: dict[str, object] = {"key": edit.key, "version": change.version, "text": change.text}
    if edit.verb == "touch":
        return "UPDATE chunks SET views = views + 1 WHERE id = %(key)s", values
    if edit.after == "deleted":
        return "DELETE FROM chunks WHERE id = %(key)s", values
    if change.text is None:
        return _DRAFT[scenario.engine], values
    values |= {"title": edit.passage.title, "points": len(parts(change.text, scenario))}
    if edit.before == "deleted":
        return (
            "INSERT INTO chunks (id, document_id, text, version, status, points)"
            " SELECT %(key)s, id, %(text)s, %(version)s, 'published', %(points)s"
            " FROM documents WHERE title = %(title)s"
        ), values
    return (
        "UPDATE chunks SET text = %(text)s, version = %(version)s, status = 'published',"
        " points = %(points)s, updated_at = now() WHERE id = %(key)s"
    ), values
