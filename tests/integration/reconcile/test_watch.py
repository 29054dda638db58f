"""A watch of a real pair: what was injected appears, what was repaired goes, lag never shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from vbackup.clock import SystemClock
from vbackup.config import WatermarkConfig
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, live_rows
from vbackup.engine.watch import Round, Watch, WatchOptions
from vbackup.postgres.source import PostgresSource
from vbackup.progress import SilentReporter

pytestmark = pytest.mark.integration

ROWS = 3_000
LAG = 4.0
PAUSE = 0.2


def watch(pair: Any, records: Any = None, complete_every: float = 3600.0) -> Watch:
    def opened() -> Reconcile:
        return Reconcile(
            links=[pair.link],
            ignore=[],
            open_rows=live_rows(pair.records),
            points=pair.points,
            names={pair.name: ()},
            options=ReconcileOptions(max_index_lag=LAG, work_dir=pair.tmp_path),
            reporter=SilentReporter(),
            clock=SystemClock(),
        )

    return Watch(
        opened, records or pair.records, WatchOptions(PAUSE, complete_every), SystemClock()
    )


def until(rounds: Iterator[Round], reached: Callable[[Round], bool]) -> list[Round]:
    """Rounds up to the first one that reached it; the test's time limit ends the wait."""
    seen = [next(rounds)]
    while not reached(seen[-1]):
        seen.append(next(rounds))
    return seen


def named(found: Any) -> set[tuple[str, str | None]]:
    return {(finding.kind, finding.key) for finding in found}


@pytest.mark.parametrize("kind", ["id-int", "payload", "many"])
def test_only_what_was_injected_is_shown_beside_writers(
    pairs: Callable[..., Any], writers: Callable[..., Any], kind: str
) -> None:
    pair = pairs(kind)
    pair.fill(ROWS)
    pair.remove(pair.ids(11))
    with writers(pair, range(100, ROWS), rate=150.0, lag=0.3) as app:
        app.at_work(100)
        found = watch(pair)
        rounds = found.rounds()
        assert named(next(rounds).appeared) == {("missing", "11")}
        # The row moves on, its point does not; and the missing point comes back.
        with pair.connect() as connection:
            connection.execute("UPDATE documents SET version = 2 WHERE id = 21")
        pair.put([11], 1)
        expected = {("stale", "21")} | ({("wrong_count", "21")} if kind == "many" else set())
        seen = until(rounds, lambda r: named(found.findings()) == expected)
        assert all(not r.compared for r in seen)
        gone = [finding for r in seen for finding in r.gone]
        assert named(gone) == {("missing", "11")}
        assert {key for r in seen for _, key in named(r.appeared)} == {"21"}
        # Many rows were looked at in the meantime, and what they lacked was lag.
        assert sum(r.looked_at for r in seen) > 20
        pair.put([21], 2)
        healed = until(rounds, lambda r: r.clean)[-1]
        assert {key for _, key in named(healed.gone)} == {"21"}


def test_complete_rounds_find_what_no_feed_tells(
    pairs: Callable[..., Any], writers: Callable[..., Any]
) -> None:
    pair = pairs("id-int")
    pair.fill(ROWS)
    with writers(pair, range(100, ROWS), rate=150.0, lag=0.3) as app:
        app.at_work(50)
        found = watch(pair, complete_every=1.0)
        rounds = found.rounds()
        assert next(rounds).clean
        with pair.connect() as connection:
            connection.execute("DELETE FROM documents WHERE id = 31")
        pair.remove(pair.ids(41))
        expected = {("orphan", "31"), ("missing", "41")}
        seen = until(rounds, lambda _: named(found.findings()) == expected)
        assert {key for r in seen for _, key in named(r.appeared)} == {"31", "41"}
        assert any(r.compared for r in seen)
        pair.remove(pair.ids(31))
        pair.put([41], 1)
        assert named(until(rounds, lambda r: r.clean)[-1].gone) <= expected


@pytest.mark.parametrize("feed", ["xmin", "slot"])
def test_with_every_feed_a_change_is_looked_at(
    pairs: Callable[..., Any], postgres_server: Any, feed: Any
) -> None:
    pair = pairs("payload")
    pair.fill(300)
    config = WatermarkConfig(feed=feed)
    with closing(PostgresSource(pair.records._config, config, clock=SystemClock())) as records:
        found = watch(pair, records)
        rounds = found.rounds()
        assert next(rounds).clean
        with pair.connect() as connection:
            connection.execute("UPDATE documents SET version = 2 WHERE id IN (5, 6)")
        pair.put([6], 2)
        seen = until(rounds, lambda r: r.looked_at > 0)[-1]
        assert (seen.looked_at, seen.in_doubt) == (2, 1)
        assert named(until(rounds, lambda r: not r.clean)[-1].appeared) == {("stale", "5")}


def test_a_database_that_is_away_for_a_while_ends_nothing(pairs: Callable[..., Any]) -> None:
    pair = pairs("id-int")
    pair.fill(100)
    found = watch(pair)
    rounds = found.rounds()
    assert next(rounds).clean
    with pair.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    seen = until(rounds, lambda r: r.error is None)
    assert seen[-1].clean
    if len(seen) > 1:
        assert seen[-1].compared == ("documents",)
