"""`vbackup init`: a commented configuration that runs, and the repository it names."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vbackup import redact
from vbackup.cli import discovered, options, template
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.discovering import discover as find_links
from vbackup.errors import AlreadyExists, Failed, Usage
from vbackup.settings import load, load_repository, loads, locate
from vbackup.wiring import create_repository, object_store, open_repository

if TYPE_CHECKING:
    from vbackup.config import RepositoryConfig
    from vbackup.engine.discover import Discovery

DSN_VARIABLE = "DATABASE_URL"
API_KEY_VARIABLE = "QDRANT_API_KEY"
DEFAULT_QDRANT = "http://localhost:6333"


@dataclass(frozen=True, slots=True)
class Given:
    """What the options say."""

    engine: Literal["qdrant", "pgvector"]
    postgres: str | None
    qdrant: str | None
    repository: str | None
    endpoint_url: str | None
    no_encryption: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """What init found and made."""

    path: Path
    written: bool
    location: str
    repository_id: str
    encrypted: bool
    created: bool
    passphrase_file: Path | None


@options.command("init", short_help="Write a commented configuration and create the repository.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write; default --config, then ./vbackup.toml.",
)
@click.option(
    "--preset", type=click.Choice(template.presets()), help="Links of an application that is known."
)
@click.option(
    "--discover", is_flag=True, help="Propose links from what is in both databases (only reads)."
)
@click.option(
    "--engine",
    type=click.Choice(["qdrant", "pgvector"]),
    default="qdrant",
    show_default=True,
    help="Where the vectors are; with pgvector there is no [qdrant] section.",
)
@click.option("--postgres", metavar="DSN", help=f"Default: ${{env:{DSN_VARIABLE}}}.")
@click.option("--qdrant", metavar="URL", help=f"Default: {DEFAULT_QDRANT}.")
@click.option("--repository", metavar="URL", help="Default: the folder `repository` beside FILE.")
@click.option("--endpoint-url", metavar="URL", help="Of an S3 server other than AWS.")
@click.option("--no-encryption", is_flag=True, help="Store backups readable by whoever can list.")
@options.pass_session
def command(
    session: Session, /, output: Path | None, preset: str | None, discover: bool, **given: Any
) -> None:
    """Write a commented configuration and create the repository.

    What exists is left as it is: an existing configuration is read, not changed, and an existing
    repository is only opened. A new passphrase goes into a file that only you can read.
    """
    if discover and preset:
        raise Usage("--discover and --preset both bring links", hint="choose one of them")
    path = output or locate(session.config_path)
    text = _text(path, Given(**given), preset)
    found = _discovery(path, text, session) if discover else None
    if found:
        text = template.with_links(text, discovered.toml(found))
    written = _write_new(path, text)
    config = load_repository(path)
    generated = _generate_passphrase(config, session)
    prepared = _prepare(path, written, config, session, generated)
    told = _document(prepared) | (discovered.document(found) if found else {})
    emit(session, told, lambda screen: _render(screen, prepared, found))


def _discovery(path: Path, text: str, session: Session) -> Discovery:
    """What the pair of an existing configuration, or of the one to be written, tells."""
    settings = load(path) if path.exists() else loads(text, path)
    return find_links(settings.config, session.reporter, session.clock)


def _text(path: Path, given: Given, preset: str | None) -> str:
    if given.engine == "qdrant":
        return template.render(_values(path, given), preset)
    if preset:
        raise Usage(
            f"the preset {preset!r} is for Qdrant",
            hint="leave out --preset, and write a [[link]] with vectors (docs/pgvector.md)",
        )
    return template.render(_values(path, given), without="qdrant")


def _values(path: Path, given: Given) -> dict[str, str | None]:
    """What differs from the template."""
    beside = (path.parent / "repository").absolute().as_uri()
    values: dict[str, str | None] = {
        "postgres.dsn": _dsn(given.postgres),
        "repository.url": given.repository or beside,
    }
    if given.engine == "pgvector":
        values["vectors.engine"] = given.engine
    else:
        values["qdrant.url"] = given.qdrant or DEFAULT_QDRANT
    if os.environ.get(API_KEY_VARIABLE) and given.engine == "qdrant":
        values["qdrant.api_key"] = f"${{env:{API_KEY_VARIABLE}}}"
    if given.endpoint_url:
        values["repository.endpoint_url"] = given.endpoint_url
    if given.no_encryption:
        values |= {"repository.encryption": "none", "repository.passphrase_file": None}
    return values


def _dsn(given: str | None) -> str:
    """A DSN that stands in the environment stays there, password and all."""
    for name in (DSN_VARIABLE, "VBACKUP_INIT_POSTGRES"):
        if given is None or given == os.environ.get(name):
            return f"${{env:{name}}}"
    return given or ""


def _write_new(path: Path, text: str) -> bool:
    """Create a file that only its owner can read; False when there is one already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise Failed(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _generate_passphrase(config: RepositoryConfig, session: Session) -> Path | None:
    """A new passphrase in the configured file, when neither that nor a repository exists."""
    path = config.passphrase_file
    if config.encryption == "none" or path is None or path.exists():
        return None
    if object_store(config, session.clock).stat("vbackup.json") is not None:
        return None
    passphrase = secrets.token_urlsafe(32)
    redact.register(passphrase)
    return path if _write_new(path, passphrase + "\n") else None


def _prepare(
    path: Path, written: bool, config: RepositoryConfig, session: Session, generated: Path | None
) -> Prepared:
    try:
        repository, created = create_repository(config, session.clock), True
    except AlreadyExists:
        repository, created = open_repository(config, session.clock), False
    return Prepared(
        path=path,
        written=written,
        location=repository.store.location,
        repository_id=repository.id,
        encrypted=repository.encrypted,
        created=created,
        passphrase_file=generated,
    )


def _document(prepared: Prepared) -> dict[str, object]:
    return {
        "config": prepared.path,
        "config_written": prepared.written,
        "repository": {
            "id": prepared.repository_id,
            "url": prepared.location,
            "encrypted": prepared.encrypted,
            "created": prepared.created,
        },
        "passphrase_file": prepared.passphrase_file,
    }


def _render(screen: Screen, prepared: Prepared, found: Discovery | None) -> None:
    if found:
        discovered.render(screen, found)
        screen.line()
        if not prepared.written:
            screen.line(discovered.toml(found))
    wrote = "written" if prepared.written else "there already, left as it is"
    made = "created" if prepared.created else "there already, left as it is"
    screen.pairs(
        [
            ("configuration", f"{prepared.path} ({wrote})"),
            ("repository", f"{prepared.location} ({made})"),
            ("encryption", "passphrase" if prepared.encrypted else "none"),
            ("passphrase", prepared.passphrase_file),
        ]
    )
    if prepared.passphrase_file:
        screen.line(
            f"Keep a copy of {prepared.passphrase_file} elsewhere: without it nothing can be read."
        )
    screen.line("next: vbackup check")
