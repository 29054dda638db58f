"""What databases are put through while a backup runs: it is exact all the same, or fails loudly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from vbackup import wiring
from vbackup.demo.content import Change, points
from vbackup.demo.corpus import Passage
from vbackup.demo.scenario import Lag, Scenario
from vbackup.errors import VbackupError

pytestmark = [pytest.mark.integration, pytest.mark.torture, pytest.mark.timeout(300)]

# Nobody writes to the archive: a test may, without the application noticing.
CALM = Scenario(
    seed=200, rows=1_000, lag=Lag(slow=0.5), writes_per_second=120, archive="language", keys="int"
)
PASSAGE = Passage("by hand", "language", "")


class Hand:
    """Edits rows of the archive, and their points, whenever a test wants it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        with psycopg.connect(app.dsn) as connection:
            self.keys = [
                key
                for (key,) in connection.execute(
                    "SELECT chunks.id FROM chunks JOIN documents ON document_id = documents.id"
                    " WHERE section = 'language' ORDER BY chunks.id LIMIT 20"
                )
            ]

    def edit_row(self, connection: psycopg.Connection, key: int) -> Change:
        text = f"edited by hand\n\n(revision {key})"
        row = connection.execute(
            "UPDATE chunks SET text = %s, version = nextval('chunk_versions') WHERE id = %s"
            " RETURNING version",
            (text, key),
        ).fetchone()
        assert row is not None
        return Change(key, row[0], text, PASSAGE)

    def edit_point(self, change: Change) -> None:
        self._app.store.upsert(points(change, self._app.scenario), wait=True)


@contextmanager
def meanwhile(action: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `action` in a thread for the length of the block; its failure is raised after it."""
    stop, errors = threading.Event(), []

    def run() -> None:
        try:
            action(stop)
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="trouble")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def repeated(dsn: str, *statements: str) -> Callable[[threading.Event], None]:
    """One transaction of these statements after the other; gives way when it gets no lock."""

    def run(stop: threading.Event) -> None:
        done = 0
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SET lock_timeout = '300ms'")
            while not stop.wait(0.1):
                for statement in statements:
                    try:
                        connection.execute(statement.encode())
                        done += 1
                    except psycopg.errors.LockNotAvailable:
                        continue
        assert done, "the trouble never happened"

    return run


def test_transactions_that_stay_open_across_the_whole_backup(torture: Any) -> None:
    app, config = torture.begin(CALM)
    hand = Hand(app)
    open_key, prepared_key = hand.keys[:2]
    with psycopg.connect(app.dsn) as first, psycopg.connect(app.dsn) as second:
        opened = hand.edit_row(first, open_key)
        second.tpc_begin(second.xid(1, "torture", app.name))
        prepared = hand.edit_row(second, prepared_key)
        second.tpc_prepare()

        backup = torture.back_up(config)

        first.commit()
        second.tpc_commit()
    for change in (opened, prepared):
        hand.edit_point(change)
    outcome = torture.judge(app, config, backup)
    outcome.prove()
    # Their points were there all the time, in the version that the watermark sees.
    assert not {str(open_key), str(prepared_key)} & outcome.reembed
    with psycopg.connect(outcome.restored_dsn) as restored:
        found = restored.execute("SELECT count(*) FROM chunks WHERE text LIKE 'edited by hand%'")
        assert found.fetchone() == (0,)


def test_a_transaction_prepared_before_the_backup_and_committed_during_it(torture: Any) -> None:
    app, config = torture.begin(CALM)
    hand = Hand(app)
    with psycopg.connect(app.dsn) as connection:
        connection.tpc_begin(connection.xid(1, "torture", app.name))
        changes = [hand.edit_row(connection, key) for key in hand.keys]
        connection.tpc_prepare()

        def commit(_: threading.Event) -> None:
            app.wait_for_writes(40)
            connection.tpc_commit()
            for change in changes:
                hand.edit_point(change)

        with meanwhile(commit):
            backup = torture.back_up(config)

    torture.judge(app, config, backup).prove()


def test_tables_are_rewritten_and_altered_under_the_backup(torture: Any) -> None:
    app, config = torture.begin(CALM)
    trouble = repeated(
        app.dsn,
        "VACUUM FULL chunks",
        "ALTER TABLE chunks ADD COLUMN IF NOT EXISTS extra integer DEFAULT 7",
        "VACUUM FREEZE chunks",
        "ALTER TABLE chunks DROP COLUMN IF EXISTS extra",
        "REINDEX TABLE chunks",
    )

    with meanwhile(trouble):
        backup = torture.back_up(config)

    torture.judge(app, config, backup).prove()


def test_a_truncated_table_is_never_dumped_empty(torture: Any) -> None:
    """TRUNCATE ignores snapshots: only a lock taken before the watermark keeps the rows in it."""
    app, config = torture.begin(CALM)
    with psycopg.connect(app.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE totals AS SELECT n FROM generate_series(1, 100) n")
    trouble = repeated(
        app.dsn, "TRUNCATE totals; INSERT INTO totals SELECT n FROM generate_series(1, 100) n"
    )

    with meanwhile(trouble):
        backup = torture.back_up(config)

    outcome = torture.judge(app, config, backup)
    outcome.prove()
    with psycopg.connect(outcome.restored_dsn) as restored:
        found = restored.execute("SELECT count(*), sum(n) FROM totals").fetchone()
    assert found == (100, 5050)


def test_a_backup_that_loses_its_sessions_leaves_no_backup(torture: Any) -> None:
    app, config = torture.begin(CALM)

    def kill(stop: threading.Event) -> None:
        """The watermark's transactions, as soon as there is one; then whatever comes after."""
        with psycopg.connect(torture.postgres.admin_dsn, autocommit=True) as admin:
            while not stop.wait(0.02):
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                    " AND application_name LIKE 'vbackup%%' AND application_name !~ 'demo'"
                    " AND state = 'idle in transaction'",
                    (app.name,),
                )

    with pytest.raises(VbackupError) as failure, meanwhile(kill):
        torture.back_up(config)

    assert failure.value.code == 1
    assert wiring.open_repository(config.repository).backups() == []
    torture.judge(app, config, torture.back_up(config)).prove()


def test_capture_takes_no_lock_above_access_share_on_the_applications_tables(torture: Any) -> None:
    """Read from pg_locks all through a backup; pg_dump's sessions carry the same name."""
    app, config = torture.begin(CALM)
    seen: set[tuple[str]] = set()

    def watch(stop: threading.Event) -> None:
        with psycopg.connect(app.dsn, autocommit=True) as connection:
            while not stop.wait(0.01):
                found = connection.execute(
                    "SELECT DISTINCT l.mode FROM pg_locks l"
                    " JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation"
                    " JOIN pg_namespace n ON n.oid = c.relnamespace"
                    " WHERE a.datname = current_database() AND n.nspname = 'public'"
                    " AND a.application_name = 'vbackup'"
                )
                seen.update(found.fetchall())

    with meanwhile(watch):
        backup = torture.back_up(config)

    assert seen == {("AccessShareLock",)}
    torture.judge(app, config, backup).prove()
