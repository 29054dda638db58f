"""What a backup does to an application's writes, beside the usual script.

    python benchmarks/watermark.py --rows 200000 --rate 300 --backups 5

One application writes to both stores all the time, in a process of its own; every contender backs
it up in turn, in another: `vbackup backup` with each strategy (once under `nice -n 10`), and
`pg_dump -Fc` followed by a Qdrant collection snapshot (`script`). Latencies are those of writes
that began in a calm window before the backup, during it, and in a calm window after it.

`--order row-first` commits the row, and an indexer writes the point right after. `in-transaction`
writes the point inside the row's transaction, under the advisory fence; only that application can
use the strategy `fence`, and only the other one converges under `lock`.

A writer that waits does not write, so a stall would show up as few slow writes. Latencies are
therefore corrected as HdrHistogram does it: a write that took longer than its writer's interval
counts also for the writes that should have begun meanwhile.

Runs are appended to `--output`; the tables at the end are of all that is in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from vbackup import wiring
from vbackup.config import RepositoryConfig
from vbackup.demo.application import Application
from vbackup.demo.latencies import Latencies
from vbackup.demo.scenario import Lag, Scenario
from vbackup.demo.usual_script import UsualScript
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.sandbox import Options, Sandbox, throwaway

CONTENDERS = {
    "row-first": ("script", "capture", "nice capture", "lock"),
    "in-transaction": ("script", "capture", "fence"),
}
CALM = 8.0
NAME = "watermark_bench"


@dataclass
class Run:
    """One backup. Latencies are {"before" | "during" | "after": (p50, p99, max)} in ms."""

    contender: str
    seconds: float
    writes: int
    rows: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    pairs: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    strategy: str = ""
    paused_ms: int = 0
    candidates: int = 0
    upserts: int = 0
    deletes: int = 0
    reembed: int = 0
    patch_bytes: int = 0
    slowest: tuple[float, ...] = ()


def percentiles(
    samples: Sequence[tuple[float, float]], since: float, until: float, interval: float
) -> tuple[float, float, float]:
    """p50, p99 and greatest of the writes that began in a window, corrected for the writes that
    waiting writers did not begin."""
    found = [seconds for began, seconds in samples if since <= began < until]
    corrected = [
        seconds - step * interval
        for seconds in found
        for step in range(int(seconds / interval) + 1)
    ]
    ms = np.array(corrected or [0.0]) * 1000
    return float(np.percentile(ms, 50)), float(np.percentile(ms, 99)), float(ms.max())


class Bench:
    """One application, backed up again and again."""

    def __init__(
        self, sandbox: Sandbox, app: Application, latencies: Latencies, directory: Path
    ) -> None:
        self.sandbox = sandbox
        self.app = app
        self.latencies = latencies
        self.directory = directory

    def run(self, contender: str) -> Run:
        """Calm, a backup, calm."""
        action = self._script if contender == "script" else self._backup(contender)
        calm = threading.Event()
        begun = time.monotonic()
        calm.wait(CALM)
        started, written = time.monotonic(), self.app.writes
        manifest_of = action()
        ended, written = time.monotonic(), self.app.writes - written
        calm.wait(CALM)
        finished = time.monotonic()
        run = Run(contender, ended - started, written)
        windows = {
            "before": (begun, started),
            "during": (started, ended),
            "after": (ended, finished),
        }
        scenario = self.app.scenario
        interval = scenario.writers / scenario.writes_per_second
        for kind in ("rows", "pairs"):
            samples = getattr(self.latencies, kind)
            for name, (since, until) in windows.items():
                getattr(run, kind)[name] = percentiles(samples, since, until, interval)
        slowest = sorted(self.latencies.pairs, key=lambda one: -one[1])[:5]
        run.slowest = tuple(
            round(value, 3) for began, seconds in slowest for value in (began - started, seconds)
        )
        if manifest_of:
            manifest_of(run)
        self.latencies.rows.clear()
        self.latencies.pairs.clear()
        return run

    def _script(self) -> Callable[[Run], None] | None:
        server = self.sandbox.postgres
        into = self.directory / "script"
        shutil.rmtree(into, ignore_errors=True)
        UsualScript(self.app, server.admin_dsn, server.bin_dir, into).back_up()
        return None

    def _backup(self, contender: str) -> Callable[[], Callable[[Run], None]]:
        *nice, strategy = contender.split()
        repository = RepositoryConfig(
            url=(self.directory / "repository").as_uri(), encryption="none"
        )
        shutil.rmtree(self.directory / "repository", ignore_errors=True)
        wiring.create_repository(repository)
        file = self.directory / "vbackup.toml"
        file.write_text(self._toml(repository))

        prefix = ["nice", "-n", "10"] if nice else []

        def back_up() -> Callable[[Run], None]:
            command = [
                *prefix,
                sys.executable,
                "-m",
                "vbackup",
                "--config",
                str(file),
                "--json",
                "backup",
            ]
            done = subprocess.run(
                [*command, "--strategy", strategy], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            said = json.loads(done.stdout)

            def describe(run: Run) -> None:
                manifest = wiring.open_repository(repository).load(said["id"])
                mark, patch = manifest.watermark, manifest.patch
                run.strategy, run.paused_ms = mark.strategy, mark.writers_paused_ms
                run.candidates, run.reembed = mark.candidates, patch.reembed
                run.upserts, run.deletes = patch.upserts, patch.deletes
                run.patch_bytes = patch.artifact.length if patch.artifact else 0

            return describe

        return back_up

    def _toml(self, repository: RepositoryConfig) -> str:
        link = self.app.link()
        rows, point = link.rows[0], link.point
        return f"""
[postgres]
dsn = "{self.app.dsn}"
bin_dir = "{self.sandbox.postgres.bin_dir}"
[qdrant]
url = "{self.sandbox.qdrant.url}"
collections = ["{self.app.name}"]
[repository]
url = "{repository.url}"
encryption = "none"
[watermark]
work_dir = "{self.directory / "work"}"
[[link]]
name = "{link.name}"
collection = "{link.collection}"
rows = [{{ table = "{rows.table}", key = "id", version = "version", live = "{rows.live}" }}]
point = {{ ref = "{point.ref[0]}", version = "payload:version" }}
"""


def settled(app: Application) -> None:
    """Wait until no optimiser is at work on what was loaded."""
    calm = threading.Event()
    store = app.store
    while store.call("GET", f"/collections/{app.name}")["status"] != "green":  # type: ignore[attr-defined]
        calm.wait(1)


def measure(scenario: Scenario, backups: int, output: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="vbackup-bench-") as directory,
        throwaway(Options(postgres=PostgresOptions(), s3=False)) as sandbox,
    ):
        latencies = Latencies()
        app = Application(
            sandbox.postgres.admin_dsn, sandbox.qdrant.url, NAME, scenario, latencies=latencies
        )
        with app:
            app.create()
            began = time.monotonic()
            print(f"loaded {app.load():,} points, {time.monotonic() - began:.0f} s", flush=True)
            settled(app)
            bench = Bench(sandbox, app, latencies, Path(directory))
            app.start()
            app.wait_for_writes(1_000)
            for _ in range(backups):
                for contender in CONTENDERS[scenario.order]:
                    line = json.dumps(asdict(bench.run(contender)))
                    print(line, flush=True)
                    with output.open("a") as file:
                        file.write(f"{line}\n")
            app.quiesce()


def table(runs: Sequence[Run]) -> None:
    """Medians of all runs of a contender, as Markdown."""
    for kind, title in (("rows", "row"), ("pairs", "row and point")):
        print(f"\n| {title}: p50 / p99 / max ms | before | during | after |\n|---|---|---|---|")
        for contender in dict.fromkeys(run.contender for run in runs):
            mine = [run for run in runs if run.contender == contender]
            cells = [
                " / ".join(
                    f"{np.median([getattr(run, kind)[window][at] for run in mine]):.1f}"
                    for at in range(3)
                )
                for window in ("before", "during", "after")
            ]
            print(f"| `{contender}` | {' | '.join(cells)} |")
    names = ("seconds", "writes", "candidates", "upserts", "deletes", "patch_bytes", "reembed")
    print(f"\n| | {' | '.join(names)} | paused_ms |\n|---|{'---|' * (len(names) + 1)}")
    for contender in dict.fromkeys(run.contender for run in runs):
        mine = [run for run in runs if run.contender == contender]
        values = [f"{np.median([getattr(run, name) for run in mine]):.0f}" for name in names]
        paused = [run.paused_ms for run in mine]
        values.append(f"{np.median(paused):.0f} (greatest {max(paused)})")
        print(f"| `{contender}` | {' | '.join(values)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--backups", type=int, default=5)
    parser.add_argument("--order", choices=CONTENDERS, default="row-first")
    parser.add_argument("--output", type=Path, default=Path("watermark.jsonl"))
    asked = parser.parse_args()
    scenario = Scenario(
        rows=asked.rows,
        dimensions=128,
        keys="int",
        order=asked.order,
        fenced=asked.order == "in-transaction",
        writes_per_second=asked.rate,
        lag=Lag(fast=0.0, slow=0.0),
        unwaited=0.0,
    )
    measure(scenario, asked.backups, asked.output)
    table([Run(**json.loads(line)) for line in asked.output.read_text().splitlines()])


if __name__ == "__main__":
    main()
