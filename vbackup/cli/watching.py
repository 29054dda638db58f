"""`vbackup reconcile --watch`: a line a round for a person, a JSON line a round for a program."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from vbackup.cli.compared import finding_line
from vbackup.cli.documents import link_document
from vbackup.cli.evidence import EXAMPLES, Evidence
from vbackup.cli.links import KINDS
from vbackup.cli.output import error_object, print_json, quietly
from vbackup.cli.screen import Screen
from vbackup.errors import Findings, Interrupted, Usage
from vbackup.quantity import duration
from vbackup.reconciling import live_watch
from vbackup.wiring import work_directory

if TYPE_CHECKING:
    from vbackup.cli.reconcile import Asked
    from vbackup.cli.session import Session
    from vbackup.engine.watch import Round, Watch
    from vbackup.model.finding import Finding, LinkReport

_ALONE = ("backup", "repair", "from_backup", "junit")


def watch(session: Session, asked: Asked) -> None:
    """Watch the live pair until the rounds are over, somebody stops it, or nobody reads any more.

    Raises Findings when the last round found drift, Interrupted when it was stopped, Usage."""
    from vbackup.engine.reconcile import ReconcileOptions
    from vbackup.engine.watch import WatchOptions

    _check(asked)
    # A program reads what does not go to a terminal.
    session.json = session.json or not sys.stdout.isatty()
    watermark = session.config.watermark
    wanted = ReconcileOptions(
        max_index_lag=watermark.max_index_lag,
        tenant=asked.tenant,
        only=asked.only,
        work_dir=work_directory(session.config),
    )
    watching = WatchOptions(asked.interval, asked.complete_every, asked.rounds)
    with live_watch(session.config, session.reporter, session.clock, wanted, watching) as pair:
        last = _follow(session, asked, pair)
    session.emitted = True
    if last and last.error:
        raise last.error
    if last and not last.clean:
        raise Findings(
            f"rows and points do not agree: {_drift(last):,} findings in the last round",
            hint="vbackup reconcile --repair all --from-backup latest puts it right",
        )


def _check(asked: Asked) -> None:
    for name in _ALONE:
        if getattr(asked, name):
            option = f"--{name.replace('_', '-')}"
            raise Usage(
                f"{option} does not go with --watch",
                hint=f"vbackup reconcile {option} looks once",
            )
    if not asked.confirm:
        raise Usage("--watch tells lag from drift: --no-confirm does not go with it")


def _follow(session: Session, asked: Asked, pair: Watch) -> Round | None:
    """Show every round; the last one."""
    last: Round | None = None
    try:
        for last in pair.rounds():
            if not last.error:
                _write(asked, pair)
            if not _show(session, last):
                break
    except KeyboardInterrupt:
        raise Interrupted(_stopped(last), hint="--rounds N ends by itself") from None
    return last


def _write(asked: Asked, pair: Watch) -> None:
    """The files hold what is drift now; a reader never sees half of one."""
    if asked.output or asked.reembed:
        with Evidence(asked.output, asked.reembed, asked.limit) as evidence:
            for finding in pair.findings():
                evidence.take(finding)


def _show(session: Session, seen: Round) -> bool:
    """Print one round; False when nobody reads any more."""
    if session.json:
        document = {"schema": f"vbackup.{session.command}/1", "ok": seen.clean, **_document(seen)}
        return print_json(document | {"at": session.clock.now()}, line=True)
    return quietly(lambda: _render(session, seen))


def _document(seen: Round) -> dict[str, object]:
    """A round as scripts read it; `error` as in every document."""
    document: dict[str, object] = {
        "round": seen.number,
        "compared": seen.compared,
        "looked_at": seen.looked_at,
        "in_doubt": seen.in_doubt,
        "clean": seen.clean,
        "links": [link_document(report) for report in seen.reports],
        "appeared": [asdict(finding) for finding in seen.appeared[:EXAMPLES]],
        "appeared_count": len(seen.appeared),
        "gone": [asdict(finding) for finding in seen.gone[:EXAMPLES]],
        "gone_count": len(seen.gone),
        "warnings": seen.warnings,
        "seconds": round(seen.seconds, 3),
    }
    if seen.error:
        document["error"] = error_object(seen.error)
    return document


def _render(session: Session, seen: Round) -> None:
    screen = Screen(session.clock.now())
    at = session.clock.now().astimezone()
    head = f"{at:%H:%M:%S}  round {seen.number}"
    if seen.error:
        screen.line(f"{head}  failed: {seen.error.message}", "yellow")
        return
    if seen.number == 1:
        for warning in seen.warnings:
            screen.line(f"warning: {warning}", "yellow")
    screen.line(f"{head}  {_read(seen)}  {duration(seen.seconds)}", "dim")
    for report in seen.reports:
        style = "green" if report.clean else "red"
        screen.line(f"          {report.name}: {_verdict(report)}", style)
        for warning in report.warnings:
            screen.line(f"          warning: {warning}", "yellow")
    if seen.in_doubt:
        screen.line(f"          in doubt: {seen.in_doubt:,}, lag or drift, not known yet")
    _changes(screen, "+", "red", seen.appeared)
    _changes(screen, "-", "green", seen.gone)


def _changes(screen: Screen, sign: str, style: str, findings: tuple[Finding, ...]) -> None:
    for finding in findings[:EXAMPLES]:
        screen.line(f"        {sign} {finding_line(finding)}", style)
    if len(findings) > EXAMPLES:
        screen.line(f"        {sign} and {len(findings) - EXAMPLES:,} more", style)


def _read(seen: Round) -> str:
    """What the round looked at."""
    if seen.compared and len(seen.compared) == len(seen.reports):
        return "everything"
    looked = f"{seen.looked_at:,} changed or in doubt"
    return f"{looked}, all of {', '.join(seen.compared)}" if seen.compared else looked


def _verdict(report: LinkReport) -> str:
    counts = [f"{n:,} {title}" for name, title in KINDS if (n := getattr(report, name))]
    size = f"{report.rows:,} rows, {report.points:,} points"
    return f"{size}, {', '.join(counts)}" if counts else f"{size}, agree"


def _drift(seen: Round) -> int:
    return sum(report.drift for report in seen.reports)


def _stopped(last: Round | None) -> str:
    if last is None:
        return "stopped before the first round was over"
    state = "rows and points agreed" if last.clean else f"{_drift(last):,} findings"
    return f"stopped after round {last.number}: {state}"
