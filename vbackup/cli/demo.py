"""`vbackup demo`: the whole story on a sandbox, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbackup.cli import options
from vbackup.cli.documents import backup_document
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.errors import Findings
from vbackup.quantity import duration

if TYPE_CHECKING:
    from vbackup.demo.ground import Ground
    from vbackup.demo.oracle import Comparison
    from vbackup.demo.scenario import Engine
    from vbackup.demo.story import StoryResult
    from vbackup.sandbox.sandbox import Options

_PATH = click.Path(path_type=Path)
_KINDS = ("missing", "orphans", "stale", "ahead", "not_live", "wrong_vector")


@options.command("demo", short_help="Watch the whole story on a sandbox, in about a minute.")
@click.option("--keep", is_flag=True, help="Leave the servers up, with commands to try next.")
@click.option(
    "--dir",
    "directory",
    envvar="VBACKUP_DEMO_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the servers and the repository live; default a temporary directory.",
)
@click.option(
    "--rows",
    type=click.IntRange(100, 1_000_000),
    default=3_000,
    show_default=True,
    help="Passages of text to load.",
)
@click.option(
    "--engine",
    type=click.Choice(["qdrant", "pgvector"]),
    default="qdrant",
    show_default=True,
    help="Where the vectors are; with pgvector there is no Qdrant.",
)
@click.option("--skip-usual-script", is_flag=True, help="Leave out the comparison with pg_dump.")
@click.option("--s3/--no-s3", default=False, help="Keep the repository on an S3 server.")
@click.option(
    "--postgres-version", type=int, default=16, show_default=True, help="Major version to run."
)
@click.option("--postgres-bin-dir", type=_PATH, metavar="DIR", help="Where its programs are.")
@click.option("--qdrant-version", metavar="VERSION", help="Exact version; default 1.17.0.")
@click.option("--qdrant-bin", type=_PATH, metavar="FILE", help="The server program to run.")
@options.pass_session
def command(
    session: Session,
    keep: bool,
    directory: Path | None,
    rows: int,
    engine: Engine,
    skip_usual_script: bool,
    s3: bool,
    postgres_version: int,
    postgres_bin_dir: Path | None,
    qdrant_version: str | None,
    qdrant_bin: Path | None,
) -> None:
    """Watch a live pair being backed up, destroyed, restored and proven equal.

    Starts real servers on 127.0.0.1, fills them with Python's documentation, writes to both
    stores all the time, and takes everything away again at the end.
    """
    from vbackup.sandbox.postgres import PostgresOptions
    from vbackup.sandbox.qdrant import QdrantOptions
    from vbackup.sandbox.sandbox import Options

    servers = Options(
        postgres=PostgresOptions(major=postgres_version, bin_dir=postgres_bin_dir),
        qdrant=None
        if engine == "pgvector"
        else QdrantOptions(version=qdrant_version, program=qdrant_bin),
        s3=s3,
    )
    _tell(session, servers, directory, rows, engine, keep=keep, usual=not skip_usual_script)


def _tell(
    session: Session,
    servers: Options,
    directory: Path | None,
    rows: int,
    engine: Engine,
    *,
    keep: bool,
    usual: bool,
) -> None:
    from vbackup.demo.ground import prepared
    from vbackup.demo.story import Story

    started = session.clock.monotonic()
    with prepared(servers, directory, session.reporter, keep=keep) as ground:
        story = Story(ground, rows, session.reporter, session.clock, usual=usual, engine=engine)
        result = story.tell()
        seconds = session.clock.monotonic() - started
        error = None
        if not result.proven:
            error = Findings(
                "the restored pair is not what it was at the watermark",
                hint="please report this with the output of: vbackup demo --json -v",
            )
        emit(
            session,
            _document(result, ground, seconds, kept=keep),
            lambda screen: _render(screen, result, ground, seconds, kept=keep),
            error=error,
        )


# ---------------------------------------------------------------- JSON


def _document(
    result: StoryResult, ground: Ground, seconds: float, *, kept: bool
) -> dict[str, object]:
    return {
        "rows": result.restored.rows,
        "points": result.restored.points,
        "writes": result.writes,
        "writes_during_backup": result.writes_during_backup,
        "backup": backup_document(result.manifest),
        "reembed": len(result.restore.applied.reembed),
        "drift": {
            "before_disaster": _drift(result.lost),
            "after_disaster": {"rows": 0, "points": 0, "missing": result.lost.live},
            "usual_script": _drift(result.usual) if result.usual else None,
            "after_restore": _drift(result.restored),
            "after_reembed": _drift(result.finished) if result.finished else None,
        },
        "answers": result.answers,
        "proven": result.proven,
        "rto_seconds": round(result.restore.rto_seconds, 3),
        "steps": [
            {"name": name, "seconds": round(took, 3)} for name, took in result.seconds.items()
        ],
        "seconds": round(seconds, 3),
        "repository": ground.repository_url,
        "kept": kept,
        "directory": ground.sandbox.directory if kept else None,
        "config": ground.config_file if kept else None,
    }


def _drift(found: Comparison) -> dict[str, int]:
    sizes = {kind: len(getattr(found, kind)) for kind in _KINDS}
    return {"rows": found.rows, "points": found.points, **sizes}


# ---------------------------------------------------------------- for people


def _render(
    screen: Screen, result: StoryResult, ground: Ground, seconds: float, *, kept: bool
) -> None:
    screen.line()
    _render_drift(screen, result)
    screen.line()
    _render_answers(screen, result)
    screen.line()
    screen.table(
        ["step", "seconds"],
        [[name, f"{took:.1f}"] for name, took in result.seconds.items()],
        right=["seconds"],
    )
    screen.line()
    mark, reembed = result.manifest.watermark, len(result.restore.applied.reembed)
    screen.pairs(
        [
            ("watermark", f"{mark.lsn} at {mark.at:%H:%M:%S.%f}"[:-3]),
            (
                "writes meanwhile",
                f"{result.writes_during_backup}, paused for {mark.writers_paused_ms} ms",
            ),
            ("rows to re-embed", reembed),
            ("backup", result.manifest.id),
            ("repository", ground.repository_url),
            ("in all", duration(seconds)),
        ]
    )
    screen.line()
    if result.proven:
        screen.line("Proven: every row and every point agree, vectors included.", "bold green")
    if kept:
        _render_next(screen, ground)
    else:
        screen.line("The servers are gone again; keep them with: vbackup demo --keep")


def _render_drift(screen: Screen, result: StoryResult) -> None:
    """One line a state of the pair: how many rows and points, and what is wrong between them."""
    dash = "-"
    gone = [0, 0, result.lost.live, *[dash] * (len(_KINDS) - 1)]
    lines: list[list[object]] = [
        ["live, at rest", *_drift(result.lost).values()],
        ["after the disaster", *gone],
    ]
    if result.usual:
        lines.append(["restored from two dumps in a row", *_drift(result.usual).values()])
    lines.append(["restored by vbackup", *_drift(result.restored).values()])
    if result.finished:
        lines.append(["its re-embed list done", *_drift(result.finished).values()])
    names = ["rows", "points", *(kind.replace("_", " ") for kind in _KINDS)]
    screen.table(["the pair", *names], lines, right=names)


def _render_answers(screen: Screen, result: StoryResult) -> None:
    screen.table(
        ["question", "best passage", "score", "as before", "as its rows"],
        [
            [
                answer.question,
                answer.title,
                f"{answer.score:.3f}",
                "yes" if answer.same_as_before else "NO",
                "yes" if answer.same_as_rows else "NO",
            ]
            for answer in result.answers
        ],
        right=["score"],
    )


def _render_next(screen: Screen, ground: Ground) -> None:
    directory = ground.sandbox.directory
    screen.line("The servers are up. To try next:")
    for line in (
        f"export VBACKUP_CONFIG={ground.config_file}",
        "vbackup list",
        "vbackup show latest",
        "vbackup reconcile",
        "vbackup backup                    # again: most chunks are there already",
        "vbackup restore latest --plan",
        "vbackup verify latest --level chunks",
        f"vbackup sandbox down --dir {directory}   # when done",
    ):
        screen.line(f"  {line}")
