"""`vbackup restore --go-back` and `--drop-old`: what comes after a restore or a switch."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from vbackup import restoring
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.errors import Usage

if TYPE_CHECKING:
    from vbackup.cli.restore import Asked
    from vbackup.cli.screen import Screen
    from vbackup.engine.switch import Switch
    from vbackup.engine.switchstate import StateFile


def command_again(session: Session, asked: Asked) -> str:
    """What a person types, before `--go-back` or `--drop-old`, to reach the same servers."""
    words = ["vbackup"]
    for name, value in (
        ("--config", session.config_path),
        ("--repository", session.repository),
        ("--passphrase-file", session.passphrase_file),
    ):
        words += [name, str(value)] if value else []
    words.append("restore")
    for name, value in (("--postgres", asked.postgres), ("--qdrant", asked.qdrant)):
        words += [name, str(value)] if value else []
    return shlex.join(words)


def after_switch(session: Session, asked: Asked) -> None:
    """Undo a switch, or drop what is not live. Raises Usage for both at once."""
    from vbackup.engine.switchstate import StateFile, SwitchState

    if asked.go_back and asked.drop_old:
        raise Usage("--go-back and --drop-old exclude each other")
    act, path = (_drop_old, asked.drop_old) if asked.drop_old else (_go_back, asked.go_back)
    if path is None:
        raise Usage("neither --go-back nor --drop-old")
    file = StateFile(path, SwitchState.load(path), command_again(session, asked))
    with restoring.switch(
        session.config, session.reporter, session.clock, dsn=asked.postgres, url=asked.qdrant
    ) as switch:
        act(session, switch, file, asked)


def _go_back(session: Session, switch: Switch, file: StateFile, asked: Asked) -> None:
    state = file.state
    switch.may_go_back(state, force=asked.force)
    names = ", ".join(filter(None, [state.database, *state.collections]))
    session.confirm(
        f"this brings back what was live before {state.at:%Y-%m-%d %H:%M} ({names})",
        given=asked.yes,
    )
    switch.go_back(file.note(phase="going back")).save(file.path)
    document = {
        "id": state.backup, "went_back": True, "database": state.database, "state": file.path,
        "drop_old": file.drop_old,
    }  # fmt: skip

    def render(screen: Screen) -> None:
        screen.line(f"{names}: back to what was live before")
        screen.line(f"to drop what the switch left: {file.drop_old}")

    emit(session, document, render)


def _drop_old(session: Session, switch: Switch, file: StateFile, asked: Asked) -> None:
    names = ", ".join(filter(None, switch.to_drop(file.state, force=asked.force)))
    session.confirm(f"this drops {names} for good", given=asked.yes)
    dropped = switch.drop_old(file.state, force=asked.force)
    file.remove()
    document = {"id": file.state.backup, "dropped": dropped, "state": file.path}
    emit(
        session, document, lambda screen: screen.line(f"dropped {', '.join(dropped) or 'nothing'}")
    )
