"""Which application is simulated: its keys, its links, its habits of writing, its load."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Engine = Literal["qdrant", "pgvector"]
Order = Literal["row-first", "point-first", "in-transaction"]


@dataclass(frozen=True, slots=True)
class Lag:
    """How late one store follows the other, in seconds: mostly fast, sometimes slow."""

    fast: float = 0.05
    slow: float = 2.0
    slow_share: float = 0.05

    def draw(self, rng: Random) -> float:
        return rng.uniform(0.0, self.slow if rng.random() < self.slow_share else self.fast)

    @property
    def mean(self) -> float:
        return (self.fast * (1 - self.slow_share) + self.slow * self.slow_share) / 2


@dataclass(frozen=True, slots=True)
class Mix:
    """Relative weights of the kinds of writes. `touch` changes a column that no vector is made
    of; `toggle` publishes a draft or makes a published row a draft, which loses its points."""

    insert: float = 12
    reinsert: float = 6
    update: float = 52
    touch: float = 8
    toggle: float = 7
    delete: float = 15

    def draw(self, rng: Random) -> str:
        names = ("insert", "reinsert", "update", "touch", "toggle", "delete")
        weights = [getattr(self, name) for name in names]
        return rng.choices(names, weights)[0]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One application under one load. `seed` decides everything that chance decides.

    `points="many"` gives a row one to four points and needs `link="payload"`. Without
    `versioned` the payload has no key that a link could compare; the revision is still there
    under a name of its own, for the oracle alone. With the engine `pgvector` vectors are a column
    of their rows, which needs `order="row-first"`, `link="id"` and `versioned`. `unwaited` is the
    share of point writes sent with wait=false. `long_share` of the writes are transactions of
    several rows that stay open for `long_seconds`. `fenced` writers hold the advisory fence around
    every dual write, which needs `order="in-transaction"`. Documents of the section `archive` are
    never written to.
    """

    seed: int = 1
    rows: int = 2_000
    dimensions: int = 96
    shards: int = 1
    keys: Literal["int", "uuid"] = "uuid"
    link: Literal["id", "payload"] = "id"
    points: Literal["one", "many"] = "one"
    versioned: bool = True
    order: Order = "row-first"
    writes_per_second: float = 100.0
    lag: Lag = Lag()
    mix: Mix = Mix()
    unwaited: float = 0.5
    hot_rows: int = 0
    hot_share: float = 0.0
    coalesce: bool = False
    long_share: float = 0.0
    long_seconds: float = 3.0
    savepoint_share: float = 0.0
    optimizers: bool = False
    fenced: bool = False
    archive: str = ""
    engine: Engine = "qdrant"

    def __post_init__(self) -> None:
        if self.points == "many" and self.link == "id":
            raise ValueError("a row with many points needs a payload link")
        if self.fenced and self.order != "in-transaction":
            raise ValueError("the fence is held by a transaction around both writes")

        in_rows = (self.order, self.link, self.versioned) == ("row-first", "id", True)
        if self.engine == "pgvector" and not in_rows:
            raise ValueError("a vector in its row follows it, has its id and says its version")

    @property
    def writers(self) -> int:
        """Enough threads for the load: writers that wait for the lag themselves need more."""
        waiting = 0.0 if self.order == "row-first" else self.lag.mean
        waiting += self.long_share * self.long_seconds
        return max(3, min(32, round(self.writes_per_second * (waiting + 0.01) * 1.3) + 1))

    def random(self, name: object) -> Random:
        """A source of chance of its own for each part of the application."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - repeatable on purpose

    @property
    def version_key(self) -> str:
        """The payload key of the revision."""
        return "version" if self.versioned else "oracle_revision"

    def __str__(self) -> str:
        """One line that tells scenarios apart, and from which a run can be repeated."""
        said = [
            f"seed={self.seed} {self.order} {self.writes_per_second:.0f}/s rows={self.rows}",
            f"{self.keys}-keys {self.link}-link {self.points} shards={self.shards}",
            f"lag<={self.lag.slow:g}s unwaited={self.unwaited:.0%}",
        ]
        if self.hot_rows:
            said.append(f"hot={self.hot_rows}@{self.hot_share:.0%}")
        if self.long_share:
            said.append(f"long={self.long_share:.0%}x{self.long_seconds:g}s")
        if self.savepoint_share:
            said.append(f"savepoints={self.savepoint_share:.0%}")
        said += [name for name in ("coalesce", "optimizers", "fenced") if getattr(self, name)]
        if not self.versioned:
            said.append("no-version")
        return " ".join(said)
