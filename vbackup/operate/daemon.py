"""The daemon: runs jobs by their cron expressions until it is told to stop.

One instance per repository holds the lease `scheduler`. A job never overlaps itself; backups
have a lane of their own, so that a long verification cannot delay them. What was missed while
the daemon was down is caught up once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from types import FrameType
from typing import Protocol

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from vbackup.config import Config
from vbackup.errors import Locked, Usage, VbackupError
from vbackup.operate.cron import CronTrigger, next_time, zone
from vbackup.operate.history import JOBS, History, JobName
from vbackup.operate.jobs import JobRunner
from vbackup.ports import Clock, Reporter

WAKE_SECONDS = 0.5


class HeldLease(Protocol):
    """What the keeper needs of a lease (vbackup.repository.lease.Lease is one)."""

    def confirm(self) -> None:
        """Raises Locked when it was lost, Unreachable."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Keeper:
    """Holds the lease of the one active instance, and gets it back after an outage."""

    def __init__(self, take: Callable[[], HeldLease], reporter: Reporter) -> None:
        self._take = take
        self._reporter = reporter
        self._held: HeldLease | None = None

    def hold(self) -> None:
        """Take the lease. Raises Locked while another instance has it."""
        self._held = self._take()

    def still_ours(self) -> bool:
        """Whether this instance may start a job. An unreachable repository is no reason not to:
        the job will fail and be reported."""
        try:
            if self._held:
                self._held.confirm()
        except Locked:
            return self._again()
        except VbackupError as error:
            self._reporter.warn("the lease could not be renewed", reason=error.message)
        return True

    def _again(self) -> bool:
        try:
            self.hold()
        except Locked:
            return False
        except VbackupError as error:
            self._reporter.warn("the lease could not be taken again", reason=error.message)
        return True

    def release(self) -> None:
        """Let another instance in."""
        if self._held:
            with suppress(VbackupError):
                self._held.release()


class Daemon:
    """Runs until `stop`. `load` reads the configuration anew; `make_runner` binds it to jobs."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        make_runner: Callable[[Config], JobRunner],
        history: History,
        keeper: Keeper,
        clock: Clock,
        reporter: Reporter,
    ) -> None:
        self.config = config
        self._load = load
        self._make_runner = make_runner
        self._history = history
        self._keeper = keeper
        self._clock = clock
        self._reporter = reporter
        self._runner = make_runner(config)
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._error: VbackupError | None = None
        self._scheduler = BackgroundScheduler(
            executors={"backup": ThreadPoolExecutor(1), "default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )

    def run(self) -> None:
        """Serve until a signal. Raises Locked when another instance took over, Usage."""
        self._keeper.hold()
        try:
            cut_off = self._history.close_open(self._clock.now())
            if cut_off:
                self._reporter.warn("runs were cut off by the last stop", runs=cut_off)
            self._plan(self.config, catch_up=True)
            self._scheduler.start()
            while not self._stop.wait(WAKE_SECONDS):
                if self._reload.is_set():
                    self._reload.clear()
                    self._reread()
        finally:
            self._shut_down()
            self._keeper.release()
        if self._error:
            raise self._error

    def stop(self) -> None:
        """End `run`: the running job gets `schedule.stop_grace` to finish, then it is stopped."""
        self._stop.set()

    def reload(self) -> None:
        """Read the configuration again; a broken one is reported and the old one stays."""
        self._reload.set()

    def on_signals(self) -> None:
        """SIGTERM and SIGINT stop, SIGHUP reloads."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        def reload(_number: int, _frame: FrameType | None) -> None:
            self.reload()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)

    # ------------------------------------------------------------ planning

    def _plan(self, config: Config, *, catch_up: bool) -> None:
        schedule = config.schedule
        place = zone(schedule.timezone)
        triggers = {
            job: CronTrigger(expression, place, schedule.jitter)
            for job in JOBS
            if (expression := getattr(schedule, job))
        }
        if not triggers:
            raise Usage(
                "nothing is scheduled", hint='set at least schedule.backup, such as "15 * * * *"'
            )
        self._scheduler.remove_all_jobs()
        for job, trigger in triggers.items():
            lane = "backup" if job == "backup" else "default"
            self._scheduler.add_job(
                self._fire, trigger, args=[job], id=job, name=job, executor=lane
            )
            if catch_up and self._missed(job, getattr(schedule, job)):
                self._reporter.note("catching up a missed run", job=job)
                self._scheduler.modify_job(job, next_run_time=self._clock.now())
        self._reporter.note("scheduled", jobs=",".join(triggers), timezone=schedule.timezone)

    def _missed(self, job: JobName, expression: str) -> bool:
        last = self._history.last(job)
        if last is None:
            return False
        due: datetime = next_time(expression, last.started, zone(self.config.schedule.timezone))
        return due <= self._clock.now()

    def _reread(self) -> None:
        try:
            config = self._load()
            self._plan(config, catch_up=False)
        except VbackupError as error:
            self._reporter.warn("the old configuration stays", reason=error.message)
            return
        self.config = config
        self._runner = self._make_runner(config)
        self._reporter.note("configuration read again")

    # ------------------------------------------------------------ running

    def _fire(self, job: JobName) -> None:
        if self._stop.is_set():
            return
        if not self._keeper.still_ours():
            self._error = Locked(
                "another instance took over this repository's schedule",
                hint="run one vbackup schedule per repository",
            )
            self.stop()
            return
        try:
            self._runner.run(job)
        except VbackupError as error:
            self._reporter.warn("the job could not be run", job=job, reason=error.message)

    def _shut_down(self) -> None:
        """Finish or checkpoint: a command that is stopped leaves its uploads to be reused."""
        if self._scheduler.running:
            self._scheduler.pause()
        deadline = self._clock.monotonic() + self.config.schedule.stop_grace
        while self._runner.busy() and self._clock.monotonic() < deadline:
            self._clock.sleep(WAKE_SECONDS / 5)
        self._runner.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
