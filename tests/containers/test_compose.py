"""deploy/compose as a whole: up, a backup by the schedule, a restart, down."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.engine import configured, is_own
from tests.containers.images import Images
from vbackup.sandbox.loopback import request

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("VBACKUP_TEST_COMPOSE"), reason="minutes: `make containers` runs it"
    ),
]
COMPOSE = Path(__file__).parents[2] / "deploy/compose"
PAGE = "http://127.0.0.1:9187"
IMAGE = "vbackup:0.1.0"
FILL = """
import os, httpx, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("CREATE TABLE documents (id bigint PRIMARY KEY, version bigint)")
    connection.execute("INSERT INTO documents SELECT i, 1 FROM generate_series(1, 100) i")
qdrant = httpx.Client(
    base_url="http://qdrant:6333", headers={"api-key": os.environ["QDRANT_API_KEY"]}, timeout=60
)
body = {"vectors": {"size": 2, "distance": "Dot"}}
qdrant.put("/collections/documents", json=body).raise_for_status()
points = [
    {"id": i, "vector": [i, 1], "payload": {"pg_id": i, "version": 1}} for i in range(1, 101)
]
qdrant.put(
    "/collections/documents/points", params={"wait": "true"}, json={"points": points}
).raise_for_status()
"""


def compose_program() -> list[str]:
    """Docker's plug-in, or the stand-alone program (Debian's package docker-compose)."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("no compose program is here (Debian's package docker-compose)")


@contextlib.contextmanager
def health_checks(host: str, api: Any) -> Iterator[None]:
    """Podman leaves the timing of health checks to systemd, which may not run here."""
    done = threading.Event()

    def check() -> None:
        while not done.wait(1.0):
            for container in api.containers.list():
                command = ["podman", "healthcheck", "run", container.id]
                subprocess.run(command, env=configured(), capture_output=True)

    if not is_own(host):
        yield
        return
    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Stack:
    """The compose project; its containers are found by service."""

    def __init__(self, host: str, directory: Path) -> None:
        self.api = docker.DockerClient(base_url=host, timeout=120)
        self._host = host
        self._directory = directory

    def compose(self, *arguments: str) -> None:
        done = subprocess.run(
            [*compose_program(), *arguments],
            cwd=self._directory,
            env={**os.environ, "DOCKER_HOST": self._host},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def service(self, name: str) -> Any:
        label = f"com.docker.compose.service={name}"
        (container,) = self.api.containers.list(all=True, filters={"label": label})
        return container

    def vbackup(self, *arguments: str) -> dict[str, Any]:
        command = ["vbackup", "--config", "/etc/vbackup/vbackup.toml", "--json", *arguments]
        code, output = self.service("vbackup").exec_run(command, demux=True)
        assert code == 0, output
        document: dict[str, Any] = json.loads(output[0])
        return document

    def healthy(self) -> bool:
        status, body = request(f"{PAGE}/healthz", timeout=5)
        return status == 200 and bool(json.loads(body))


@pytest.fixture
def stack(docker_host: str, images: Images, image: str, tmp_path: Path) -> Iterator[Stack]:
    images.postgres(18)
    images.qdrant("1.17.0")
    images.s3()
    with contextlib.closing(docker.DockerClient(base_url=docker_host)) as api:
        api.images.get(image).tag(*IMAGE.split(":"))
    for path in COMPOSE.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    # The schedule of the test: a backup a minute.
    config = tmp_path / "vbackup.toml"
    config.write_text(config.read_text().replace('"15 * * * *"', '"* * * * *"'))
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    names = ("POSTGRES_PASSWORD", "QDRANT_API_KEY", "S3_KEY_ID", "S3_SECRET", "VBACKUP_PASSPHRASE")
    (tmp_path / ".env").write_text("".join(f"{name}={secrets.token_hex(8)}\n" for name in names))
    stack = Stack(docker_host, tmp_path)
    try:
        with health_checks(docker_host, stack.api):
            yield stack
    finally:
        stack.compose("down", "--volumes")
        stack.api.close()


def test_the_stack_backs_itself_up_and_survives_a_restart(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-build")
    until(stack.healthy, stack)
    assert stack.service("setup").wait()["StatusCode"] == 0
    code, said = stack.service("vbackup").exec_run(["python", "-c", FILL])
    assert code == 0, said
    until(lambda: bool(stack.vbackup("list")["backups"]), stack)
    until(lambda: b'vbackup_last_exit_code{task="backup"} 0.0' in metrics(), stack)
    stack.vbackup("verify", "latest", "--level", "chunks")
    assert stack.vbackup("reconcile")["clean"]
    until(lambda: stack.service("vbackup").attrs["State"]["Health"]["Status"] == "healthy", stack)

    before = stack.vbackup("list")["backups"]
    for name in ("vbackup", "postgres", "qdrant"):
        stack.service(name).restart(timeout=60)
    until(stack.healthy, stack)
    until(lambda: len(stack.vbackup("list")["backups"]) > len(before), stack)
    assert stack.vbackup("reconcile")["clean"]


def metrics() -> bytes:
    return request(f"{PAGE}/metrics", timeout=5)[1]


def until(condition: Callable[[], bool], stack: Stack) -> None:
    deadline, tick = time.monotonic() + 300, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            logs = [
                f"--- {each.name} ({each.status})\n{each.logs(tail=40).decode()}"
                for each in stack.api.containers.list(all=True)
            ]
            pytest.fail("it did not happen\n" + "\n".join(logs))
        tick.wait(0.5)
