"""`vbackup restore --go-back` and `--drop-old`: what comes after a switch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vbackup import wiring
from vbackup.cli.output import emit
from vbackup.cli.session import Session
from vbackup.errors import Usage

if TYPE_CHECKING:
    from vbackup.cli.restore import Asked
    from vbackup.engine.switch import Switch, SwitchState


def run(session: Session, asked: Asked) -> None:
    """Undo a switch, or drop what it kept. Raises Usage for both at once."""
    from vbackup.engine.switch import SwitchState

    if asked.go_back and asked.drop_old:
        raise Usage("--go-back and --drop-old exclude each other")
    act, path = (_drop_old, asked.drop_old) if asked.drop_old else (_go_back, asked.go_back)
    if path is None:
        raise Usage("neither --go-back nor --drop-old")
    state = SwitchState.load(path)
    with wiring.switch(
        session.config, session.reporter, session.clock, dsn=asked.postgres, url=asked.qdrant
    ) as switch:
        act(session, switch, state, path, asked.yes)


def _go_back(session: Session, switch: Switch, state: SwitchState, path: Path, yes: bool) -> None:
    names = ", ".join(filter(None, [state.database, *state.collections]))
    session.confirm(
        f"this brings back what was live before {state.at:%Y-%m-%d %H:%M} ({names})", given=yes
    )
    switch.go_back(state).save(path)
    document = {"id": state.backup, "went_back": True, "database": state.database, "state": path}
    emit(session, document, lambda screen: screen.line(f"{names}: back to what was live before"))


def _drop_old(session: Session, switch: Switch, state: SwitchState, path: Path, yes: bool) -> None:
    kept = [state.kept_database, *state.collections.values()]
    names = ", ".join(name for name in kept if name)
    session.confirm(f"this drops {names} for good", given=yes)
    dropped = switch.drop_old(state)
    path.unlink(missing_ok=True)
    document = {"id": state.backup, "dropped": dropped, "state": path}
    emit(
        session, document, lambda screen: screen.line(f"dropped {', '.join(dropped) or 'nothing'}")
    )
