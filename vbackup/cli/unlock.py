"""`vbackup unlock`: remove a stale lease, after showing who held it."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.errors import Locked, Usage
from vbackup.ports import LeaseName
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from vbackup.repository.lease import Claim

NAMES = get_args(LeaseName)


@options.command("unlock", short_help="Remove a stale lease, after showing who held it.")
@click.argument("name", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also leases whose holder still shows signs of life.")
@options.pass_session
def command(session: Session, name: str | None, yes: bool, force: bool) -> None:
    """Remove a stale lease, after showing who held it. NAME is one of writer, pruner, reader,
    scheduler, switch (a restore in place), keys, check; without it all of them.

    A lease is stale when its holder has shown no sign of life for minutes, or was a process of
    this machine that is gone. A holder whose lease is removed stops before it changes anything;
    a reader goes on, and a prune may then remove what he reads.
    """
    if name is not None and name not in NAMES:
        raise Usage(f"no lease is called {name!r}", hint=f"there are {', '.join(NAMES)}")
    repository = open_repository(session.repository_config, session.clock)
    claims = repository.holders(name or "")
    removable = [claim for claim in claims if claim.stale or force]
    alive = [claim for claim in claims if claim not in removable]
    if alive and not removable:
        raise Locked(
            f"not stale: {_describe(alive[0])}",
            hint="wait for it, or stop it; vbackup unlock --force removes it all the same",
        )
    if removable:
        for claim in removable:
            click.echo(_describe(claim), err=True)
        session.confirm(f"this removes {len(removable)} lease(s)", given=yes)
    for claim in removable:
        repository.unlock(claim)
    document = {"removed": list(map(_entry, removable)), "kept": list(map(_entry, alive))}
    emit(session, document, lambda screen: _render(screen, removable, alive))


def _describe(claim: Claim) -> str:
    state = "stale" if claim.stale else "alive"
    return f"{claim.describe()} ({state})"


def _entry(claim: Claim) -> dict[str, object]:
    record = claim.record
    return {
        "key": claim.key,
        "stale": claim.stale,
        "name": record.name if record else None,
        "host": record.host if record else None,
        "pid": record.pid if record else None,
        "backup": record.backup or None if record else None,
        "since": record.started_at if record else None,
        "heartbeat_at": record.heartbeat_at if record else None,
    }


def _render(screen: Screen, removed: list[Claim], kept: list[Claim]) -> None:
    if not removed:
        screen.line("no lease is held")
    for claim in removed:
        screen.line(f"removed {claim.key}")
    for claim in kept:
        screen.line(f"kept    {_describe(claim)}")
