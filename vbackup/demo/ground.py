"""Where the demo plays: a sandbox, its configuration file, and the application on it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vbackup.config import Config
from vbackup.demo.application import Application
from vbackup.demo.scenario import Scenario
from vbackup.demo.usual_script import UsualScript
from vbackup.ports import Reporter
from vbackup.sandbox.config_text import CONFIG_FILE, config_toml, write_client_files
from vbackup.sandbox.ledger import write_private
from vbackup.sandbox.sandbox import Options, Sandbox, down, new_directory, throwaway, up
from vbackup.settings import load

NAME = "manual"

_WATERMARK = """
[watermark]
# The lag is known here: the application never lets a point follow its row later than this.
lead_in = "{lag:g}s"
max_index_lag = "{lag:g}s"
work_dir = {work}
"""
_LINK = """
[[link]]
name = "chunks"
collection = "{name}"
point = {{ ref = "id", version = "payload:version" }}

[[link.rows]]
table = "public.chunks"
key = "id"
version = "version"
live = "status = 'published'"
"""
_VECTORS = """
[vectors]
engine = "pgvector"

[[link]]
name = "chunks"
rows = [
    {{ table = "public.chunks", key = "id", version = "version", live = "status = 'published'" }},
]
vectors = {{ column = "embedding", version = "embedded_version", dimensions = {dimensions} }}
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """Servers that are up, and what the story needs of them."""

    sandbox: Sandbox

    @property
    def config_file(self) -> Path:
        return self.sandbox.directory / CONFIG_FILE

    @property
    def name(self) -> str:
        """The application's database and its collection."""
        return NAME

    @property
    def repository_url(self) -> str:
        return self.sandbox.repository_url

    def application(self, scenario: Scenario) -> Application:
        server = self.sandbox.postgres.admin_dsn
        if scenario.engine == "pgvector":
            return Application(server, "", NAME, scenario)
        qdrant = self.sandbox.qdrant
        return Application(server, qdrant.url, NAME, scenario, api_key=qdrant.api_key or "")

    def usual_script(self, application: Application) -> UsualScript:
        server = self.sandbox.postgres
        directory = self.sandbox.directory / "usual-script"
        return UsualScript(application, server.admin_dsn, server.bin_dir, directory)

    def configure(self, scenario: Scenario) -> Config:
        """Write `vbackup.toml` with an encrypted repository, once, and read it."""
        if not (passphrase := self.sandbox.directory / "passphrase").exists():
            write_client_files(self.sandbox)
            write_private(passphrase, secrets.token_urlsafe(24) + "\n")
            text = config_toml(self.sandbox, database=NAME, passphrase_file=passphrase)
            # A JSON string is a TOML string.
            work = json.dumps(str(self.sandbox.directory / "work"))
            mark = _WATERMARK.format(lag=scenario.lag.slow + 0.2, work=work)
            link = _VECTORS if scenario.engine == "pgvector" else _LINK
            link = link.format(name=NAME, dimensions=scenario.dimensions)
            write_private(self.config_file, text + mark + link)
        return load(self.config_file).config


@contextmanager
def prepared(
    options: Options, directory: Path | None, reporter: Reporter, *, keep: bool
) -> Iterator[Ground]:
    """Servers for the length of a block. With `keep` they outlive it, unless it fails."""
    if not keep:
        with throwaway(options, directory, reporter=reporter) as sandbox:
            yield Ground(sandbox)
        return
    place = directory or new_directory()
    try:
        yield Ground(up(place, options, reporter=reporter))
    except BaseException:
        down(place)
        raise
