"""Servers in containers that live and die with a docker client process of the sandbox.

The client runs in the foreground: it is started, watched, logged and stopped like any server
program, passes signals on, and `--rm` removes the container. Only a client that was killed
leaves its container behind; `remove` is for that.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from vbackup.errors import Failed, NotFound

_PULL_TIMEOUT = 900.0


@functools.cache
def docker_answers() -> bool:
    """Whether `docker info` succeeds: a client alone is no engine."""
    docker = shutil.which("docker")
    return docker is not None and _run(docker, "info", timeout=20.0) == ""


def need_image(image: str) -> Path:
    """The docker client, once the image is here. Raises NotFound, Failed."""
    docker = shutil.which("docker")
    if docker is None or not docker_answers():
        raise NotFound(f"no Docker engine answers that could run {image}", hint="docker info")
    trouble = lacks_image(image)
    if trouble:
        raise Failed(trouble, hint=f"docker pull {image}", retryable=True)
    return Path(docker)


@functools.cache
def lacks_image(image: str) -> str:
    """Empty once the image is here, pulled if need be; else why it cannot be had.

    Asked once: a registry that nobody reaches is not tried for every server again.
    """
    docker = shutil.which("docker") or "docker"
    if not _run(docker, "image", "inspect", image, timeout=60.0):
        return ""
    trouble = _run(docker, "pull", image, timeout=_PULL_TIMEOUT)
    return f"docker pull {image} failed: {trouble}" if trouble else ""


def foreground(
    docker: Path, image: str, name: str, directory: Path, memory_limit: int
) -> list[str]:
    """The command line that runs the image's program (to be appended) as this user.

    It shares this machine's network and, under the same path, `directory`.
    """
    command = [str(docker), "run", "--rm", "--name", name, "--network", "host"]
    command += ["--user", f"{os.geteuid()}:{os.getegid()}", "--workdir", str(directory)]
    command += ["--volume", f"{directory}:{directory}"]
    if memory_limit:
        command += ["--memory", str(memory_limit)]
    return [*command, image]


def remove(name: str) -> None:
    """Remove a container whose client was killed; it may be gone."""
    docker = shutil.which("docker")
    if docker:
        _run(docker, "rm", "--force", name, timeout=60.0)


def environment() -> dict[str, str]:
    """What the client needs to find its engine."""
    return {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}


def _run(docker: str, *arguments: str, timeout: float) -> str:
    """Empty when it succeeded, else the last line of what it said."""
    try:
        done = subprocess.run([docker, *arguments], capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""
