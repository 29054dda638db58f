"""`vbackup schedule`: the daemon, or one job with everything around it."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import click

from vbackup import wiring
from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from vbackup.config import Config
    from vbackup.operate.history import History, JobName, Run
    from vbackup.operate.jobs import JobRunner
    from vbackup.operate.status import Status

JOB_NAMES = ("backup", "verify", "drill", "reconcile", "prune")


@options.command("schedule", short_help="Run backups and checks on their schedule.")
@click.option(
    "--once",
    "job",
    type=click.Choice(JOB_NAMES),
    help="Run this job now, with its hooks and notifications, and end: for cron and Kubernetes.",
)
@options.pass_session
def command(session: Session, job: JobName | None) -> int:
    """Run backups and checks on their schedule.

    Serves /metrics, /healthz and a status page on schedule.listen. SIGTERM stops it after the
    running job, SIGHUP reads the configuration again.
    """
    from vbackup.operate.history import History

    history = History(session.state_directory / "history.sqlite")
    if job:
        return _once(session, history, job)
    _serve(session, history)
    return 0


def _once(session: Session, history: History, job: JobName) -> int:
    ended: list[Run] = []
    runner = _runner(session, history, session.config, ended.append)
    run = runner.run(job)
    code = 1 if run.code is None else run.code
    document = {
        "job": job,
        "exit_code": code,
        "outcome": run.outcome,
        "seconds": run.seconds,
        "result": run.document,
    }
    emit(
        session,
        document,
        lambda screen: screen.line(f"{job}: {run.outcome}{': ' + run.error if run.error else ''}"),
        ok=run.ok,
    )
    return code


def _serve(session: Session, history: History) -> None:
    from vbackup.operate.daemon import Daemon, Keeper
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
    )
    server = StatusServer(
        session.config.schedule.listen,
        lambda: _status(session, history, daemon.config),
        _title(session.config),
    )
    session.reporter.note("status page", url=f"http://{server.address}/")
    daemon.on_signals()
    try:
        daemon.run()
    finally:
        server.close()


def _runner(
    session: Session, history: History, config: Config, finished: Callable[[Run], None]
) -> JobRunner:
    from vbackup.operate.jobs import JobRunner
    from vbackup.operate.metrics import write_textfile
    from vbackup.operate.notify import Notifier

    notifier = Notifier(config.notify, session.reporter, socket.gethostname())

    def after(run: Run) -> None:
        finished(run)
        notifier.tell(run)
        if config.schedule.textfile:
            write_textfile(config.schedule.textfile, lambda: _status(session, history, config))

    return JobRunner(
        session.settings.path,
        config.schedule,
        config.hooks,
        history,
        session.clock,
        session.reporter,
        after,
        program=(sys.executable, "-m", "vbackup"),
    )


def _status(session: Session, history: History, config: Config) -> Status:
    from vbackup.operate.status import read_status

    return read_status(history, config.schedule, config.objective, session.clock.now())


def _title(config: Config) -> str:
    from vbackup.redact import safe_url

    return safe_url(config.repository.url)
