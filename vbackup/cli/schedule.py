"""`vbackup schedule`: the daemon, or one job with everything around it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from vbackup import wiring
from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.errors import VbackupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vbackup.config import Config
    from vbackup.operate.daemon import Daemon
    from vbackup.operate.history import History, JobName, Run
    from vbackup.operate.jobs import JobRunner
    from vbackup.operate.status import Status

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
JOB_NAMES = ("backup", "verify", "drill", "reconcile", "prune")


@options.command("schedule", short_help="Run backups and checks on their schedule.")
@click.option(
    "--once",
    "job",
    envvar="VBACKUP_SCHEDULE_ONCE",
    type=click.Choice(JOB_NAMES),
    help="Run this job now, with its hooks and notifications, and end: for cron and Kubernetes.",
)
@options.pass_session
def command(session: Session, job: JobName | None) -> int:
    """Run backups and checks on their schedule.

    Serves /metrics, /healthz and a status page on schedule.listen. SIGTERM gives the
    running job schedule.stop_grace, then stops it; SIGHUP reads the configuration again.
    """
    from vbackup.operate.history import History

    history = History(session.state_directory / "history.sqlite")
    if job:
        return _once(session, history, job)
    _serve(session, history)
    return 0


def _once(session: Session, history: History, job: JobName) -> int:
    ended: list[Run] = []
    try:
        history.close_open(session.clock.now())
    except VbackupError as error:
        session.reporter.warn("what the last run left is not known", reason=error.message)
    runner = _runner(session, history, session.config, ended.append)

    def stop(*_: object) -> None:
        # The job ends with 130 then, and hooks, history and notifications hear of it.
        runner.stop()

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        run = runner.run(job)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = 1 if run.code is None else run.code
    document = {
        "job": job,
        "exit_code": code,
        "outcome": run.outcome,
        "seconds": run.seconds,
        "result": run.document,
        "ok": run.ok,
    }
    emit(
        session,
        document,
        lambda screen: screen.line(f"{job}: {run.outcome}{': ' + run.error if run.error else ''}"),
    )
    return code


def _serve(session: Session, history: History) -> None:
    from vbackup.operate.daemon import Daemon
    from vbackup.operate.keeper import Keeper
    from vbackup.operate.web import StatusServer

    def make_runner(config: Config) -> JobRunner:
        return _runner(session, history, config, lambda _run: None)

    keeper = Keeper(
        lambda: wiring.scheduler_lease(session.config.repository, session.clock), session.reporter
    )
    daemon = Daemon(
        session.config,
        session.reload,
        make_runner,
        history,
        keeper,
        session.clock,
        session.reporter,
        lambda: _write_textfile(session, history, daemon.config),
    )
    # Before anybody can see that the daemon is up: a reload sent then would have ended it.
    daemon.on_signals()
    server = StatusServer(
        session.config.schedule.listen, _Pages(session, history, daemon), session.reporter
    )
    session.reporter.note("status page", url=f"http://{server.address}/")
    try:
        daemon.run()
    finally:
        server.close()


class _Pages:
    """What the web server shows (vbackup.operate.web.Pages)."""

    def __init__(self, session: Session, history: History, daemon: Daemon) -> None:
        self._session = session
        self._history = history
        self._daemon = daemon

    def status(self) -> Status:
        return current_status(self._session, self._history, self._daemon.config)

    def page(self) -> str:
        return current_page(self._session, self._history, self._daemon.config, refresh=30)

    def working(self) -> bool:
        return self._daemon.working()


def _runner(
    session: Session, history: History, config: Config, finished: Callable[[Run], None]
) -> JobRunner:
    from vbackup.operate.jobs import JobRunner
    from vbackup.operate.notify import Notifier

    notifier = Notifier(config.notify, session.reporter, socket.gethostname())

    def after(run: Run) -> None:
        finished(run)
        notifier.tell(run)
        _write_textfile(session, history, config)

    return JobRunner(
        session.settings.path,
        config.schedule,
        config.hooks,
        history,
        session.clock,
        session.reporter,
        after,
        program=(sys.executable, "-m", "vbackup.cli.job", str(os.getpid())),
    )


def current_status(session: Session, history: History, config: Config) -> Status:
    from vbackup.operate.status import read_status

    return read_status(history, config.schedule, config.objective, session.clock.now())


def _write_textfile(session: Session, history: History, config: Config) -> None:
    """A metrics file that cannot be written is a warning: it is no reason to fail a backup."""
    from vbackup.operate.metrics import write_textfile

    if not config.schedule.textfile:
        return
    try:
        write_textfile(config.schedule.textfile, lambda: current_status(session, history, config))
    except VbackupError as error:
        session.reporter.warn("no metrics file", reason=error.message)


def current_page(
    session: Session, history: History, config: Config, *, refresh: int | None = None
) -> str:
    """The status page as it is now."""
    from vbackup.operate.page import WEEKS, render
    from vbackup.redact import safe_url

    status = current_status(session, history, config)
    timeline = history.runs(status.now - timedelta(weeks=WEEKS))
    return render(status, timeline, title=safe_url(config.repository.url), refresh=refresh)
