"""The daemon: runs jobs by their cron expressions until it is told to stop.

One instance per repository holds the lease `scheduler`. A job never overlaps itself; backups
have a lane of their own, so that a long verification cannot delay them. What was missed while
the daemon was down is caught up once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from types import FrameType

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_MAX_INSTANCES,
    JobExecutionEvent,
    JobSubmissionEvent,
)
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from vbackup import incarnation
from vbackup.config import Config
from vbackup.errors import Locked, Usage, VbackupError
from vbackup.operate.cron import CronTrigger, next_time, zone
from vbackup.operate.history import JOBS, History, JobName
from vbackup.operate.jobs import JobRunner
from vbackup.operate.keeper import Keeper
from vbackup.ports import Clock, Reporter
from vbackup.redact import scrub

WAKE_SECONDS = 0.5
PUBLISH_SECONDS = 60.0
# Without a turn of the main loop for so long, the daemon is not healthy.
STUCK_SECONDS = 120.0
# A command that was told to stop and has not: it is killed, before systemd kills the daemon.
KILL_SECONDS = 60.0
# Exit codes of runs that a stop of the daemon ended: cut off, interrupted.
UNFINISHED = (None, 130)


class Daemon:
    """Runs until `stop`. `load` reads the configuration anew; `make_runner` binds it to jobs;
    `publish` is called every minute, for metrics that age."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        make_runner: Callable[[Config], JobRunner],
        history: History,
        keeper: Keeper,
        clock: Clock,
        reporter: Reporter,
        publish: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self._load = load
        self._make_runner = make_runner
        self._history = history
        self._keeper = keeper
        self._clock = clock
        self._reporter = reporter
        self._publish = publish
        # The last is the one for new jobs; those before it still have one running.
        self._runners = [make_runner(config)]
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._error: VbackupError | None = None
        self._beat = clock.monotonic()
        self._scheduler = BackgroundScheduler(
            executors={"backup": ThreadPoolExecutor(1), "default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._scheduler.add_listener(self._not_started, EVENT_JOB_MAX_INSTANCES)
        self._scheduler.add_listener(self._broke, EVENT_JOB_ERROR)

    def run(self) -> None:
        """Serve until a signal. Raises Locked when another instance took over, Usage."""
        self._keeper.hold()
        try:
            self._settle()
            self._plan(self.config, catch_up=True)
            self._scheduler.start()
            self._serve()
        finally:
            self._shut_down()
            self._keeper.release()
        if self._error:
            raise self._error

    def _settle(self) -> None:
        """Commands of a daemon that was killed end with it, but not at once: the next run must
        not find their leases. Then the runs that nobody saw end are closed."""
        try:
            self._end_orphans()
            cut_off = self._history.close_open(self._clock.now())
        except VbackupError as error:
            self._reporter.warn("what the last daemon left is not known", reason=error.message)
            return
        if cut_off:
            self._reporter.warn("runs were cut off by the last stop", runs=cut_off)

    def _end_orphans(self) -> None:
        deadline = self._clock.monotonic() + self.config.schedule.stop_grace
        while self._history.orphans() and self._clock.monotonic() < deadline:
            self._clock.sleep(WAKE_SECONDS)
        for orphan in self._history.orphans():
            if pid := incarnation.pid_if_alive(orphan):
                self._reporter.warn("a command of the last daemon did not end", pid=pid)
                with suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)

    def _serve(self) -> None:
        published = -PUBLISH_SECONDS
        while not self._stop.wait(WAKE_SECONDS):
            self._beat = self._clock.monotonic()
            if self._reload.is_set():
                self._reload.clear()
                self._reread()
            if self._beat - published >= PUBLISH_SECONDS:
                published = self._beat
                self._publish()

    def working(self) -> bool:
        """Whether the daemon's own threads live: for `/healthz`."""
        late = self._clock.monotonic() - self._beat
        return late < STUCK_SECONDS and not self._stop.is_set()

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
        """Whether a time has passed since the last run, or that run was ended by a stop. A job
        that was cut off twice in a row may be what ends the machine: it waits for its time, and
        so does one of which nobody knows when it ran."""
        try:
            ended = self._history.last(job, count=2)
        except VbackupError as error:
            self._reporter.warn("missed runs are not known", job=job, reason=error.message)
            return False
        if not ended:
            return False
        if ended[0].code in UNFINISHED:
            return [run.code for run in ended] != [None, None]
        due: datetime = next_time(expression, ended[0].started, zone(self.config.schedule.timezone))
        return due <= self._clock.now()

    def _reread(self) -> None:
        try:
            config = self._load()
            self._plan(config, catch_up=False)
        except VbackupError as error:
            self._reporter.warn("the old configuration stays", reason=error.message)
            return
        before, self.config = self.config, config
        self._runners = [one for one in self._runners if one.busy()] + [self._make_runner(config)]
        self._reporter.note("configuration read again")
        if config.repository != before.repository:
            self._move()
        if config.schedule.listen != before.schedule.listen:
            self._reporter.warn("schedule.listen counts from the next start on")

    def _move(self) -> None:
        """Jobs work on the new repository already: its lease must be ours too."""
        try:
            self._keeper.hold()
        except VbackupError as error:
            self._error = error
            self.stop()

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
            self._runners[-1].run(job)
        except VbackupError as error:
            self._reporter.warn("the job could not be run", job=job, reason=error.message)

    def _not_started(self, event: JobSubmissionEvent) -> None:
        """A job was due while its last run still went on."""
        job: JobName = event.job_id
        self._reporter.warn("the job was due and its last run still goes on", job=job)
        try:
            self._history.skip(job, self._clock.now())
        except VbackupError as error:
            self._reporter.warn("the skipped run is not noted", job=job, reason=error.message)

    def _broke(self, event: JobExecutionEvent) -> None:
        self._reporter.warn(
            "the job could not be run", job=event.job_id, reason=scrub(repr(event.exception))
        )

    def _shut_down(self) -> None:
        """Finish or checkpoint: a command that is stopped leaves its uploads to be reused."""
        self._stop.set()
        if self._scheduler.running:
            self._scheduler.pause()
        self._wait_idle(self.config.schedule.stop_grace)
        for runner in self._runners:
            runner.stop()
        self._wait_idle(KILL_SECONDS)
        for runner in self._runners:
            if runner.busy():
                self._reporter.warn("a command did not stop and is killed")
                runner.kill()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _wait_idle(self, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        while any(one.busy() for one in self._runners) and self._clock.monotonic() < deadline:
            self._clock.sleep(WAKE_SECONDS / 5)
