"""The whole story: a pair under writes is backed up, destroyed, restored and proven equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vbackup import restoring, wiring
from vbackup.demo import proof
from vbackup.demo.application import Application
from vbackup.demo.ground import Ground
from vbackup.demo.oracle import Comparison, compare
from vbackup.demo.scenario import Engine, Lag, Scenario
from vbackup.demo.usual_script import UsualScript
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.errors import Failed
from vbackup.ports import Clock, Reporter, Step

if TYPE_CHECKING:
    from vbackup.engine.backup import BackupResult
    from vbackup.engine.proof import RestoreResult
    from vbackup.model.manifest import Manifest

ARCHIVE = "language"
"""The section that nobody writes to: its answers must be the same before and after."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One question: the best passage, and whether the hits are what they were and must be."""

    question: str
    title: str
    score: float
    same_as_before: bool
    same_as_rows: bool


@dataclass(slots=True)
class StoryResult:
    """How it went. `lost` is the live pair before the disaster, `usual` what two dumps in a row
    would have left of it (None when that was skipped), `restored` the oracle's verdict.
    `finished` is its verdict once the re-embed list was done, where there was one."""

    manifest: Manifest
    writes: int
    writes_during_backup: int
    lost: Comparison
    usual: Comparison | None
    restored: Comparison
    restore: RestoreResult
    answers: list[Proof]
    finished: Comparison | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """No wrong pair, nothing missing that is not on the re-embed list, the same answers.

        Vectors in the rows are as they were at the watermark: those that were behind then are on
        the list, and nothing is wrong once it was done."""
        wrong, listed = self.restored.wrong, {line.key for line in self.restore.applied.reembed}
        behind = self.restored.unfinished
        if self.manifest.qdrant is None:
            wrong, behind = wrong - self.restored.stale, behind | self.restored.stale
        if self.finished:
            wrong = wrong | self.finished.wrong | self.finished.unfinished
        return (
            not wrong
            and behind == listed
            and self.restore.clean
            and all(answer.same_as_before and answer.same_as_rows for answer in self.answers)
        )


def scenario(rows: int, seed: int = 1, engine: Engine = "qdrant") -> Scenario:
    """The demo's application: id links, versions, several writers, an indexer that lags."""
    return Scenario(
        seed=seed,
        rows=rows,
        dimensions=256,
        shards=2,
        writes_per_second=150,
        lag=Lag(slow=1.0),
        archive=ARCHIVE,
        engine=engine,
    )


class Story:
    """One telling on servers that are up. Raises vbackup errors."""

    def __init__(
        self,
        ground: Ground,
        rows: int,
        reporter: Reporter,
        clock: Clock,
        *,
        usual: bool = True,
        engine: Engine = "qdrant",
    ) -> None:
        self._ground = ground
        self._reporter = reporter
        self._clock = clock
        self._with_usual = usual and engine == "qdrant"
        self._scenario = scenario(rows, engine=engine)
        self._seconds: dict[str, float] = {}

    def tell(self) -> StoryResult:
        with self._ground.application(self._scenario) as app:
            self._load(app)
            before = proof.search(app.store, self._scenario, ARCHIVE)
            app.start()
            app.wait_for_writes(100)
            usual = self._usual_script(app)
            writes = app.writes
            backup = self._back_up()
            during = app.writes - writes
            app.wait_for_writes(100)
            with self._step("stop writing"):
                app.quiesce()
            lost = compare(app.dsn, app.store, self._scenario)
            compared = usual.restore_and_compare() if usual else None
            with self._step(self._disaster):
                app.drop()
            self._expect_nothing(app)
            restore = self._restore(backup.manifest.id)
            with self._step("prove it"):
                found = compare(app.dsn, app.store, self._scenario)
                finished = self._finish(app, restore)
                answers = self._answers(app, before)
            return StoryResult(
                manifest=backup.manifest,
                writes=app.writes,
                writes_during_backup=during,
                lost=lost,
                usual=compared,
                restored=found,
                restore=restore,
                answers=answers,
                finished=finished,
                seconds=self._seconds,
            )

    # -------------------------------------------------------------- steps

    @property
    def _disaster(self) -> str:
        more = "" if self._scenario.engine == "pgvector" else ", delete the collection"
        return f"disaster: drop the database{more}"

    def _finish(self, app: Application, restore: RestoreResult) -> Comparison | None:
        """Embed the rows whose vectors were behind at the watermark; what is left then. With
        Qdrant there are seldom any."""
        if self._scenario.engine == "qdrant" and not restore.applied.reembed:
            return None
        app.embed(line.key for line in restore.applied.reembed)
        return compare(app.dsn, app.store, self._scenario)

    def _load(self, app: Application) -> None:
        rows = self._scenario.rows
        with self._step(f"load {rows} passages of documentation and their vectors"):
            app.create()
            app.load()
        self._reporter.note("writers start", threads=self._scenario.writers)

    def _usual_script(self, app: Application) -> UsualScript | None:
        """For comparison: pg_dump, then a Qdrant snapshot, of the same workload."""
        if not self._with_usual:
            return None
        script = self._ground.usual_script(app)
        with self._step("the usual script: pg_dump, then a Qdrant snapshot"):
            script.back_up()
        return script

    def _back_up(self) -> BackupResult:
        config = self._ground.configure(self._scenario)
        wiring.create_repository(config.repository)
        with self._step("vbackup backup, while everybody writes"):
            return wiring.backup(config, self._reporter, self._clock)

    def _restore(self, backup_id: str) -> RestoreResult:
        config = self._ground.configure(self._scenario)
        with self._step("vbackup restore, to the old names, and reconcile"):
            options = RestoreOptions(database=self._ground.name, collection_suffix="")
            return restoring.restore(config, backup_id, self._reporter, self._clock, options)

    def _answers(self, app: Application, before: list[proof.Answer]) -> list[Proof]:
        archive = proof.search(app.store, self._scenario, ARCHIVE)
        everywhere = proof.search(app.store, self._scenario)
        rows = proof.computed(app.dsn, self._scenario)
        return [
            Proof(
                question=now.question,
                title=now.title,
                score=round(now.score, 4),
                same_as_before=now.hits == old.hits,
                same_as_rows=whole.hits == own.hits,
            )
            for now, old, whole, own in zip(archive, before, everywhere, rows, strict=True)
        ]

    def _expect_nothing(self, app: Application) -> None:
        """The disaster must be one, or the restore proves nothing."""
        if app.exists():
            raise Failed("the database or the collection survived the disaster")

    @contextmanager
    def _step(self, name: str) -> Iterator[Step]:
        started = self._clock.monotonic()
        with self._reporter.step(name, unit="steps") as step:
            yield step
        self._seconds[name] = self._clock.monotonic() - started
