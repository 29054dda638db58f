"""Test servers in containers, on a real engine: started, used, and nothing left over."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import psycopg
import pytest

from tests.containers.images import Images
from vbackup.errors import Failed
from vbackup.sandbox import containers, control, qdrant_binary
from vbackup.sandbox.docker import docker_answers
from vbackup.sandbox.loopback import request
from vbackup.sandbox.provider import Provider
from vbackup.sandbox.qdrant import QdrantOptions
from vbackup.sandbox.sandbox import Options, throwaway

pytestmark = pytest.mark.integration


@pytest.fixture
def api(chosen_engine: str) -> Iterator[Any]:
    with contextlib.closing(docker.DockerClient(base_url=chosen_engine)) as api:
        yield api


def label() -> str:
    return f"{containers._OWNER}={containers._labels()[containers._OWNER]}"


def ours(api: Any) -> list[str]:
    """Containers and networks of this process."""
    found = api.containers.list(all=True, filters={"label": label()})
    return [each.name for each in [*found, *api.networks.list(filters={"label": label()})]]


def test_postgres_with_pgvector_and_logical_decoding(images: Images, api: Any) -> None:
    images.postgres(16)
    with Provider(containers=True) as provider:
        server = provider.postgres(16)
        assert (server.host, server.major) == ("127.0.0.1", 16)
        with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        assert provider.postgres(16) is server
        (container,) = api.containers.list(filters={"label": label()})
        published = container.attrs["NetworkSettings"]["Ports"]["5432/tcp"]
        assert {each["HostIp"] for each in published} == {"127.0.0.1"}
    assert ours(api) == []


def test_a_qdrant_cluster_finds_itself(images: Images, api: Any) -> None:
    images.qdrant("1.17.0")
    with Provider(containers=True) as provider:
        server = provider.qdrant("1.17.0", nodes=2, api_key=True)
        key = {"api-key": server.api_key or ""}
        assert request(f"{server.url}/collections")[0] == 401
        found = json.loads(request(f"{server.urls[1]}/cluster", headers=key)[1])["result"]
        assert len(found["peers"]) == 2
    assert ours(api) == []


def test_programs_are_taken_where_the_image_cannot_be_had(
    images: Images, chosen_engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert docker_answers()
    monkeypatch.setattr(containers, "_POSTGRES_IMAGE", "nobody.invalid/postgres:{major}")
    with Provider() as provider:
        assert provider.postgres(16).data_dir, "a program of this machine, not a container"
    with (
        Provider(containers=True) as insisting,
        pytest.raises(Failed, match=r"docker pull nobody\.invalid/postgres:16 failed"),
    ):
        insisting.postgres(16)


def test_a_sandbox_runs_qdrant_from_its_image_where_no_program_can_be_had(
    images: Images, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.qdrant("1.17.0")
    monkeypatch.delenv(qdrant_binary.ENVIRONMENT, raising=False)
    monkeypatch.setattr(qdrant_binary, "RELEASES", {})
    options = Options(postgres=None, qdrant=QdrantOptions(memory_limit=1 << 30), s3=False)
    with throwaway(options, tmp_path / "s") as sandbox:
        (running,) = sandbox.state.processes
        name = running.launch.container
        limit = api.containers.get(name).attrs["HostConfig"]["Memory"]
        assert (running.launch.argv[0].endswith("docker"), limit) == (True, 1 << 30)
        url = f"{sandbox.qdrant.url}/collections/kept"
        body = json.dumps({"vectors": {"size": 2, "distance": "Dot"}}).encode()
        headers = {"Content-Type": "application/json"}
        assert request(url, method="PUT", body=body, headers=headers, timeout=60)[0] == 200
        control.kill(sandbox, "qdrant-1")
        control.restart(sandbox, "qdrant-1")
        assert request(url, timeout=10)[0] == 200, "same data, same port"
    assert name not in [each.name for each in api.containers.list(all=True)]


def test_what_a_killed_run_left_is_swept(images: Images, api: Any) -> None:
    images.qdrant("1.17.0")
    dying = (
        "import os, signal\n"
        "from vbackup.sandbox.containers import qdrant_containers\n"
        "with qdrant_containers('1.17.0') as server:\n"
        "    print(os.getpid(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", dying], env=os.environ, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    owner = f"{int(done.stdout)} "

    def left() -> int:
        found = api.containers.list(all=True, filters={"label": containers._OWNER})
        return sum(each.labels[containers._OWNER].startswith(owner) for each in found)

    assert left() == 1
    containers.sweep_containers()
    assert left() == 0
