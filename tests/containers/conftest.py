"""A real container engine for these tests: $DOCKER_HOST, or Podman on a socket of its own.

Stand-ins for images are made in our own engine only; yours pulls the real ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import EngineMissing, engine, is_own, storage
from tests.containers.images import Images
from vbackup.sandbox.docker import docker_answers, lacks_image


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Where the engine listens; it is there or the test is left out with the reason."""
    given = os.environ.get("DOCKER_HOST")
    if os.environ.get("VBACKUP_TEST_CONTAINERS") == "never":
        pytest.skip("VBACKUP_TEST_CONTAINERS=never")
    with contextlib.ExitStack() as stack:
        try:
            yield given or stack.enter_context(engine())
        except EngineMissing as missing:
            pytest.skip(f"no container engine: {missing}")


@pytest.fixture(scope="session")
def images(docker_host: str) -> Iterator[Images]:
    """Pulled, or made, when they are asked for."""
    own = is_own(docker_host)
    with contextlib.closing(Images(docker_host, storage(), stand_ins=own)) as images:
        try:
            images.probe()
        except EngineMissing as missing:
            pytest.skip(f"no container engine: {missing}")
        yield images


@pytest.fixture(scope="session")
def image(images: Images) -> str:
    """The project's image, built from the checkout; only what changed since the last time."""
    return images.project(Path(__file__).parents[2])


@pytest.fixture
def chosen_engine(docker_host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The sandbox finds the engine as a person would point it there: in $DOCKER_HOST."""
    if shutil.which("docker") is None:
        pytest.skip("no docker client is here: the sandbox would not look for an engine")
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    for cached in (docker_answers, lacks_image):
        cached.cache_clear()
    yield docker_host
    for cached in (docker_answers, lacks_image):
        cached.cache_clear()
