"""What a restore creates and a switch changes, in a file that outlives the process.

It is written before anything is created, and again at every step. So whatever was killed when:
the file says what is there and which way leads on, `--drop-old` as long as nothing live was
touched, `--go-back` from then on.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from vbackup.errors import NotFound, Refused, Usage, VbackupError

Phase = Literal[
    "restoring",  # beside the live pair; nothing live is touched
    "restored",  # that came to its end
    "keeping",  # live collections are copied aside; nothing live is touched
    "switching",  # the live pair is being replaced
    "switched",
    "going back",
    "went back",
]
BESIDE: tuple[Phase, ...] = ("restoring", "restored", "keeping")
HALF_WAY: tuple[Phase, ...] = ("switching", "going back")


@dataclass(frozen=True, slots=True)
class SwitchState:
    """What was created beside the live pair, and what a switch changes.

    `restored_database` and `beside` are what the backup was restored into. `collections` maps
    live names to where their old points are kept, None where there was no such collection
    before; `kept_database` is None when there was no live database. `aliases` are those of the
    live collections, which go where one of them is dropped and created anew. `postgres` and
    `qdrant` are the servers all of it is on."""

    backup: str
    at: datetime
    phase: Phase = "switched"
    database: str | None = None
    kept_database: str | None = None
    restored_database: str | None = None
    collections: dict[str, str | None] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    postgres: str = ""
    qdrant: str = ""

    @property
    def copies(self) -> tuple[str, ...]:
        """The collections that are not live."""
        return (*(kept for kept in self.collections.values() if kept), *self.beside)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"
        half = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with half.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        except OSError:
            half.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> SwitchState:
        """Raises NotFound, Usage."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError as error:
            raise NotFound(
                f"no switch state at {path}",
                hint="a restore prints where it put the file, beside the configuration",
            ) from error
        except OSError as error:
            raise Usage(f"{path} cannot be read: {error.strerror}") from error
        except msgspec.MsgspecError as error:
            raise Usage(f"{path} is not a switch state: {error}") from error


@dataclass(slots=True)
class StateFile:
    """A state and where it is kept. `command` is what a person types before the options that
    come after a restore, the configuration included."""

    path: Path
    state: SwitchState
    command: str = "vbackup restore"

    @classmethod
    def begin(cls, directory: Path, state: SwitchState, command: str) -> StateFile:
        """Raises Refused where it cannot be written: nothing was created yet."""
        word = "switch" if state.database or state.collections else "restore"
        stem = f"vbackup-{word}-{state.at:%Y%m%dT%H%M%S}"
        path, number = directory / f"{stem}.json", 1
        while path.exists():
            number += 1
            path = directory / f"{stem}-{number}.json"
        try:
            state.save(path)
        except OSError as error:
            raise Refused(
                f"{path} cannot be written: {error.strerror}",
                hint="the file says how to go back: name a configuration in a folder that can be"
                " written",
            ) from error
        return cls(path, state, command)

    def note(self, **changes: Any) -> SwitchState:
        """Keep what has changed."""
        self.state = replace(self.state, **changes)
        self.state.save(self.path)
        return self.state

    def remove(self) -> None:
        """There is nothing left that it could name."""
        self.path.unlink(missing_ok=True)

    @property
    def go_back(self) -> str:
        """The command that undoes the switch."""
        return f"{self.command} --go-back {shlex.quote(str(self.path))} --yes"

    @property
    def drop_old(self) -> str:
        """The command that drops what is not live."""
        return f"{self.command} --drop-old {shlex.quote(str(self.path))} --yes"


def left_by_restores(directory: Path, names: Iterable[str]) -> Iterator[Path]:
    """State files of restores that made databases or collections of these names, and of which
    nothing is live."""
    wanted = set(names)
    for path in sorted(
        (*directory.glob("vbackup-restore-*.json"), *directory.glob("vbackup-switch-*.json"))
    ):
        try:
            state = SwitchState.load(path)
        except VbackupError:
            continue
        if state.phase in BESIDE and wanted & {state.restored_database, *state.beside}:
            yield path
