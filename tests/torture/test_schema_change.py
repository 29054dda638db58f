"""Schemas and collections that change during a whole backup, at seeded moments.

A backup then is exact, or it fails aloud and there is none. Whoever changes a schema waits no
longer than its own lock_timeout says, and nobody is in a deadlock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import psycopg
import pytest

from vbackup import wiring
from vbackup.clock import SystemClock
from vbackup.config import Config
from vbackup.demo.scenario import Lag, Scenario
from vbackup.engine.backup import BackupResult
from vbackup.errors import Failed, NotFound, VbackupError
from vbackup.ports import Step
from vbackup.progress import SilentReporter

pytestmark = [pytest.mark.integration, pytest.mark.torture, pytest.mark.timeout(300)]

CALM = Scenario(rows=1_000, lag=Lag(slow=0.5), writes_per_second=120)
FENCED = Scenario(
    rows=1_000, lag=Lag(slow=0.5), writes_per_second=120, order="in-transaction", fenced=True
)
SCENARIOS = {"capture": CALM, "lock": CALM, "fence": FENCED}


class Changes(threading.Thread):
    """Changes something every now and then until it is stopped. `step` says what to do next."""

    def __init__(self, seed: int, step: Callable[[Random], None]) -> None:
        super().__init__(name="changes")
        self._rng = Random(seed)
        self._step = step
        self._enough = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._enough.wait(self._rng.uniform(0.02, 0.4)):
                self._step(self._rng)
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self.error = error

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self._enough.set()
            self.join()
        if self.error:
            raise self.error


class Schema:
    """Tables that are made, dropped, emptied and altered, each with its line in a journal that
    the same transaction writes: a restored database must agree with its own journal."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self.execute("CREATE TABLE journal (name text PRIMARY KEY, filled bigint NOT NULL)")
        self.execute("SET lock_timeout = '1s'")
        self._made: list[str] = []
        self._altered = False
        self._count = 0
        self._first = ["alter", "create"]
        self.done: list[str] = []
        self.gave_way = 0

    def execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def step(self, rng: Random) -> None:
        others = ["create", "create", "drop", "truncate", "alter"]
        verb = self._first.pop() if self._first else rng.choice(others)
        try:
            with self._connection.transaction():
                getattr(self, f"_{verb}")(rng)
        except psycopg.errors.LockNotAvailable:
            self.gave_way += 1
        else:
            self.done.append(verb)

    def _create(self, rng: Random) -> None:
        self._count += 1
        name = f"made_{self._count}"
        filled = rng.randrange(1, 200)
        self.execute(f"CREATE TABLE {name} AS SELECT n FROM generate_series(1, {filled}) n")
        self.execute(f"INSERT INTO journal VALUES ('{name}', {filled})")
        self._made.append(name)

    def _drop(self, rng: Random) -> None:
        if self._made:
            name = rng.choice(self._made)
            self.execute(f"DROP TABLE {name}")
            self.execute(f"DELETE FROM journal WHERE name = '{name}'")
            self._made.remove(name)

    def _truncate(self, rng: Random) -> None:
        if self._made:
            name = rng.choice(self._made)
            self.execute(f"TRUNCATE {name}")
            self.execute(f"UPDATE journal SET filled = 0 WHERE name = '{name}'")

    def _alter(self, rng: Random) -> None:
        action = "DROP COLUMN extra" if self._altered else "ADD COLUMN extra bigint DEFAULT 7"
        self.execute(f"ALTER TABLE chunks {action}")
        self._altered = not self._altered

    def close(self) -> None:
        self._connection.close()


def agrees_with_its_journal(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE tablename LIKE 'made%'"
        ).fetchall()
        found = {
            name: connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
            for (name,) in tables
        }
        journal = connection.execute("SELECT name, filled FROM journal").fetchall()
    assert found == {name: (filled,) for name, filled in journal}


def attempted(torture: Any, config: Config) -> BackupResult | VbackupError:
    """A backup, or how it failed: then there is none."""
    try:
        done: BackupResult = torture.back_up(config)
    except VbackupError as error:
        assert wiring.open_repository(config.repository).backups() == []
        return error
    return done


@pytest.mark.parametrize("strategy", ["capture", "fence", "lock"])
def test_tables_come_and_go_and_change_under_the_backup(strategy: Any, torture: Any) -> None:
    app, config = torture.begin(SCENARIOS[strategy], strategy)
    schema = Schema(app.dsn)
    torture.stack.callback(schema.close)

    with Changes(700, schema.step).meanwhile():
        backup = attempted(torture, config)

    assert {"create", "alter"} <= set(schema.done)
    if isinstance(backup, VbackupError):
        # A lock that a schema change had for too long; nothing else may fail.
        assert isinstance(backup, Failed)
        assert backup.retryable
        backup = torture.back_up(config)
    outcome = torture.judge(app, config, backup)
    outcome.prove()
    agrees_with_its_journal(outcome.restored_dsn)
    # Nothing of the backup is left that would be in the way of a schema change.
    given_way = schema.gave_way
    for verb in (schema._alter, schema._create, schema._truncate, schema._drop):
        verb(Random(0))
    assert schema.gave_way == given_way


VERBS = ("drop", "index", "alias", "create")
"""The last comes first, so that each has something to work on."""


class Collections:
    """Other collections of the same deployment that come and go, an alias that moves between
    them, and an index of the linked collection that is dropped and built again."""

    def __init__(self, app: Any) -> None:
        self._store = app.store
        self._name = app.name
        self._made: list[str] = []
        self._count = 0
        self._first = [*VERBS]
        self.done: list[str] = []

    def step(self, rng: Random) -> None:
        verb = self._first.pop() if self._first else rng.choice([*VERBS, "create"])
        getattr(self, f"_{verb}")(rng)
        self.done.append(verb)

    def _create(self, rng: Random) -> None:
        self._count += 1
        with self._store.sibling(f"{self._name}_x{self._count}") as store:
            store.create(8, rng.choice([1, 2]))
            vectors = [[rng.random() for _ in range(8)] for _ in range(50)]
            store.upsert([{"id": n, "vector": v} for n, v in enumerate(vectors)], wait=True)
        self._made.append(store.collection)

    def _drop(self, rng: Random) -> None:
        if self._made:
            name = self._made.pop(rng.randrange(len(self._made)))
            self._store.call("DELETE", f"/collections/{name}")

    def _alias(self, rng: Random) -> None:
        target = rng.choice([self._name, *self._made])
        alias = f"{self._name}_alias"
        body = {
            "actions": [
                {"delete_alias": {"alias_name": alias}},
                {"create_alias": {"collection_name": target, "alias_name": alias}},
            ]
        }
        self._store.call("POST", "/collections/aliases", body)

    def _index(self, rng: Random) -> None:
        path = f"/collections/{self._name}/index"
        self._store.call("DELETE", f"{path}/section?wait=true")
        self._store.index("section", "keyword")

    def clear(self, *suffixes: str) -> None:
        found = self._store.call("GET", "/collections")["collections"]
        for name in [one["name"] for one in found]:
            if name.startswith(f"{self._name}_x"):
                self._store.call("DELETE", f"/collections/{name}")


@pytest.mark.parametrize("seed", [710, 711])
def test_collections_come_and_go_under_the_backup(seed: int, torture: Any) -> None:
    scenario = Scenario(
        seed=seed, rows=1_000, lag=Lag(slow=0.5), writes_per_second=120, optimizers=True
    )
    app, config = torture.begin(scenario)
    assert config.qdrant is not None
    qdrant = config.qdrant.model_copy(update={"collections": (app.name, f"{app.name}_x*")})
    config = config.model_copy(update={"qdrant": qdrant, "ignore": (f"{app.name}_x*",)})
    collections = Collections(app)
    torture.stack.callback(collections.clear)

    with Changes(seed, collections.step).meanwhile():
        backup = attempted(torture, config)

    assert set(VERBS) <= set(collections.done)
    if isinstance(backup, VbackupError):
        # A collection went away before its shards were cut.
        assert backup.code in {1, 5}
        assert "collection" in str(backup) or "shard" in str(backup)
        backup = torture.back_up(config)
    torture.judge(app, config, backup).prove()


class AtTheWatermark(SilentReporter):
    """Does something once, when the collections are known and no shard was asked for yet."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._actions = [action]

    @contextmanager
    def step(self, name: str, *, total: int | None = None, unit: str = "bytes") -> Iterator[Step]:
        if name == "find the watermark" and self._actions:
            self._actions.pop()()
        with super().step(name, total=total, unit=unit) as step:
            yield step


@pytest.mark.parametrize("named", [False, True], ids=["matched", "named"])
def test_a_collection_that_goes_before_its_cut(named: bool, torture: Any) -> None:
    """One that the configuration names is missed; one that a glob matched is left out."""
    app, config = torture.begin(CALM)
    assert config.qdrant is not None
    other = app.store.sibling(f"{app.name}_x")
    torture.stack.callback(other.close)
    other.create(8, 1)
    patterns = (app.name, other.collection if named else f"{app.name}_?")
    qdrant = config.qdrant.model_copy(update={"collections": patterns})
    both = config.model_copy(update={"qdrant": qdrant, "ignore": (other.collection,)})
    reporter = AtTheWatermark(other.drop)

    if named:
        with pytest.raises(NotFound, match=other.collection):
            wiring.backup(both, reporter, SystemClock())
        assert wiring.open_repository(config.repository).backups() == []
        return
    backup = wiring.backup(both, reporter, SystemClock())

    assert [text for text, _ in reporter.warnings] == ["a shard stream broke: cutting again"]
    assert backup.manifest.qdrant is not None
    assert [part.name for part in backup.manifest.qdrant.collections] == [app.name]
    torture.judge(app, config, backup).prove()
