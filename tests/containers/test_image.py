"""The project's image as an operator runs it: no root, no capabilities, a read-only root."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import psycopg
import pytest

from vbackup.sandbox.loopback import free_ports, request
from vbackup.sandbox.servers import PostgresServer, QdrantServer

pytestmark = pytest.mark.integration
ACCOUNT = 10001
ROWS = 50

Run = Callable[..., tuple[int, str, str]]


class Deployed:
    """A directory with configuration, secrets and repository, as it is mounted into containers."""

    def __init__(self, host: str, image: str, directory: Path) -> None:
        self._image = image
        self.api = docker.DockerClient(base_url=host, timeout=120)
        directory.mkdir()
        self.config = directory / "config"
        self.secrets = directory / "secrets"
        self.data = directory / "data"
        for each in (self.config, self.secrets, self.data):
            each.mkdir()
        # The engine may map accounts; what matters is that the image's own can get there.
        self.data.chmod(0o777)
        directory.chmod(0o755)
        self._started: list[Any] = []

    def start(self, *arguments: str, **environment: str) -> Any:
        container = self.api.containers.create(
            self._image,
            ["--config", "/etc/vbackup/vbackup.toml", *arguments],
            environment=environment,
            network_mode="host",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            volumes={
                str(self.config): {"bind": "/etc/vbackup", "mode": "ro"},
                str(self.secrets): {"bind": "/run/secrets", "mode": "ro"},
                str(self.data): {"bind": "/data", "mode": "rw"},
            },
        )
        self._started.append(container)
        container.start()
        return container

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        return self.ended(self.start(*arguments, **environment))

    def ended(self, container: Any) -> tuple[int, str, str]:
        code = int(container.wait()["StatusCode"])
        out, err = (container.logs(stdout=not e, stderr=e).decode() for e in (False, True))
        return code, out, err

    def close(self) -> None:
        for container in self._started:
            container.remove(force=True, v=True)
        self.api.close()


@pytest.fixture
def deployed(docker_host: str, image: str, tmp_path: Path) -> Iterator[Deployed]:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    with contextlib.closing(
        Deployed(docker_host, image, tmp_path / "deployed-vbackup")
    ) as deployed:
        yield deployed


@pytest.fixture
def pair(
    deployed: Deployed,
    postgres_server: PostgresServer,
    qdrant_server: QdrantServer,
    database: str,
    collection_prefix: str,
) -> str:
    """Rows and points that agree, and the configuration; returns the collection's name."""
    name = f"{collection_prefix}documents"
    with psycopg.connect(database) as connection:
        connection.execute(
            "CREATE TABLE documents (id bigint PRIMARY KEY, version bigint, body text)"
        )
        connection.execute(
            "INSERT INTO documents SELECT i, 1, 'text ' || i FROM generate_series(1, %s) i", (ROWS,)
        )
    with httpx.Client(base_url=qdrant_server.url, timeout=60) as qdrant:
        vectors = {"vectors": {"size": 4, "distance": "Dot"}}
        qdrant.put(f"/collections/{name}", json=vectors).raise_for_status()
        points = [
            {"id": i, "vector": [i, 1, 2, 3], "payload": {"pg_id": i, "version": 1}}
            for i in range(1, ROWS + 1)
        ]
        qdrant.put(
            f"/collections/{name}/points", params={"wait": "true"}, json={"points": points}
        ).raise_for_status()
    (deployed.secrets / "passphrase").write_text("correct horse\n")
    (deployed.config / "vbackup.toml").write_text(
        f"""
[postgres]
dsn = "${{env:DATABASE_URL}}"
[qdrant]
url = "{qdrant_server.url}"
collections = ["{name}"]
[repository]
url = "file:///data/repository"
passphrase = "${{file:/run/secrets/passphrase}}"
[watermark]
max_index_lag = "1s"
[schedule]
backup = "0 0 1 1 *"
listen = "127.0.0.1:{free_ports(1)[0]}"
state_dir = "/data/state"
stop_grace = "1s"
[[link]]
name = "documents"
collection = "{name}"
rows = [{{ table = "public.documents", key = "id", version = "version" }}]
point = {{ ref = "payload:pg_id", version = "payload:version" }}
"""
    )
    return name


def test_it_says_its_version_and_is_nobody_special(image: str, deployed: Deployed) -> None:
    code, out, _ = deployed.run("--version")
    assert (code, out.split()[0]) == (0, "vbackup")
    config = deployed.api.images.get(image).attrs["Config"]
    assert config["User"] == f"{ACCOUNT}:{ACCOUNT}"
    who = deployed.api.containers.run(image, ["-c", "id"], entrypoint="sh", remove=True)
    assert who.decode().split() == [
        f"uid={ACCOUNT}(vbackup)", f"gid={ACCOUNT}(vbackup)", f"groups={ACCOUNT}(vbackup)"
    ]  # fmt: skip


def test_a_pair_goes_into_the_repository_and_back(
    deployed: Deployed, pair: str, database: str, qdrant_server: QdrantServer
) -> None:
    secret = {"DATABASE_URL": database}

    def json_of(*arguments: str) -> dict[str, Any]:
        code, out, err = deployed.run("--json", *arguments, **secret)
        assert code == 0, out + err
        document: dict[str, Any] = json.loads(out)
        return document

    json_of("init")
    json_of("check")
    backup = json_of("backup")
    assert backup["patch"]["reembed"] == 0
    json_of("verify", "--level", "chunks")
    restored = json_of("restore", "--database", f"{database.rpartition('/')[2]}_back")
    (link,) = restored["reconcile"]["links"]
    assert (link["rows"], link["points"]) == (ROWS, ROWS)
    assert restored["reconcile"]["clean"]
    (copy,) = restored["collections"].values()
    httpx.delete(f"{qdrant_server.url}/collections/{copy}").raise_for_status()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{restored["database"]}"')


def test_the_daemon_serves_and_ends_when_it_is_stopped(
    deployed: Deployed, pair: str, database: str
) -> None:
    assert deployed.run("init", DATABASE_URL=database)[0] == 0
    daemon = deployed.start("--log-format", "json", "schedule", DATABASE_URL=database)
    listen = (deployed.config / "vbackup.toml").read_text().split('listen = "')[1].split('"')[0]
    until(lambda: request(f"http://{listen}/healthz")[0] == 200, daemon)
    assert b"vbackup_info" in request(f"http://{listen}/metrics")[1]
    daemon.stop(timeout=60)
    code, _, err = deployed.ended(daemon)
    assert code == 0, err
    assert all(json.loads(line) for line in err.splitlines())


def test_a_stopped_backup_ends_as_an_interrupted_one(
    deployed: Deployed, pair: str, database: str
) -> None:
    assert deployed.run("init", DATABASE_URL=database)[0] == 0
    with psycopg.connect(database) as blocker, psycopg.connect(database, autocommit=True) as look:
        blocker.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
        backup = deployed.start("backup", DATABASE_URL=database)
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'documents'::regclass"
        )
        until(lambda: look.execute(waiting).fetchone() != (0,), backup)
        backup.stop(timeout=60)
        code, _, err = deployed.ended(backup)
    assert code == 130, err
    code, out, _ = deployed.run("--json", "list", DATABASE_URL=database)
    assert (code, json.loads(out)["backups"]) == (0, [])


def until(condition: Callable[[], bool], container: Any) -> None:
    deadline, tick = time.monotonic() + 120, threading.Event()
    while not condition():
        container.reload()
        if container.status == "exited" or time.monotonic() > deadline:
            pytest.fail(f"it did not happen; {container.status}\n{container.logs().decode()}")
        tick.wait(0.1)
