"""What a soak needs: a sandbox, writers that survive outages, the daemon, and who kills them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest

from vbackup.demo.application import Application
from vbackup.demo.content import Change, Key, points, revised
from vbackup.demo.corpus import Passage
from vbackup.demo.scenario import Scenario
from vbackup.errors import NotFound, VbackupError
from vbackup.sandbox import control
from vbackup.sandbox.config_text import config_toml
from vbackup.sandbox.ledger import read_state
from vbackup.sandbox.sandbox import Options, Sandbox, throwaway

MARK = "VBACKUP_SOAK"
PLANNED = "jobs=backup,"
"""In the daemon's log when it holds its lease and its jobs are planned."""

LINK = """
[[link]]
name = "chunks"
collection = "soak"
rows = [{ table = "public.chunks", key = "id", live = "status = 'published'", version = "version" }]
point = { ref = "id", version = "payload:version" }
"""


class Clerk(threading.Thread):
    """Edits rows of its own and then their points, and goes on after every outage.

    A commit whose answer was lost may have happened: the points are made of what the row says.
    """

    def __init__(self, app: Application, keys: list[Key], number: int, stop: threading.Event):
        super().__init__(name=f"clerk-{number}")
        self._app = app
        self._keys = keys
        self._rng = app.scenario.random(f"clerk-{number}")
        self._stopped = stop
        self._connection: psycopg.Connection | None = None
        self.writes = 0
        self.outages = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopped.wait(self._rng.uniform(0.0, 0.1)):
                key = self._rng.choice(self._keys)
                self._edit(key)
                self._follow(key)
                self.writes += 1
        except BaseException as error:  # noqa: BLE001 - raised by Writers.rest
            self.error = error
        finally:
            self._hang_up()

    def _edit(self, key: Key) -> None:
        draft = self._rng.random() < 0.15
        text = revised(Passage("by a clerk", "language", ""), self._rng)
        try:
            self._connect().execute(
                "UPDATE chunks SET text = %s, version = nextval('chunk_versions'), status = %s,"
                " updated_at = now() WHERE id = %s",
                (text, "draft" if draft else "published", key),
            )
        except psycopg.OperationalError:
            self._broken()

    def _follow(self, key: Key) -> None:
        """Until it is done, also when the soak ends: at rest the pair agrees."""
        while True:
            try:
                row = (
                    self._connect()
                    .execute("SELECT text, version, status FROM chunks WHERE id = %s", (key,))
                    .fetchone()
                )
                assert row is not None
                text, version, status = row
                live = status == "published"
                change = Change(key, version, text if live else None, Passage("", "language", ""))
                if live:
                    self._app.store.upsert(points(change, self._app.scenario), wait=True)
                else:
                    self._app.store.delete([key], wait=True)
            except (psycopg.OperationalError, VbackupError):
                self._broken()
            else:
                return

    def _connect(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = psycopg.connect(self._app.dsn, autocommit=True, connect_timeout=5)
        return self._connection

    def _broken(self) -> None:
        self.outages += 1
        self._hang_up()
        threading.Event().wait(0.2)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Writers:
    """The application's clerks, each with rows of its own."""

    def __init__(self, app: Application, count: int = 3) -> None:
        self._stop = threading.Event()
        with psycopg.connect(app.dsn) as connection:
            keys = [key for (key,) in connection.execute("SELECT id FROM chunks ORDER BY id")]
        self.clerks = [Clerk(app, keys[n::count], n, self._stop) for n in range(count)]
        for clerk in self.clerks:
            clerk.start()

    def rest(self) -> None:
        """Stop once every row's points have followed."""
        self._stop.set()
        for clerk in self.clerks:
            clerk.join()
        for clerk in self.clerks:
            if clerk.error:
                raise clerk.error


@dataclass(slots=True)
class Soak:
    """Everything of one soak. `seconds` is how long it is disturbed."""

    seconds: float
    period: int
    seed: int
    sandbox: Sandbox
    app: Application
    directory: Path
    port: int
    rng: Random
    daemon: subprocess.Popen[bytes] | None = None
    up: list[tuple[float, float]] = field(default_factory=list)
    since: float = 0.0
    done: list[str] = field(default_factory=list)
    memory: list[list[int]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "vbackup.toml"

    @property
    def environment(self) -> dict[str, str]:
        temp = {"TMPDIR": str(self.directory / "tmp"), MARK: str(self.seed)}
        return {**os.environ, **temp, "PYTHONWARNINGS": "default"}

    def say(self, text: str) -> None:
        self.done.append(text)
        print(f"{time.strftime('%H:%M:%S')} {text}")  # noqa: T201 - shown when the test fails

    # ------------------------------------------------------------ the daemon

    def start(self) -> None:
        """Start the daemon; returns once it serves, has planned its jobs and shown its pages:
        all that it loads by need is loaded, and its memory can be compared."""
        planned = self.log().count(PLANNED)
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "vbackup", "--config", str(self.config), "schedule"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self.get("/healthz") is not None, 120, "the daemon does not serve")
        self.since = time.time()
        self.until(lambda: self.log().count(PLANNED) > planned, 120, "the daemon plans no jobs")
        assert self.get("/")
        assert self.get("/metrics")
        self.memory.append([])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon by a signal; its exit code."""
        assert self.daemon
        self.sample()
        self.up.append((self.since, time.time()))
        self.daemon.send_signal(number)
        try:
            return self.daemon.wait(120)
        finally:
            self.daemon.kill()
            self.daemon = None

    def get(self, path: str) -> str | None:
        assert self.daemon
        assert self.daemon.poll() is None, self.log()[-3000:]
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return str(answer.read().decode())
        except OSError:
            return None

    def sample(self) -> None:
        """Note the daemon's resident memory, in KiB."""
        assert self.daemon
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        self.memory[-1].append(int(line.split()[1]))

    def log(self) -> str:
        path = self.directory / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """One command of a person; exit code and document."""
        ended = subprocess.run(
            [sys.executable, "-m", "vbackup", "--json", "--config", str(self.config), *arguments],
            env=self.environment,
            capture_output=True,
            check=False,
        )
        return ended.returncode, json.loads(ended.stdout)

    # ------------------------------------------------------------ trouble

    def kill_server(self, kind: str) -> None:
        down = self.rng.uniform(0.0, 4.0)
        control.kill(self.sandbox, kind)
        self.say(f"killed {kind} for {down:.1f} s")
        threading.Event().wait(down)
        control.restart(self.sandbox, kind)

    def kill_postgres(self) -> None:
        self.kill_server("postgres")

    def kill_qdrant(self) -> None:
        self.kill_server("qdrant-1")

    def stop_storage(self) -> None:
        """The S3 server keeps its objects in memory: it falls silent instead of being killed."""
        state = read_state(self.sandbox.directory)
        assert state
        pid = next(each.pid for each in state.processes if each.launch.kind == "s3")
        silent = self.rng.uniform(2.0, 8.0)
        self.say(f"S3 is silent for {silent:.1f} s")
        os.kill(pid, signal.SIGSTOP)
        try:
            threading.Event().wait(silent)
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_daemon(self) -> None:
        self.say("killed the daemon")
        self.stop(signal.SIGKILL)
        self.start()

    def restart_daemon(self) -> None:
        self.say("restart the daemon")
        assert self.stop(signal.SIGTERM) == 0
        self.start()

    def reload_daemon(self) -> None:
        self.say("reload the daemon")
        assert self.daemon
        self.daemon.send_signal(signal.SIGHUP)

    def until(self, condition: Callable[[], bool], seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        tick = threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{complaint}\n{self.log()[-3000:]}")
            tick.wait(0.2)


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    """SOAK_MINUTES, or a minute; SOAK_SEED decides what is killed when."""
    minutes = float(os.environ.get("SOAK_MINUTES", "0"))
    seconds, period = (minutes * 60, 60) if minutes else (50.0, 15)
    seed = int(os.environ.get("SOAK_SEED", "20261123"))
    print(f"SOAK_SEED={seed}")  # noqa: T201 - shown when the test fails
    (tmp_path / "tmp").mkdir()
    try:
        with throwaway(Options(s3=True)) as sandbox:
            app = _application(sandbox, seed)
            port = _free_port()
            _write_config(sandbox, tmp_path, port, period)
            made = Soak(seconds, period, seed, sandbox, app, tmp_path, port, Random(seed))
            code, said = made.run("init")
            assert code == 0, said
            try:
                yield made
            finally:
                if made.daemon:
                    made.daemon.kill()
                    made.daemon.wait()
                app.close()
    except NotFound as missing:
        if os.environ.get("VBACKUP_TEST_IN_CI"):
            raise
        pytest.skip(f"{missing.message} ({missing.hint})")


def _application(sandbox: Sandbox, seed: int) -> Application:
    scenario = Scenario(seed=seed, rows=600, keys="int", shards=2)
    server, qdrant = sandbox.postgres, sandbox.qdrant
    app = Application(server.admin_dsn, qdrant.url, "soak", scenario, api_key=qdrant.api_key or "")
    app.create()
    app.load()
    return app


def _write_config(sandbox: Sandbox, directory: Path, port: int, period: int) -> None:
    backup = "* * * * *" if period == 60 else f"*/{period} * * * * *"
    verify = "*/3 * * * *" if period == 60 else "*/30 * * * * *"
    prune = "*/5 * * * *" if period == 60 else "5/25 * * * * *"
    (directory / "vbackup.toml").write_text(
        config_toml(sandbox, database="soak").replace(
            "[qdrant]", '[qdrant]\ncollections = ["soak"]'
        )
        + LINK
        + f"""
[watermark]
lead_in = "1s"
max_index_lag = "1s"
work_dir = "{directory}/tmp"
[retention]
keep_last = {12 if period == 60 else 3}
keep_daily = 0
keep_weekly = 0
keep_monthly = 0
[schedule]
backup = "{backup}"
verify = "{verify}"
prune = "{prune}"
listen = "127.0.0.1:{port}"
state_dir = "{directory}/state"
textfile = "{directory}/state/vbackup.prom"
stop_grace = "3s"
"""
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def writers(soak: Soak) -> Iterator[Writers]:
    """Writing from now on."""
    found = Writers(soak.app)
    yield found
    found.rest()
