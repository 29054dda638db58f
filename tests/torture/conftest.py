"""The torture harness: a live application, a backup in the middle, a restore, an oracle.

The scenarios are seeded; a failing test prints the line that names everything about its run.
`TORTURE_RUNS=200` replaces the fast subset by that many random scenarios, `TORTURE_SEED` says
where their seeds start (so that one of them can be run again alone).
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from vbackup import restoring, wiring
from vbackup.clock import SystemClock
from vbackup.config import (
    Config,
    PostgresConfig,
    QdrantConfig,
    RepositoryConfig,
    WatermarkConfig,
)
from vbackup.demo.application import Application
from vbackup.demo.oracle import Comparison, compare
from vbackup.demo.scenario import Lag, Scenario
from vbackup.demo.usual_script import ScriptOrder, UsualScript
from vbackup.engine.backup import BackupResult
from vbackup.engine.proof import RestoreResult
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.model.manifest import Strategy
from vbackup.progress import SilentReporter
from vbackup.sandbox.servers import PostgresServer, QdrantServer

WARM_UP = 60
"""Rows written before the backup starts, so that its lead-in meets writes in flight."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: what the backup says of itself, and what the oracle found in the restored pair.

    `live` is the oracle's view of the application after it came to rest, `worst_lag` how far apart
    in seconds a row and its point were."""

    scenario: Scenario
    backup: BackupResult
    restore: RestoreResult
    found: Comparison
    live: Comparison
    restored_dsn: str
    worst_lag: float

    @property
    def reembed(self) -> set[str]:
        return {line.key for line in self.restore.applied.reembed}

    def prove(self) -> None:
        """What must hold after every run, whatever the scenario."""
        assert not self.live.wrong, "the simulator itself went wrong"
        assert not self.live.unfinished, "the simulator itself went wrong"
        assert self.found.wrong == set()
        assert self.found.unfinished == self.reembed
        assert self.found.live > 0
        assert self.restore.clean
        assert self.backup.manifest.patch.reembed == len(self.reembed)

    def prove_drift(self) -> None:
        """That the feed missed no change: a row of reason drift was written before the lead-in,
        and its point came after it. Where points go first, one may be gone whose row is deleted
        after the watermark."""
        if "drift" in self.backup.manifest.patch.reasons and self.scenario.order == "row-first":
            assert self.worst_lag > self.backup.manifest.watermark.lead_in_seconds

    def line(self) -> str:
        record, patch = self.backup.manifest.watermark, self.backup.manifest.patch
        return json.dumps(
            {
                "scenario": str(self.scenario),
                "strategy": record.strategy,
                "paused_ms": record.writers_paused_ms,
                "candidates": record.candidates,
                "upserts": patch.upserts,
                "deletes": patch.deletes,
                "reembed": patch.reembed,
                "reasons": patch.reasons,
                "worst_lag": round(self.worst_lag, 2),
                "wrong": len(self.found.wrong),
                "found": self.found.counts(),
            }
        )


@dataclass(slots=True)
class Arena:
    """One application under torture, step by step: `begin`, `back_up`, `judge`."""

    application: Callable[[Scenario], Application]
    postgres: PostgresServer
    qdrant: QdrantServer
    directory: Path
    stack: ExitStack
    record: Callable[[str, object], None]

    def begin(
        self, scenario: Scenario, strategy: Strategy = "capture"
    ) -> tuple[Application, Config]:
        """The application under writes, and the configuration that backs it up."""
        app = self.application(scenario)
        config = _config(app, strategy, self.postgres, self.qdrant, self.directory)
        wiring.create_repository(config.repository)
        return app, config

    def back_up(self, config: Config) -> BackupResult:
        return wiring.backup(config, SilentReporter(), SystemClock())

    def judge(self, app: Application, config: Config, backup: BackupResult) -> Outcome:
        """Bring the application to rest, restore beside it, and ask the oracle about both."""
        app.quiesce()
        live = compare(app.dsn, app.store, app.scenario)
        restored = f"{app.name}_back"
        self.stack.callback(wiring.record_target(config).drop, restored)
        store = self.stack.enter_context(app.store.sibling(restored))
        self.stack.callback(store.drop)
        # 500 writes a second on 500 rows make a patch that would be a runaway anywhere else.
        options = RestoreOptions(database=restored, collection_suffix="_back", force=True)
        restore = restoring.restore(
            config, backup.manifest.id, SilentReporter(), SystemClock(), options
        )
        dsn = self.postgres.dsn(restored)
        found = compare(dsn, store, app.scenario)
        outcome = Outcome(app.scenario, backup, restore, found, live, dsn, app.worst_lag)
        self.record("torture", outcome.line())
        print(outcome.line())  # noqa: T201 - shown when the test fails
        return outcome

    def __call__(self, scenario: Scenario, strategy: Strategy = "capture") -> Outcome:
        """All steps."""
        app, config = self.begin(scenario, strategy)
        return self.judge(app, config, self.back_up(config))


class Naive(Protocol):
    def __call__(self, scenario: Scenario, order: ScriptOrder) -> tuple[Comparison, Comparison]: ...


@pytest.fixture
def application(
    postgres_server: PostgresServer, qdrant_server: QdrantServer
) -> Iterator[Callable[[Scenario], Application]]:
    """`application(scenario)`: loaded and being written to; gone after the test."""
    with ExitStack() as stack:

        def start(scenario: Scenario) -> Application:
            print(scenario)  # noqa: T201 - shown when the test fails
            name = f"torture_{secrets.token_hex(4)}"
            key = qdrant_server.api_key or ""
            app = Application(
                postgres_server.admin_dsn, qdrant_server.url, name, scenario, api_key=key
            )
            stack.callback(app.close)
            stack.callback(app.drop)
            app.create()
            app.load()
            app.start()
            app.wait_for_writes(WARM_UP)
            return app

        yield start


@pytest.fixture
def torture(
    application: Callable[[Scenario], Application],
    postgres_server: PostgresServer,
    qdrant_server: QdrantServer,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Iterator[Arena]:
    """Runs scenarios from the first write to the oracle's verdict."""
    with ExitStack() as stack:
        yield Arena(application, postgres_server, qdrant_server, tmp_path, stack, record_property)


@pytest.fixture
def naive(
    application: Callable[[Scenario], Application],
    postgres_server: PostgresServer,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Naive:
    """The same application under two dumps, one after the other; and itself, come to rest."""

    def run(scenario: Scenario, order: ScriptOrder) -> tuple[Comparison, Comparison]:
        app = application(scenario)
        server = postgres_server
        script = UsualScript(app, server.admin_dsn, server.bin_dir, tmp_path, order)
        script.back_up()
        app.quiesce()
        found = script.restore_and_compare()
        line = {"scenario": str(scenario), "strategy": order, "found": found.counts()}
        record_property("torture", json.dumps({**line, "wrong": len(found.wrong)}))
        print(found)  # noqa: T201 - shown when the test fails
        return found, compare(app.dsn, app.store, scenario)

    return run


def _config(
    app: Application,
    strategy: Strategy,
    postgres: PostgresServer,
    qdrant: QdrantServer,
    directory: Path,
) -> Config:
    scenario = app.scenario
    lag = scenario.lag.slow + 0.2
    if not scenario.versioned:
        # Being right rests on this number: a slow machine needs room, and so does a point that is
        # written long before its row's transaction ends.
        lag += 1.4 + (scenario.long_seconds if scenario.order == "in-transaction" else 0.0)
    return Config(
        postgres=PostgresConfig(
            dsn=SecretStr(app.dsn), bin_dir=Path(postgres.bin_dir) if postgres.bin_dir else None
        ),
        qdrant=QdrantConfig(
            nodes=qdrant.urls,
            api_key=SecretStr(qdrant.api_key) if qdrant.api_key else None,
            collections=(app.name,),
        ),
        repository=RepositoryConfig(url=(directory / "repository").as_uri(), encryption="none"),
        watermark=WatermarkConfig(
            strategy=strategy, lead_in=lag, max_index_lag=lag, work_dir=directory / "work"
        ),
        link=(app.link(),),
    )


# ---------------------------------------------------------------- scenarios

_CALM = Scenario(rows=1_000, lag=Lag(slow=1.0), writes_per_second=150)

FAST = {
    "capture": [
        replace(_CALM, seed=101),
        replace(_CALM, seed=102, keys="int", order="point-first", link="payload", shards=4),
        replace(_CALM, seed=103, order="in-transaction", savepoint_share=0.3, long_share=0.02),
        replace(_CALM, seed=104, link="payload", points="many", shards=4, optimizers=True),
        replace(_CALM, seed=105, keys="int", hot_rows=20, hot_share=0.2, coalesce=True),
    ],
    "fence": [replace(_CALM, seed=106, order="in-transaction", fenced=True, shards=4)],
    "lock": [replace(_CALM, seed=107, keys="int", link="payload")],
    "keyless": [replace(_CALM, seed=108, versioned=False, lag=Lag(slow=0.4))],
    "naive": [replace(_CALM, seed=109, writes_per_second=300)],
}
_SHARES = {"capture": 1.0, "fence": 0.25, "lock": 0.25, "keyless": 0.1, "naive": 0.1}


def drawn(seed: int, kind: str) -> Scenario:
    """The random scenario of one seed."""
    rng = Random(f"{kind}/{seed}")
    link = rng.choice(["id", "payload"])
    order = rng.choice(["row-first", "row-first", "point-first", "in-transaction"])
    hot = rng.random() < 0.3
    long = rng.random() < 0.25 and kind != "lock"
    return Scenario(
        seed=seed,
        rows=rng.choice([500, 2_000, 8_000]),
        shards=rng.choice([1, 4]),
        keys=rng.choice(["int", "uuid"]),
        link=link,  # type: ignore[arg-type]  # mypy forgets literals in a choice
        points="many" if link == "payload" and rng.random() < 0.5 else "one",
        versioned=kind != "keyless",
        order="in-transaction" if kind == "fence" else order,  # type: ignore[arg-type]
        writes_per_second=rng.choice([200, 300, 500]) if order == "row-first" else 150,
        lag=Lag(slow=rng.choice([0.5, 2.0])),
        hot_rows=20 if hot else 0,
        hot_share=0.2 if hot else 0.0,
        coalesce=rng.random() < 0.3,
        long_share=0.02 if long else 0.0,
        savepoint_share=0.3 if rng.random() < 0.3 else 0.0,
        optimizers=rng.random() < 0.25,
        fenced=kind == "fence",
    )


def scenarios(kind: str) -> list[Scenario]:
    """The fast subset, or as many random ones as $TORTURE_RUNS asks for."""
    runs = int(os.environ.get("TORTURE_RUNS", "0"))
    if not runs:
        return FAST[kind]
    first = int(os.environ.get("TORTURE_SEED", "1000"))
    count = max(1, round(runs * _SHARES[kind]))
    return [drawn(seed, kind) for seed in range(first, first + count)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`kind` of a test's `scenarios` mark becomes its scenarios."""
    marker = metafunc.definition.get_closest_marker("torture")
    if marker and marker.args and "scenario" in metafunc.fixturenames:
        found = scenarios(marker.args[0])
        metafunc.parametrize("scenario", found, ids=[f"seed{each.seed}" for each in found])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What all runs together found, left on the re-embed list, and why."""
    lines = [
        json.loads(str(value))
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "torture"
    ]
    if not lines:
        return
    terminalreporter.section("torture")
    for strategy in sorted({line["strategy"] for line in lines}):
        runs = [line for line in lines if line["strategy"] == strategy]
        terminalreporter.write_line(f"{strategy}: {len(runs)} runs, {_anomalies(runs)}")
        if "reembed" in runs[0]:
            terminalreporter.write_line(f"{strategy}: {_to_reembed(runs)}")
    if path := os.environ.get("TORTURE_REPORT"):
        Path(path).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _anomalies(runs: list[dict[str, Any]]) -> str:
    """Wrong keys a run, mean / most, by kind."""

    def figure(kind: str) -> str:
        counts = [run["found"][kind] for run in runs]
        return f"{kind} {sum(counts) / len(counts):.1f} / {max(counts)}"

    wrong = sum(run["wrong"] for run in runs)
    return f"{wrong} wrong pairs: " + ", ".join(map(figure, runs[0]["found"]))


def _to_reembed(runs: list[dict[str, Any]]) -> str:
    reasons: Counter[str] = Counter()
    for run in runs:
        reasons.update(run["reasons"])
    empty = sum(not run["reembed"] for run in runs)
    return (
        f"{sum(reasons.values())} rows to re-embed {dict(reasons) or ''}, {empty} runs with none, "
        f"longest pause {max(run['paused_ms'] for run in runs)} ms"
    )
