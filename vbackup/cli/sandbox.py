"""`vbackup sandbox`: real, throwaway servers on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.errors import Findings

if TYPE_CHECKING:
    from vbackup.sandbox.sandbox import Sandbox, Status

_PATH = click.Path(path_type=Path)


def _directory(verb: str) -> Callable[[Any], Any]:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, path_type=Path),
        envvar=["VBACKUP_SANDBOX_DIR", f"VBACKUP_SANDBOX_{verb}_DIR"],
        metavar="DIR",
        help="Where it lives; default ~/.local/state/vbackup/sandbox.",
    )


@options.group("sandbox", short_help="Start real, throwaway servers on this machine.")
def command() -> None:
    """Real, throwaway servers on this machine: PostgreSQL, Qdrant and an S3 endpoint.

    They listen on 127.0.0.1 only and keep running until `vbackup sandbox down`.
    """


@command.command("up", short_help="Start the servers and print how to use them.")
@_directory("UP")
@click.option(
    "--postgres-version",
    type=int,
    default=16,
    show_default=True,
    metavar="MAJOR",
    help="Major version to run.",
)
@click.option("--postgres-bin-dir", type=_PATH, metavar="DIR", help="Where its programs are.")
@click.option("--qdrant-version", metavar="VERSION", help="Exact version; default 1.17.0.")
@click.option("--qdrant-bin", type=_PATH, metavar="FILE", help="The server program to run.")
@click.option(
    "--qdrant-nodes",
    type=click.IntRange(1, 7),
    default=1,
    show_default=True,
    metavar="N",
    help="More than one forms a cluster.",
)
@click.option("--s3/--no-s3", default=None, help="An S3 endpoint; default: when moto is there.")
@options.pass_session
def up_command(
    session: Session,
    directory: Path | None,
    postgres_version: int,
    postgres_bin_dir: Path | None,
    qdrant_version: str | None,
    qdrant_bin: Path | None,
    qdrant_nodes: int,
    s3: bool | None,
) -> None:
    """Start the servers, wait until all are ready, print how to use them.

    Nothing happens when they run already. What a crash left behind is removed first.
    """
    from vbackup.sandbox.config_text import write_client_files
    from vbackup.sandbox.postgres import PostgresOptions
    from vbackup.sandbox.qdrant import QdrantOptions
    from vbackup.sandbox.sandbox import Options, default_directory, status, up

    chosen = Options(
        postgres=PostgresOptions(major=postgres_version, bin_dir=postgres_bin_dir),
        qdrant=QdrantOptions(version=qdrant_version, program=qdrant_bin, nodes=qdrant_nodes),
        s3=s3,
    )
    sandbox = up(directory or default_directory(), chosen, reporter=session.reporter)
    config = write_client_files(sandbox)
    document = _document(status(sandbox.directory))
    emit(session, document, lambda screen: _render(screen, sandbox, config))


@command.command("status")
@_directory("STATUS")
@options.pass_session
def status_command(session: Session, directory: Path | None) -> None:
    """Tell whether the servers run; exit code 3 when some of them died."""
    from vbackup.sandbox.config_text import CONFIG_FILE
    from vbackup.sandbox.sandbox import default_directory, status

    found = status(directory or default_directory())
    sandbox = found.sandbox
    if sandbox and found.state == "up":
        config = sandbox.directory / CONFIG_FILE
        emit(session, _document(found), lambda screen: _render(screen, sandbox, config))
        return
    error = None
    if found.state == "broken":
        error = Findings(
            f"the sandbox in {found.directory} is broken",
            hint=f"vbackup sandbox down --dir {found.directory}, then up",
        )
    emit(session, _document(found), lambda screen: _render_not_up(screen, found), error=error)


@command.command("down")
@_directory("DOWN")
@options.pass_session
def down_command(session: Session, directory: Path | None) -> None:
    """Stop the servers and remove the directory with all that is in it."""
    from vbackup.sandbox.sandbox import default_directory, down

    before = down(directory or default_directory())
    document = {"state": "down", "directory": before.directory, "stopped": before.alive}
    emit(session, document, lambda screen: _render_down(screen, before))


def _document(found: Status) -> dict[str, object]:
    """What scripts read; no password in it: the DSN names a password file."""
    from vbackup.sandbox.config_text import CONFIG_FILE, shown_dsn

    document: dict[str, object] = {
        "state": found.state,
        "directory": found.directory,
        "servers": [{"name": name, "alive": True} for name in found.alive]
        + [{"name": name, "alive": False} for name in found.dead],
    }
    sandbox = found.sandbox
    if sandbox is None:
        return document
    state = sandbox.state
    document["config"] = sandbox.directory / CONFIG_FILE
    document["repository"] = sandbox.repository_url
    if state.postgres:
        server = state.postgres
        document["postgres"] = {"dsn": shown_dsn(sandbox), "version": server.version}
    if state.qdrant:
        document["qdrant"] = {"urls": state.qdrant.urls, "version": state.qdrant.version}
    if state.s3:
        document["s3"] = {"endpoint_url": state.s3.endpoint_url, "bucket": state.s3.bucket}
    return document


def _render(screen: Screen, sandbox: Sandbox, config: Path) -> None:
    from vbackup.sandbox.config_text import shown_dsn

    state = sandbox.state
    rows: list[tuple[str, object]] = []
    if state.postgres:
        rows.append((f"PostgreSQL {state.postgres.version}", shown_dsn(sandbox)))
    if state.qdrant:
        rows.append((f"Qdrant {state.qdrant.version}", " ".join(state.qdrant.urls)))
    if state.s3:
        rows.append(("S3", f"{state.s3.endpoint_url} bucket {state.s3.bucket}"))
    screen.pairs([*rows, ("repository", sandbox.repository_url), ("config", config)])
    screen.line()
    screen.line(f"use it:   export VBACKUP_CONFIG={config}")
    screen.line(f"stop it:  vbackup sandbox down --dir {sandbox.directory}")


def _render_not_up(screen: Screen, found: Status) -> None:
    screen.line(f"{found.state}: {found.directory}")
    for name in found.alive:
        screen.line(f"  {name}: running")
    for name in found.dead:
        screen.line(f"  {name}: not running", "red")


def _render_down(screen: Screen, before: Status) -> None:
    if before.sandbox is None:
        screen.line(f"nothing was up in {before.directory}")
        return
    stopped = ", ".join(before.alive) or "no server was running"
    screen.line(f"stopped: {stopped}; removed {before.directory}")
