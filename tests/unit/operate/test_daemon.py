"""The daemon: one instance, no overlap, catching up, reload, graceful stop."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vbackup import incarnation, wiring
from vbackup.clock import SystemClock
from vbackup.config import Config, PostgresConfig, RepositoryConfig, ScheduleConfig
from vbackup.errors import Locked, NotFound, Unreachable, Usage
from vbackup.operate.daemon import Daemon
from vbackup.operate.history import History, Run
from vbackup.operate.keeper import Keeper

WAIT = 30.0


def config(**schedule: Any) -> Config:
    return Config(
        postgres=PostgresConfig(dsn=SecretStr("")),
        repository=RepositoryConfig(url="file:///x"),
        schedule=ScheduleConfig(stop_grace=0.1, **schedule),
    )


class FakeLease:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.released = False

    def confirm(self) -> None:
        if self.error:
            raise self.error

    def release(self) -> None:
        self.released = True


class FakeRunner:
    """Notes which jobs ran, and lets a test hold one."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.started = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()
        self.jobs: list[str] = []
        self.running = 0
        self.most = 0
        self.stopped = False
        self._lock = threading.Lock()

    def run(self, job: Any) -> Run:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.jobs.append(job)
        self.started.release()
        self.go_on.wait(WAIT)
        with self._lock:
            self.running -= 1
        return Run(1, job, datetime.now().astimezone())

    def busy(self) -> bool:
        return self.running > 0

    def stop(self) -> None:
        self.stopped = True
        self.go_on.set()

    def kill(self) -> None:
        self.go_on.set()


class Scene:
    def __init__(self, history: History, notes: Any) -> None:
        self.history = history
        self.notes = notes
        self.lease = FakeLease()
        self.runner = FakeRunner(history)
        self.load: Callable[[], Config] = lambda: config(backup="0 0 1 1 *")
        self.take: Callable[[], FakeLease] = lambda: self.lease
        self.publish: Callable[[], None] = lambda: None
        self.error: BaseException | None = None

    @contextmanager
    def daemon(self, first: Config) -> Iterator[Daemon]:
        daemon = Daemon(
            first,
            lambda: self.load(),
            lambda _: self.runner,  # type: ignore[arg-type,return-value] # a fake
            self.history,
            Keeper(lambda: self.take(), self.notes),
            SystemClock(),
            self.notes,
            lambda: self.publish(),
        )

        def run() -> None:
            try:
                daemon.run()
            except Exception as error:  # noqa: BLE001 - handed to the test
                self.error = error

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield daemon
        finally:
            daemon.stop()
            thread.join(WAIT)
            assert not thread.is_alive()


@pytest.fixture
def scene(history: History, notes: Any) -> Scene:
    return Scene(history, notes)


def until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(WAIT / 0.02)):
        if condition():
            return
        tick.wait(0.02)
    pytest.fail("it did not happen")


def missed(history: History, job: Any) -> None:
    at = SystemClock().now() - timedelta(days=3)
    history.end(history.begin(job, at), at, 0, {})


def test_what_was_missed_is_caught_up_once(scene: Scene) -> None:
    missed(scene.history, "backup")
    with scene.daemon(config(backup="0 0 * * *", prune="0 0 * * *")):
        assert scene.runner.started.acquire(timeout=WAIT)
    assert scene.runner.jobs == ["backup"]
    assert scene.lease.released


def test_backups_have_a_lane_of_their_own_and_other_jobs_share_one(scene: Scene) -> None:
    for job in ("backup", "verify", "prune"):
        missed(scene.history, job)
    scene.runner.go_on.clear()
    with scene.daemon(config(backup="0 0 * * *", verify="0 0 * * *", prune="0 0 * * *")):
        assert scene.runner.started.acquire(timeout=WAIT)
        assert scene.runner.started.acquire(timeout=WAIT)
        assert scene.runner.most == 2
        scene.runner.go_on.set()
        assert scene.runner.started.acquire(timeout=WAIT)
    assert sorted(scene.runner.jobs) == ["backup", "prune", "verify"]
    assert scene.runner.most == 2


def test_a_running_job_is_stopped_after_the_grace(scene: Scene) -> None:
    missed(scene.history, "backup")
    scene.runner.go_on.clear()
    with scene.daemon(config(backup="0 0 * * *")):
        assert scene.runner.started.acquire(timeout=WAIT)
    assert scene.runner.stopped


def test_a_second_instance_ends_with_locked(scene: Scene, notes: Any) -> None:
    def taken() -> FakeLease:
        raise Locked("scheduler lease held by pid 1 on other")

    daemon = Daemon(
        config(backup="0 0 * * *"),
        lambda: config(),
        lambda _: scene.runner,  # type: ignore[arg-type,return-value] # a fake
        scene.history,
        Keeper(taken, notes),
        SystemClock(),
        notes,
    )
    with pytest.raises(Locked, match="pid 1 on other"):
        daemon.run()


@pytest.mark.parametrize("away", [Unreachable("no network yet"), NotFound("not mounted yet")])
def test_a_repository_that_is_away_at_the_start_is_a_warning(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, away: Exception
) -> None:
    def take() -> FakeLease:
        raise away

    monkeypatch.setattr(scene, "take", take)
    missed(scene.history, "backup")
    with scene.daemon(config(backup="0 0 * * *")):
        assert scene.runner.started.acquire(timeout=WAIT)
    assert scene.notes.warnings[0] == (
        "the lease could not be taken",
        {"reason": str(away)},
    )


def test_a_schedule_writes_nothing_where_its_repository_is_not(tmp_path: Path) -> None:
    """An empty mount point would take the lease, and hide it when the disk is mounted."""
    with pytest.raises(NotFound, match="no repository at") as caught:
        wiring.scheduler_lease(RepositoryConfig(url=f"file://{tmp_path}/away"), SystemClock())
    assert "mounted" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_stolen_lease_ends_the_daemon_before_the_job(scene: Scene, notes: Any) -> None:
    missed(scene.history, "backup")
    scene.lease.error = Locked("lost")
    takes = iter([scene.lease])

    def take() -> FakeLease:
        found = next(takes, None)
        if found is None:
            raise Locked("another one has it")
        return found

    daemon = Daemon(
        config(backup="0 0 * * *"),
        lambda: config(),
        lambda _: scene.runner,  # type: ignore[arg-type,return-value] # a fake
        scene.history,
        Keeper(take, notes),
        SystemClock(),
        notes,
    )
    with pytest.raises(Locked, match="another instance took over"):
        daemon.run()
    assert scene.runner.jobs == []


def test_an_unreachable_repository_does_not_silence_the_schedule(scene: Scene) -> None:
    missed(scene.history, "backup")
    scene.lease.error = Unreachable("the bucket is away")
    with scene.daemon(config(backup="0 0 * * *")):
        assert scene.runner.started.acquire(timeout=WAIT)
    assert scene.notes.warnings[0][0] == "the lease could not be renewed"


def test_reload_takes_the_new_schedule_and_keeps_the_old_one_when_it_is_broken(
    scene: Scene,
) -> None:
    scene.load = lambda: config(prune="0 0 1 1 *")
    with scene.daemon(config(backup="0 0 1 1 *")) as daemon:
        daemon.reload()
        until(lambda: daemon.config.schedule.prune is not None)

        def broken() -> Config:
            raise Usage("no configuration file")

        scene.load = broken
        daemon.reload()
        until(lambda: bool(scene.notes.warnings))
        assert daemon.config.schedule.prune is not None
    assert scene.notes.warnings[0][0] == "the old configuration stays"


def test_a_job_of_the_old_configuration_is_stopped_too(scene: Scene) -> None:
    missed(scene.history, "backup")
    scene.runner.go_on.clear()
    scene.load = lambda: config(backup="0 0 1 1 *", prune="0 0 1 1 *")
    first = scene.runner
    with scene.daemon(config(backup="0 0 * * *")) as daemon:
        assert first.started.acquire(timeout=WAIT)
        scene.runner = FakeRunner(scene.history)
        daemon.reload()
        until(lambda: daemon.config.schedule.prune is not None)
    assert first.stopped


def test_another_repository_needs_its_own_lease(scene: Scene) -> None:
    def elsewhere() -> Config:
        found = config(backup="0 0 1 1 *")
        return found.model_copy(update={"repository": RepositoryConfig(url="file:///y")})

    scene.load = elsewhere
    with scene.daemon(config(backup="0 0 1 1 *")) as daemon:
        scene.lease.released = False
        daemon.reload()
        until(lambda: scene.lease.released)
    assert scene.error is None


@pytest.mark.parametrize(
    ("codes", "again"), [((130,), True), ((None,), True), ((None, None), False), ((0,), False)]
)
def test_a_run_that_a_stop_ended_is_run_again_but_not_for_ever(
    scene: Scene, codes: Any, again: bool
) -> None:
    now = SystemClock().now()
    for number, code in enumerate(codes):
        at = now + timedelta(seconds=number)
        run = scene.history.begin("backup", at)
        scene.history.end(run, at, code, {})
    with scene.daemon(config(backup="0 0 1 1 *", prune="0 0 1 1 *")) as daemon:
        until(lambda: any(note == "scheduled" for note, _ in scene.notes.notes))
        assert daemon.working()
        until(daemon._scheduler.get_jobs)
        if again:
            assert scene.runner.started.acquire(timeout=WAIT)
    assert scene.runner.jobs == (["backup"] if again else [])


def test_a_job_that_is_due_while_it_runs_is_noted(scene: Scene) -> None:
    missed(scene.history, "backup")
    scene.runner.go_on.clear()
    with scene.daemon(config(backup="0 0 * * *")) as daemon:
        assert scene.runner.started.acquire(timeout=WAIT)
        daemon._scheduler.modify_job("backup", next_run_time=SystemClock().now())
        until(lambda: scene.history.skipped() == {"backup": 1})
    assert scene.runner.jobs == ["backup"]
    assert any("still goes on" in event for event, _ in scene.notes.warnings)


def test_a_bug_in_a_job_is_said_and_the_daemon_stays(scene: Scene) -> None:
    missed(scene.history, "backup")

    def broken(_job: Any) -> Run:
        raise RuntimeError("a bug")

    scene.runner.run = broken  # type: ignore[method-assign,assignment]
    with scene.daemon(config(backup="0 0 * * *")) as daemon:
        until(lambda: bool(scene.notes.warnings))
        assert daemon.working()
    assert "a bug" in str(scene.notes.warnings[0])


def test_a_daemon_that_starts_before_the_network_stays(scene: Scene) -> None:
    takes: list[Any] = [Unreachable("no route"), scene.lease]
    missed(scene.history, "backup")

    def take() -> FakeLease:
        found = takes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    scene.take = take
    with scene.daemon(config(backup="0 0 * * *")):
        assert scene.runner.started.acquire(timeout=WAIT)
    assert takes == []
    assert scene.lease.released


def test_metrics_are_published_while_nothing_runs(scene: Scene) -> None:
    published = threading.Event()
    scene.publish = published.set
    with scene.daemon(config(backup="0 0 1 1 *")):
        assert published.wait(WAIT)


def test_commands_of_a_killed_daemon_are_waited_for_then_killed(
    scene: Scene, tmp_path: Path
) -> None:
    """Two lanes ask for a lost lease at once, in the other test; here the last daemon died."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    ) as orphan:
        dead = History(scene.history._path, owner="1@0@elsewhere")
        dead.working(dead.begin("backup", SystemClock().now()), incarnation.mark(orphan.pid))
        with scene.daemon(config(backup="0 0 1 1 *")):
            until(lambda: orphan.poll() is not None)
            until(lambda: scene.history.running() == [])
    assert [event for event, _ in scene.notes.warnings] == [
        "a command of the last daemon did not end",
        "runs were cut off by the last stop",
    ]


def test_a_daemon_starts_without_its_history_and_its_jobs_run(scene: Scene) -> None:
    scene.history._path.unlink(missing_ok=True)
    scene.history._path.mkdir(parents=True)
    with scene.daemon(config(backup="* * * * *")) as daemon:
        until(lambda: daemon._scheduler.get_job("backup") is not None)
        daemon._scheduler.modify_job("backup", next_run_time=SystemClock().now())
        assert scene.runner.started.acquire(timeout=WAIT)
        scene.runner.go_on.set()
    assert scene.error is None
    assert [event for event, _ in scene.notes.warnings] == [
        "what the last daemon left is not known",
        "missed runs are not known",
    ]


def test_two_lanes_take_a_lost_lease_back_once(notes: Any) -> None:
    taken: list[FakeLease] = []

    def take() -> FakeLease:
        if any(not one.released for one in taken):
            raise Locked("held by ourselves")
        taken.append(FakeLease())
        return taken[-1]

    keeper = Keeper(take, notes)
    keeper.hold()
    taken[0].error = Locked("it could not be renewed")
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(keeper.still_ours())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert found == [True] * 8
    assert len(taken) == 2


def test_nothing_scheduled_is_a_usage_error(scene: Scene) -> None:
    with scene.daemon(config()):
        until(lambda: scene.error is not None)
    assert isinstance(scene.error, Usage)
    assert scene.lease.released
