"""A container engine for the tests: Podman's Docker-compatible API on a socket of its own.

    python -m tests.containers.engine pytest -m integration

runs that with $DOCKER_HOST set and ends the engine afterwards; one that is set already is used.
Images stay in the cache directory; nothing else does, and no other engine on the machine is
touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vbackup.sandbox.qdrant_binary import cache_dir

_PREFIX = "vbackup-engine-"
_START_TIMEOUT = 60.0


class EngineMissing(Exception):
    """No engine can run here; the message says what stopped it."""


def storage() -> Path:
    return cache_dir() / "containers"


def is_own(host: str) -> bool:
    """Whether that is an engine of `engine`, in which stand-ins for images may be made."""
    return f"/{_PREFIX}" in host


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """The value of DOCKER_HOST while the block runs. Raises EngineMissing.

    Several may run at once, one a test worker: they share the images.
    """
    environment = configured()
    podman = _podman(environment)
    # A socket's path is short (108 bytes); the temp directory of a test may not be.
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir="/tmp") as directory:
        socket = Path(directory) / "engine.sock"
        log = Path(directory) / "engine.log"
        with log.open("wb") as output:
            service = subprocess.Popen(
                # Seconds without a request: one that a killed run left behind ends by itself.
                [podman, "system", "service", "--time", "3600", f"unix://{socket}"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_for(socket, service, log)
            yield f"unix://{socket}"
        finally:
            service.terminate()
            service.wait(timeout=30)


def configured() -> dict[str, str]:
    """The environment in which Podman uses a configuration and a storage of its own."""
    root = storage()
    root.mkdir(parents=True, exist_ok=True)
    quoted = {name: json.dumps(str(root / name)) for name in ("images", "run", "network")}
    (root / "storage.conf").write_text(
        '[storage]\ndriver = "overlay"\n'
        f"graphroot = {quoted['images']}\nrunroot = {quoted['run']}\n"
    )
    (root / "containers.conf").write_text(
        # Podman asks for more than it may have where the limits cannot be raised.
        f"[containers]\ndefault_ulimits = [{', '.join(_limits())}]\n"
        # runc also runs where both versions of cgroups are mounted; crun refuses that.
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        '[network]\nnetwork_backend = "netavark"\n'
        f"network_config_dir = {quoted['network']}\n"
    )
    return {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
        "CONTAINERS_CONF": str(root / "containers.conf"),
    }


def _limits() -> list[str]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 65536 if files == resource.RLIM_INFINITY else min(files, 65536)
    # Podman lowers its own limit of processes to 32768 before it starts the runtime.
    return [f'"nofile={most}:{most}"', '"nproc=16384:16384"']


def _podman(environment: dict[str, str]) -> str:
    for program, package in (("podman", "podman"), ("runc", "runc"), ("netavark", "netavark")):
        if not (shutil.which(program) or Path(f"/usr/lib/podman/{program}").exists()):
            raise EngineMissing(f"{program} is not here (Debian's package {package})")
    if os.geteuid() != 0:
        raise EngineMissing("the tests' engine is started as root only; set DOCKER_HOST to yours")
    podman = str(shutil.which("podman"))
    tried = subprocess.run(
        [podman, "info"], env=environment, capture_output=True, text=True, timeout=60
    )
    if tried.returncode:
        last = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineMissing(f"podman does not run here: {last}")
    return podman


def _wait_for(socket: Path, service: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not socket.exists():
        if service.poll() is not None or time.monotonic() > deadline:
            raise EngineMissing(f"podman's service did not start: {log.read_text()[-500:]}")
        time.sleep(0.05)


def main() -> int:
    if os.environ.get("DOCKER_HOST"):
        return subprocess.run(sys.argv[1:]).returncode
    # As an exception, so that the engine is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with engine() as host:
            return subprocess.run(sys.argv[1:], env={**os.environ, "DOCKER_HOST": host}).returncode
    except EngineMissing as missing:
        print(f"no container engine: {missing}", file=sys.stderr)  # noqa: T201 # a command
        return 1


if __name__ == "__main__":
    sys.exit(main())
