"""One run of `vbackup`: what the shared options say, and what every command needs of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vbackup.clock import SystemClock
from vbackup.errors import Refused, Usage

if TYPE_CHECKING:
    from vbackup.config import Config, RepositoryConfig
    from vbackup.ports import Clock, Reporter, Repository
    from vbackup.settings import Settings


class Session:
    """Collects the shared options wherever they stand, and loads the settings on first use."""

    def __init__(self) -> None:
        self.command = ""
        self.config_path: Path | None = None
        self.repository: str | None = None
        self.passphrase_file: Path | None = None
        self.json = False
        self.quiet = False
        self.verbosity = 0
        self.log_format: Literal["text", "json"] = "text"
        self.emitted = False
        self.clock: Clock = SystemClock()
        self._settings: Settings | None = None
        self._reporter: Reporter | None = None

    def take(self, option: str, value: Any) -> None:
        """Note one shared option; given twice, the one nearer to the end of the line counts."""
        if option == "verbose":
            self.verbosity += value
        elif option == "config":
            self.config_path = value
        else:
            setattr(self, option, value)

    @property
    def settings(self) -> Settings:
        """Raises Usage with every mistake in the file."""
        if self._settings is None:
            self._settings = self._load()
        return self._settings

    def _load(self) -> Settings:
        """From the file, or out of --repository and the environment alone."""
        from vbackup import bare
        from vbackup.settings import load

        if self.repository is None:
            if self.passphrase_file:
                raise Usage(
                    "--passphrase-file goes with --repository",
                    hint="the configured repository's is repository.passphrase_file",
                )
            return load(self.config_path)
        return bare.settings(self.config_path, self.repository, self.passphrase_file)

    @property
    def config(self) -> Config:
        return self.settings.config

    @property
    def state_directory(self) -> Path:
        """Where the daemon keeps its job history: configured, else what systemd's
        StateDirectory= made ($STATE_DIRECTORY), else beside the configuration."""
        made = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        beside = self.settings.path.absolute().parent / "vbackup-state"
        return self.config.schedule.state_dir or (Path(made) if made else beside)

    def reload(self) -> Config:
        """Read the settings again. Raises Usage; the old ones stay then."""
        self._settings = self._load()
        return self._settings.config

    @property
    def repository_config(self) -> RepositoryConfig:
        """Only that section: enough to list, show and verify on any machine. Raises Usage."""
        if self._settings is not None or self.repository is not None:
            return self.settings.config.repository
        from vbackup.settings import load_repository

        return load_repository(self.config_path)

    @property
    def reporter(self) -> Reporter:
        """Bars on a terminal, log lines elsewhere, nothing but warnings with -q."""
        if self._reporter is None:
            from vbackup.wiring import reporter

            self._reporter = reporter(
                self.clock,
                quiet=self.quiet,
                verbosity=self.verbosity,
                log_format=self.log_format,
                terminal=sys.stderr.isatty(),
            )
        return self._reporter

    @contextmanager
    def reading(self, repository: Repository, backup_id: str) -> Iterator[None]:
        """While this backup is read, no prune anywhere removes what it needs. Raises NotFound."""
        from vbackup.wiring import reading

        with reading(repository, backup_id, self.reporter):
            yield

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to answer."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.json

    def confirm(self, question: str, *, given: bool, flag: str = "--yes") -> None:
        """Go on only when the flag was given or a person says so. Raises Refused."""
        if given:
            return
        if not self.interactive:
            raise Refused(f"{question}: needs a confirmation", hint=f"add {flag}")
        if not click.confirm(f"{question}. Go on?", err=True):
            raise Refused(f"{question}: not confirmed")
