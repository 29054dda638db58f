"""The daemon: one instance, no overlap, catching up, reload, graceful stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from vbackup.clock import SystemClock
from vbackup.config import Config, PostgresConfig, RepositoryConfig, ScheduleConfig
from vbackup.errors import Locked, Unreachable, Usage
from vbackup.operate.daemon import Daemon, Keeper
from vbackup.operate.history import History, Run

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


class Scene:
    def __init__(self, history: History, notes: Any) -> None:
        self.history = history
        self.notes = notes
        self.lease = FakeLease()
        self.runner = FakeRunner(history)
        self.load: Callable[[], Config] = lambda: config(backup="0 0 1 1 *")
        self.error: BaseException | None = None

    @contextmanager
    def daemon(self, first: Config) -> Iterator[Daemon]:
        daemon = Daemon(
            first,
            lambda: self.load(),
            lambda _: self.runner,  # type: ignore[arg-type,return-value] # a fake
            self.history,
            Keeper(lambda: self.lease, self.notes),
            SystemClock(),
            self.notes,
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


def test_nothing_scheduled_is_a_usage_error(scene: Scene) -> None:
    with scene.daemon(config()):
        until(lambda: scene.error is not None)
    assert isinstance(scene.error, Usage)
    assert scene.lease.released
