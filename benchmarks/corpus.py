"""The pair that `backup.py` backs up: seeded rows and points, and what changes between backups.

`documents` have a point each, `messages` have none: about 3 and 17 of 20 rows. Text is drawn
word by word with the frequencies of natural language (Zipf), so that it compresses as text does;
one row in fifty is long enough for TOAST. Vectors lie around a few hundred centres.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
import psycopg
from numpy.typing import NDArray

DIMENSIONS = 384
ROWS = 1_700_000
POINTS = 300_000
COLLECTION = "documents"
_SENTENCES = 120_000
_BATCH = 2_000

_SCHEMA = """
DROP TABLE IF EXISTS documents, messages;
CREATE TABLE documents (id bigint PRIMARY KEY, tenant uuid NOT NULL, title text NOT NULL,
    body text NOT NULL, meta jsonb NOT NULL, version int NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE messages (LIKE documents INCLUDING ALL);
"""
_INDEXES = """
CREATE INDEX ON documents (tenant, updated_at);
CREATE INDEX ON messages (tenant, updated_at);
"""


@dataclass(slots=True)
class Text:
    """Sentences drawn once, and put together anew for every row."""

    rng: np.random.Generator
    sentences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        letters = np.array(list("etaoinshrdlucmfwypvbgk"))
        lengths = self.rng.integers(2, 11, 40_000)
        words = ["".join(self.rng.choice(letters[: 8 + n], n)) for n in lengths]
        ranks = np.arange(1, len(words) + 1) ** -1.05
        chosen = self.rng.choice(len(words), _SENTENCES * 12, p=ranks / ranks.sum()).tolist()
        self.sentences = [
            " ".join([words[n] for n in chosen[at : at + 12]]).capitalize() + "."
            for at in range(0, len(chosen), 12)
        ]

    def bodies(self, count: int) -> list[str]:
        """One text a row: about 1 KB, and 12 KB for one row in fifty."""
        lengths = self.rng.integers(4, 21, count)
        lengths[self.rng.random(count) < 0.02] = 160
        picked = self.rng.integers(0, len(self.sentences), int(lengths.sum())).tolist()
        bodies, at = [], 0
        for length in lengths.tolist():
            bodies.append(" ".join([self.sentences[n] for n in picked[at : at + length]]))
            at += length
        return bodies

    def titles(self, count: int) -> list[str]:
        """A few words a row."""
        picked = self.rng.integers(0, len(self.sentences), count).tolist()
        return [self.sentences[n][:60] for n in picked]


class Corpus:
    """Fills both stores and changes them. `scale` 1 is 1.7 million rows and 300,000 points."""

    def __init__(self, dsn: str, url: str, scale: float, seed: int) -> None:
        self._dsn = dsn
        self._http = httpx.Client(base_url=url, timeout=600)
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._text = Text(self._rng)
        self._centres = self._rng.standard_normal((300, DIMENSIONS), dtype=np.float32)
        self.points = int(POINTS * scale)
        self.rows = {"documents": self.points, "messages": int((ROWS - POINTS) * scale)}
        self._tenants = [str(uuid.UUID(bytes=self._rng.bytes(16))) for _ in range(200)]

    def resume(self) -> None:
        """Go on with what earlier calls left in the stores, with new random numbers."""
        with psycopg.connect(self._dsn) as connection:
            for table in self.rows:
                row = connection.execute(f"SELECT max(id), max(version) FROM {table}").fetchone()
                self.rows[table], version = row or (0, 0)
        self.points = self.rows["documents"]
        self._text.rng = self._rng = np.random.default_rng([self._seed, self.points, version])

    # ------------------------------------------------------------ rows

    def fill(self) -> None:
        """All rows and points, vacuumed and indexed."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(_SCHEMA)
            for table, count in self.rows.items():
                self._copy(connection, table, range(1, count + 1))
            connection.execute(_INDEXES)
            connection.execute("VACUUM (ANALYZE, FREEZE) documents, messages")
            connection.execute("CHECKPOINT")
        self._collection()
        self._upsert(np.arange(1, self.points + 1))
        self.settle()

    def _copy(self, connection: psycopg.Connection, table: str, ids: range) -> None:
        with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            for start in range(ids.start, ids.stop, _BATCH):
                batch = range(start, min(start + _BATCH, ids.stop))
                rows = zip(
                    batch,
                    self._rng.choice(self._tenants, len(batch)),
                    self._text.titles(len(batch)),
                    self._text.bodies(len(batch)),
                    self._rng.integers(0, 10**9, len(batch)).tolist(),
                    strict=True,
                )
                lines = [
                    f"{key}\t{tenant}\t{title}\t{body}\t"
                    f'{{"lang": "en", "size": {len(body)}, "source": "import-{number % 97}", '
                    f'"etag": "{number:09d}"}}\t1\t2026-0{1 + number % 9}-1{number % 10} '
                    f"12:{number % 60:02d}:00+00\n"
                    for key, tenant, title, body, number in rows
                ]
                copy.write("".join(lines))

    def append(self, share: float) -> None:
        """New rows and points at the end."""
        for table, count in list(self.rows.items()):
            more = range(count + 1, count + int(count * share) + 1)
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                self._copy(connection, table, more)
            self.rows[table] = more.stop - 1
        self._upsert(np.arange(self.points + 1, self.rows["documents"] + 1))
        self.points = self.rows["documents"]
        self.settle()

    def change_range(self, share: float) -> None:
        """New text, versions and vectors for one range of keys in the middle."""
        self._update(
            {
                table: np.arange(count // 2, count // 2 + int(count * share))
                for table, count in self.rows.items()
            }
        )

    def change_random(self, share: float) -> None:
        """New text, versions and vectors for rows anywhere."""
        self._update(
            {
                table: np.sort(self._rng.choice(count, int(count * share), replace=False) + 1)
                for table, count in self.rows.items()
            }
        )

    def _update(self, chosen: dict[str, NDArray[np.int64]]) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for table, keys in chosen.items():
                with connection.cursor() as cursor:
                    cursor.executemany(
                        f"UPDATE {table} SET body = %s, version = version + 1, updated_at = now()"
                        " WHERE id = %s",
                        zip(self._text.bodies(len(keys)), keys.tolist(), strict=True),
                    )
            versions = dict(
                connection.execute(
                    "SELECT id, version FROM documents WHERE id = ANY(%s)",
                    [chosen["documents"].tolist()],
                )
            )
        self._upsert(chosen["documents"], versions)
        self.settle()

    # ------------------------------------------------------------ points

    def _collection(self) -> None:
        self._http.delete(f"/collections/{COLLECTION}")
        self._http.put(
            f"/collections/{COLLECTION}",
            json={"vectors": {"size": DIMENSIONS, "distance": "Cosine", "on_disk": True}},
        ).raise_for_status()

    def _upsert(self, keys: NDArray[np.int64], versions: dict[int, int] | None = None) -> None:
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH].tolist()
            answer = self._http.put(
                f"/collections/{COLLECTION}/points",
                params={"wait": "false"},
                content=self._points(batch, versions or {}),
            )
            answer.raise_for_status()

    def _points(self, keys: Sequence[int], versions: dict[int, int]) -> str:
        noise = self._rng.standard_normal((len(keys), DIMENSIONS), dtype=np.float32)
        vectors = self._centres[self._rng.integers(0, 300, len(keys))] + 0.6 * noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        titles = self._text.titles(len(keys))
        points = [
            f'{{"id":{key},"vector":{_numbers(vector)},'
            f'"payload":{_payload(key, title, versions.get(key, 1))}}}'
            for key, title, vector in zip(keys, titles, vectors.tolist(), strict=True)
        ]
        return f'{{"points":[{",".join(points)}]}}'

    def settle(self) -> None:
        """Wait until every point is there and no optimiser is at work."""
        green = 0
        while green < 3:
            info = self._http.get(f"/collections/{COLLECTION}").json()["result"]
            count = self._http.post(
                f"/collections/{COLLECTION}/points/count", json={"exact": True}
            ).json()["result"]["count"]
            green = green + 1 if info["status"] == "green" and count == self.points else 0
            time.sleep(1)


def _numbers(vector: list[float]) -> str:
    return "[" + ",".join([f"{value:.7f}" for value in vector]) + "]"


def _payload(key: int, title: str, version: int) -> str:
    return json.dumps({"version": version, "title": title, "lang": "en", "bucket": key % 97})


def steps() -> Iterator[str]:
    """The changes in their order, by name."""
    yield from ("append", "change_range", "change_random")
