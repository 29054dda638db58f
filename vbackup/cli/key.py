"""`vbackup key`: add, list and remove passphrases of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vbackup import redact
from vbackup.cli import options
from vbackup.cli.output import emit
from vbackup.cli.screen import Screen
from vbackup.cli.session import Session
from vbackup.errors import Refused, Usage
from vbackup.passphrase import from_command, from_file
from vbackup.wiring import open_repository

if TYPE_CHECKING:
    from vbackup.repository.keys import KeySlot
    from vbackup.repository.repository import Repository

MIN_LENGTH = 8


@options.group("key", short_help="Add, list and remove passphrases of the repository.")
def command() -> None:
    """Passphrases of the repository: any one of them opens everything.

    Adding or removing one never rewrites backups.
    """


@command.command("add")
@click.option(
    "--passphrase-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="The new passphrase: the first line of this file.",
)
@click.option("--passphrase-command", metavar="COMMAND", help="Or the first line it prints.")
@click.option("--label", default="", metavar="TEXT", help="Whose it is, for `key list`.")
@options.pass_session
def add(
    session: Session, passphrase_file: Path | None, passphrase_command: str | None, label: str
) -> None:
    """Add a passphrase; without an option it is asked for on the terminal."""
    repository = open_repository(session.repository_config, session.clock)
    passphrase = _new_passphrase(session, passphrase_file, passphrase_command)
    slot = repository.add_passphrase(passphrase, label)
    document = {"action": "add", "key": _entry(slot, repository)}
    emit(session, document, lambda screen: screen.line(f"added key {slot.id}"))


@command.command("list")
@options.pass_session
def list_keys(session: Session) -> None:
    """List the passphrases by their ids; the one in use is marked."""
    repository = open_repository(session.repository_config, session.clock)
    document = {
        "action": "list",
        "encrypted": repository.encrypted,
        "keys": [_entry(slot, repository) for slot in repository.slots()],
    }
    emit(session, document, lambda screen: _render(screen, repository))


@command.command("remove")
@click.argument("key", metavar="KEY")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.pass_session
def remove(session: Session, key: str, yes: bool) -> None:
    """Remove a passphrase by its id. The last one stays."""
    repository = open_repository(session.repository_config, session.clock)
    if key == repository.opened_by:
        question = f"{key} is the passphrase in use here: this configuration will not open it again"
        session.confirm(question, given=yes)
    repository.remove_passphrase(key)
    document = {"action": "remove", "key": {"id": key}}
    emit(session, document, lambda screen: screen.line(f"removed key {key}"))


def _new_passphrase(session: Session, file: Path | None, program: str | None) -> str:
    if file and program:
        raise Usage("--passphrase-file and --passphrase-command exclude each other")
    if file:
        passphrase = from_file(file)
    elif program:
        passphrase = from_command(program)
    elif session.interactive:
        passphrase = click.prompt(
            "New passphrase", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        raise Refused(
            "a new passphrase is needed and nobody is there to ask", hint="add --passphrase-file"
        )
    if len(passphrase) < MIN_LENGTH:
        raise Refused(f"the passphrase has fewer than {MIN_LENGTH} characters")
    redact.register(passphrase)
    return passphrase


def _entry(slot: KeySlot, repository: Repository) -> dict[str, object]:
    return {
        "id": slot.id,
        "label": slot.label,
        "created_at": slot.created_at,
        "in_use": slot.id == repository.opened_by,
    }


def _render(screen: Screen, repository: Repository) -> None:
    if not repository.encrypted:
        screen.line("the repository is not encrypted: it has no passphrases")
        return
    rows = [
        (slot.id, slot.label, screen.moment(slot.created_at), _mark(slot, repository))
        for slot in repository.slots()
    ]
    screen.table(("KEY", "LABEL", "ADDED", ""), rows)


def _mark(slot: KeySlot, repository: Repository) -> str:
    return "in use" if slot.id == repository.opened_by else ""
