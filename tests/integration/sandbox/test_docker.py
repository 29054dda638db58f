"""Qdrant through Docker, where no program can be had; the engine is played by a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbackup.errors import Failed, NotFound
from vbackup.sandbox import control, docker, qdrant_binary
from vbackup.sandbox.loopback import request
from vbackup.sandbox.qdrant import QdrantOptions
from vbackup.sandbox.qdrant_binary import find_qdrant
from vbackup.sandbox.sandbox import Options, throwaway, up

pytestmark = pytest.mark.integration

# Plays `docker run`: everything after the image's own program goes to a real Qdrant.
SCRIPT = """#!/bin/sh
echo "$@" >> {calls}
case "$1" in
  info) exit 0;;
  image) [ -e {image} ] || exit 1;;
  pull) touch {image};;
  rm) exit 0;;
  run)
    while [ "$1" != /qdrant/qdrant ]; do shift; done
    shift
    exec {qdrant} "$@";;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    real = find_qdrant("1.17.0").path
    tools = tmp_path / "tools"
    tools.mkdir()
    calls = tmp_path / "calls"
    script = SCRIPT.format(calls=calls, image=tmp_path / "image", qdrant=real)
    (tools / "docker").write_text(script)
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.delenv(qdrant_binary.ENVIRONMENT, raising=False)
    monkeypatch.setattr(qdrant_binary, "RELEASES", {})
    for cached in (docker.docker_answers, docker.lacks_image):
        cached.cache_clear()
    yield calls
    for cached in (docker.docker_answers, docker.lacks_image):
        cached.cache_clear()


def test_it_is_the_last_resort_and_pulls_once(calls: Path) -> None:
    found = find_qdrant()
    assert (found.image, found.path.name) == ("qdrant/qdrant:v1.17.0", "docker")
    find_qdrant()
    assert calls.read_text().count("pull qdrant/qdrant:v1.17.0") == 1


def test_a_container_is_a_server_like_any_other(calls: Path, tmp_path: Path) -> None:
    options = Options(postgres=None, qdrant=QdrantOptions(memory_limit=1 << 30), s3=False)
    with throwaway(options, tmp_path / "s") as sandbox:
        server = sandbox.qdrant
        assert json.loads(request(server.url)[1])["version"] == "1.17.0"
        (running,) = sandbox.state.processes
        name = running.launch.container
        asked = next(line for line in calls.read_text().splitlines() if line.startswith("run"))
        assert f"--rm --name {name} --network host" in asked
        assert f"--memory {1 << 30}" in asked
        assert f"--volume {tmp_path}/s/qdrant-1:{tmp_path}/s/qdrant-1" in asked
        control.kill(sandbox, "qdrant-1")
        assert f"rm --force {name}" in calls.read_text()
        control.restart(sandbox, "qdrant-1")
        assert request(f"{server.url}/readyz")[0] == 200
    assert calls.read_text().splitlines()[-1] == f"rm --force {name}"


def test_no_network_for_the_image_is_said(calls: Path, tmp_path: Path) -> None:
    client = tmp_path / "tools" / "docker"
    client.write_text('#!/bin/sh\n[ "$1" = info ] && exit\necho no route to hub >&2\nexit 1\n')
    with pytest.raises(Failed, match=r"docker pull qdrant/qdrant:v1\.17\.0 failed: no route"):
        up(tmp_path / "s", Options(postgres=None, s3=False))


def test_without_an_engine_the_first_reason_is_told(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "tools" / "docker").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(NotFound, match=r"Qdrant 1\.17\.0 is not known here") as caught:
        find_qdrant()
    assert "--qdrant-bin" in caught.value.hint
    assert "Docker" in caught.value.hint
