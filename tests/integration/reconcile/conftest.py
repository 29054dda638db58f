"""A real pair with an application that writes to it: rows first, points a little later."""

from __future__ import annotations

import random
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from vbackup.clock import SystemClock
from vbackup.config import PostgresConfig, QdrantConfig
from vbackup.engine.reconcile import Reconcile, ReconcileOptions, ReconcileResult, live_rows
from vbackup.engine.repair import Repair, RepairOptions, RepairResult, repair_kinds
from vbackup.engine.reread import Reread
from vbackup.engine.revival import FromBackup
from vbackup.engine.stored import StoredPoints
from vbackup.model.blocks import Point, PointId
from vbackup.model.finding import Finding
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.model.patch import PatchLine, Reembed
from vbackup.postgres.source import PostgresSource
from vbackup.progress import SilentReporter
from vbackup.qdrant.cluster import Cluster
from vbackup.qdrant.edit import LiveEditor
from vbackup.qdrant.offline import open_offline
from vbackup.qdrant.source import QdrantSource
from vbackup.sandbox.servers import QdrantServer

Kind = Literal["id-int", "id-uuid", "payload", "many"]
CHUNKS = 3
SETTLE = 0.25

_TABLE = """
CREATE TABLE documents (
    id {type} PRIMARY KEY, version bigint NOT NULL, live boolean NOT NULL DEFAULT true,
    owner text, chunks int NOT NULL
)
"""


@dataclass
class RealPair:
    """Both stores, as the application sees them and as vbackup does."""

    kind: Kind
    dsn: str
    server: QdrantServer
    tmp_path: Path
    name: str = field(default_factory=lambda: f"r{secrets.token_hex(5)}")

    def __post_init__(self) -> None:
        headers = {"api-key": self.server.api_key} if self.server.api_key else {}
        key = SecretStr(self.server.api_key) if self.server.api_key else None
        options = QdrantConfig(nodes=self.server.urls, api_key=key)
        self.http = httpx.Client(base_url=self.server.url, headers=headers, timeout=60)
        self.cluster = Cluster(options, SystemClock())
        self.points = QdrantSource(options, SystemClock(), cluster=self.cluster)
        self.records = PostgresSource(PostgresConfig(dsn=SecretStr(self.dsn)), clock=SystemClock())
        self.call("PUT", "", {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 2})
        with self.connect() as connection:
            column = "uuid" if self.kind == "id-uuid" else "bigint"
            connection.execute(_TABLE.format(type=column))

    @property
    def link(self) -> Link:
        many = self.kind == "many"
        return Link(
            name="documents",
            collection=self.name,
            rows=(
                RowSource(
                    table="documents",
                    key=("id",),
                    version="version",
                    live="live",
                    count="chunks" if many else None,
                    tenant="owner",
                ),
            ),
            ref=(PayloadPath.parse("doc.id"),) if self.kind in ("payload", "many") else (),
            version=PayloadPath.parse("doc.version"),
            tenant=PayloadPath.parse("owner"),
            cardinality="many" if many else "one",
        )

    # ------------------------------------------------------------ the application's side

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn, autocommit=True)

    def call(self, method: str, path: str, body: object = None, **params: str) -> Any:
        answer = self.http.request(
            method, f"/collections/{self.name}{path}", json=body, params=params
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def key(self, number: int) -> str:
        return str(uuid.UUID(int=number << 66 | number)) if self.kind == "id-uuid" else str(number)

    def ids(self, number: int) -> list[int | str]:
        """The ids of the points of one row."""
        if self.kind == "id-uuid":
            return [self.key(number)]
        if self.kind == "id-int":
            return [number]
        chunks = CHUNKS if self.kind == "many" else 1
        return [str(uuid.UUID(int=(number << 8) + chunk + 1)) for chunk in range(chunks)]

    def put(self, numbers: Sequence[int], version: int, **changes: Any) -> None:
        """The points of these rows in one version."""
        self.write([p for number in numbers for p in self.dots(number, version)], **changes)

    def dots(self, number: int, version: int) -> list[dict[str, Any]]:
        # JSON numbers and text alike refer to a row.
        key: object = self.key(number)
        if self.kind == "many":
            key = number
        payload = {"doc": {"id": key, "version": version}, "owner": owner(number)}
        return [
            {"id": i, "vector": [float(number), float(version)], "payload": payload}
            for i in self.ids(number)
        ]

    def write(self, points: Sequence[dict[str, Any]], wait: str = "true") -> None:
        for at in range(0, len(points), 1_000):
            self.call("PUT", "/points", {"points": points[at : at + 1_000]}, wait=wait)

    def remove(self, ids: Sequence[int | str], wait: str = "true") -> None:
        self.call("POST", "/points/delete", {"points": list(ids)}, wait=wait)

    def insert(self, numbers: Sequence[int], version: int = 1, *, live: bool = True) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO documents VALUES (%s, %s, %s, %s, %s)",
                [(self.key(n), version, live, owner(n), CHUNKS) for n in numbers],
            )

    def fill(self, count: int) -> None:
        """Rows 1 to `count` and their points."""
        numbers = range(1, count + 1)
        self.insert(numbers)
        self.put(numbers, 1)

    def rows(self) -> dict[str, tuple[int, bool]]:
        with self.connect() as connection:
            return {
                str(key): (version, live)
                for key, version, live in connection.execute(
                    "SELECT id, version, live FROM documents"
                )
            }

    def dump_points(self) -> dict[int | str, dict[str, Any]]:
        """Every payload by id, read the plain way."""
        found: dict[int | str, dict[str, Any]] = {}
        body: dict[str, Any] = {"limit": 5_000, "with_payload": True, "with_vector": True}
        while True:
            page = self.call("POST", "/points/scroll", body)
            found |= {point["id"]: point for point in page["points"]}
            if page["next_page_offset"] is None:
                return found
            body["offset"] = page["next_page_offset"]

    # ------------------------------------------------------------ vbackup's side

    def reconcile(self, **options: Any) -> tuple[ReconcileResult, list[Finding]]:
        found: list[Finding] = []
        result = Reconcile(
            links=[self.link],
            ignore=[],
            open_rows=live_rows(self.records),
            points=self.points,
            names={self.name: ()},
            options=ReconcileOptions(work_dir=self.tmp_path, **options),
            reporter=SilentReporter(),
            clock=SystemClock(),
        ).run(found.append)
        return result, found

    def repair(
        self,
        result: ReconcileResult,
        found: list[Finding],
        kinds: str = "all",
        *,
        before_delete: Callable[[Sequence[Point]], None] = lambda _: None,
        before_write: Callable[[Sequence[Point]], None] = lambda _: None,
        from_backup: FromBackup | None = None,
        **options: Any,
    ) -> tuple[RepairResult, list[Reembed]]:
        reembed: list[Reembed] = []
        reread = Reread(live_rows(self.records), self.points, self.tmp_path)
        repair = Repair(
            reread,
            InterruptedEditor(self.cluster, before_delete, before_write),
            SilentReporter(),
            reembed.append,
            from_backup,
        )
        chosen = RepairOptions(repair_kinds(kinds), self.tmp_path / "removed.jsonl", **options)
        return repair.run(result.targets, result.reports, lambda: found, chosen), reembed

    @contextmanager
    def stored(self, patch: Sequence[PatchLine]) -> Iterator[StoredPoints]:
        """The collection as a backup of now would hold it, with this patch."""
        tars = []
        for shard in self.points.facts([self.name]).collections[0].shards:
            spool = self.points.spool(shard, self.tmp_path)
            assert spool.done.wait(60)
            assert spool.error is None
            tars.append(spool.path)
        with (
            open_offline({self.name: tars}, self.tmp_path / "offline", vectors=True) as offline,
            closing(StoredPoints(offline, patch, self.tmp_path / "upserts")) as stored,
        ):
            yield stored

    def close(self) -> None:
        self.http.delete(f"/collections/{self.name}")
        self.http.close()
        self.points.close()
        self.cluster.close()
        self.records.close()


class InterruptedEditor(LiveEditor):
    """Lets somebody act at the worst moments: all looks are done, the delete or the write comes
    next."""

    def __init__(
        self,
        cluster: Cluster,
        before_delete: Callable[[Sequence[Point]], None],
        before_write: Callable[[Sequence[Point]], None],
    ) -> None:
        super().__init__(cluster)
        self._before_delete = before_delete
        self._before_write = before_write

    def delete_unchanged(self, collection: str, points: Sequence[Point]) -> None:
        self._before_delete(points)
        super().delete_unchanged(collection, points)

    def write_unchanged(
        self, collection: str, points: Sequence[Point], seen: Mapping[PointId, Point]
    ) -> None:
        self._before_write(points)
        super().write_unchanged(collection, points, seen)


def owner(number: int) -> str:
    return f"tenant-{number % 3}"


@dataclass
class Writers:
    """An application at work: rows first, their points up to `lag` seconds later, in order.

    `numbers` are the rows that it touches; others are left to the test. `worst` is the longest
    that any point really took, in seconds: on a busy machine that is more than `lag`."""

    pair: RealPair
    numbers: Sequence[int]
    rate: float = 300.0
    lag: float = 0.3
    seed: int = 1
    written: int = 0
    worst: float = 0.0

    def __enter__(self) -> Writers:
        self._stop = threading.Event()
        self._queue: list[tuple[float, int, int | None]] = []
        self._unsettled: deque[float] = deque()
        self._pool = ThreadPoolExecutor(1, "writers")
        self._running = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._running.result()

    def at_work(self, written: int) -> None:
        """Returns when so many writes were made; raises what stopped them."""
        while self.written < written and not self._running.done():
            self._stop.wait(0.01)
        if self._running.done():
            self._running.result()

    @property
    def _behind(self) -> int:
        """As many points may be due at a time."""
        return int(self.rate * self.lag) + 20

    def _run(self) -> None:
        with closing(self.pair.connect()) as connection:
            chance = random.Random(self.seed)
            started = time.monotonic()
            settled = started
            while not self._stop.wait(0.001):
                self._index(time.monotonic())
                if time.monotonic() - settled > SETTLE:
                    self._settle()
                    settled = time.monotonic()
                due = int((time.monotonic() - started) * self.rate) - self.written
                for _ in range(min(due, self._behind - len(self._queue), 50)):
                    self._write(connection, chance)
                    # On a busy machine the rate falls, not the promise of the lag.
                    if self._index(time.monotonic()):
                        break
            self._index(float("inf"))
            self._settle()

    def _settle(self) -> None:
        """Nobody waits for a write, so queues of the server might grow: shards apply in order, and
        this waits for all of them."""
        nothing: dict[str, Any] = {"filter": {"must": [{"has_id": []}]}}
        sent = len(self._unsettled) - len(self._queue)
        self.pair.call("POST", "/points/delete", nothing, wait="true")
        for _ in range(sent):
            self.worst = max(self.worst, time.monotonic() - self._unsettled.popleft())

    def _write(self, connection: psycopg.Connection, chance: random.Random) -> None:
        number = chance.choice(self.numbers)
        key = self.pair.key(number)
        self.written += 1
        self._unsettled.append(time.monotonic())
        at = time.monotonic() + chance.random() * self.lag
        if chance.random() < 0.3:
            connection.execute("DELETE FROM documents WHERE id = %s", (key,))
            self._queue.append((at, number, None))
            return
        row = connection.execute(
            "INSERT INTO documents VALUES (%s, %s, true, %s, %s) ON CONFLICT (id)"
            " DO UPDATE SET version = documents.version %% 3 + 1 RETURNING version",
            (key, chance.randrange(1, 4), owner(number), CHUNKS),
        ).fetchone()
        assert row is not None
        self._queue.append((at, number, row[0]))

    def _index(self, now: float) -> bool:
        """Everything that is due, in order; an entry never overtakes an earlier one. Whether
        there was anything."""
        done = bool(self._queue) and self._queue[0][0] <= now
        while self._queue and self._queue[0][0] <= now:
            _, number, version = self._queue.pop(0)
            if version is None:
                self.pair.remove(self.pair.ids(number), wait="false")
            else:
                self.pair.write(self.pair.dots(number, version), wait="false")
        return done


@pytest.fixture
def pairs(
    tmp_path: Path,
    postgres_server: Any,
    new_database: Callable[[Any], str],
    qdrant_servers: Callable[..., QdrantServer],
) -> Iterator[Callable[..., RealPair]]:
    """`pairs("id-uuid", "1.16.3")`."""
    made: list[RealPair] = []

    def make(kind: Kind, version: str = "1.17.0") -> RealPair:
        made.append(
            RealPair(kind, new_database(postgres_server), qdrant_servers(version), tmp_path)
        )
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def writers() -> type[Writers]:
    return Writers
