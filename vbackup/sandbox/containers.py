"""The same servers as containers, where a Docker engine answers (testcontainers)."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from vbackup.errors import Failed
from vbackup.sandbox.loopback import request
from vbackup.sandbox.postgres import USER
from vbackup.sandbox.postgres_binaries import client_tools
from vbackup.sandbox.qdrant_binary import qdrant_image
from vbackup.sandbox.servers import PostgresServer, QdrantServer

_POSTGRES_IMAGE = "pgvector/pgvector:pg{major}"
_SETTINGS = ("fsync=off", "full_page_writes=off", "max_prepared_transactions=20")
_READY_TIMEOUT = 120.0


@contextlib.contextmanager
def postgres_container(major: int, *, logical: bool = True) -> Iterator[PostgresServer]:
    """PostgreSQL with pgvector for the length of a block. Raises Failed."""
    password = secrets.token_urlsafe(18)
    container = _container(_POSTGRES_IMAGE.format(major=major))
    container.with_env("POSTGRES_USER", USER).with_env("POSTGRES_PASSWORD", password)
    container.with_exposed_ports(5432)
    settings = (*_SETTINGS, f"wal_level={'logical' if logical else 'replica'}")
    container.with_command(" ".join(f"-c {setting}" for setting in settings))
    with _running(container, f"PostgreSQL {major}"):
        # Over TCP: the image's set-up phase already answers on its socket, then restarts.
        ask = ["pg_isready", "-q", "-h", "127.0.0.1"]
        _wait(lambda: container.exec(ask).exit_code == 0, f"PostgreSQL {major}")
        said = container.exec(["postgres", "--version"]).output.decode()
        yield PostgresServer(
            container.get_container_host_ip(),
            int(container.get_exposed_port(5432)),
            USER,
            password,
            version=said.split("(PostgreSQL)")[1].split()[0],
            bin_dir=client_tools(major),
            logical=logical,
        )


@contextlib.contextmanager
def qdrant_containers(
    version: str, nodes: int = 1, *, cluster: bool = False, api_key: str | None = None
) -> Iterator[QdrantServer]:
    """One Qdrant node, or a cluster of them on a network of its own. Raises Failed."""
    from testcontainers.core.network import Network

    clustered = cluster or nodes > 1
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        urls: list[str] = []
        for number in range(1, nodes + 1):
            container = _qdrant_node(version, number, network, clustered, api_key)
            stack.enter_context(_running(container, f"Qdrant {version}"))
            address = container.get_container_host_ip()
            urls.append(f"http://{address}:{container.get_exposed_port(6333)}")
            _wait(_answers(urls[-1]), f"Qdrant {version}")
        yield QdrantServer(tuple(urls), version, api_key, clustered)


def _qdrant_node(
    version: str, number: int, network: object, clustered: bool, api_key: str | None
) -> Any:
    container = _container(qdrant_image(version))
    container.with_exposed_ports(6333).with_network(network)
    container.with_network_aliases(f"qdrant-{number}")
    container.with_env("QDRANT__TELEMETRY_DISABLED", "true")
    if api_key:
        container.with_env("QDRANT__SERVICE__API_KEY", api_key)
    if clustered:
        container.with_env("QDRANT__CLUSTER__ENABLED", "true")
        command = f"./qdrant --uri http://qdrant-{number}:6335"
        container.with_command(
            command + (" --bootstrap http://qdrant-1:6335" if number > 1 else "")
        )
    return container


def _answers(url: str) -> Callable[[], bool]:
    return lambda: request(f"{url}/readyz")[0] == 200


def _container(image: str) -> Any:
    from testcontainers.core.container import DockerContainer

    return DockerContainer(image)


@contextlib.contextmanager
def _running(container: Any, name: str) -> Iterator[None]:
    from docker.errors import DockerException  # type: ignore[import-untyped]

    try:
        container.start()
    except DockerException as error:
        raise Failed(
            f"the container of {name} ({container.image}) did not start: {error}",
            hint="docker info; VBACKUP_TEST_CONTAINERS=never uses programs of this machine",
        ) from error
    try:
        yield
    finally:
        container.stop()


def _wait(ready: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"the container of {name} was not ready in {_READY_TIMEOUT:.0f} s")
        time.sleep(0.1)
