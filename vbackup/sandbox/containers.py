"""The same servers as containers, where a Docker engine answers (testcontainers)."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from vbackup.errors import Failed
from vbackup.sandbox.ledger import Owner, this_process
from vbackup.sandbox.loopback import HOST, request
from vbackup.sandbox.postgres import USER
from vbackup.sandbox.postgres_binaries import client_tools
from vbackup.sandbox.qdrant_binary import qdrant_image
from vbackup.sandbox.servers import PostgresServer, QdrantServer

_POSTGRES_IMAGE = "pgvector/pgvector:pg{major}"
_SETTINGS = ("fsync=off", "full_page_writes=off", "max_prepared_transactions=20")
_READY_TIMEOUT = 120.0
_OWNER = "vbackup.sandbox.owner"
_HINT = "docker info; VBACKUP_TEST_CONTAINERS=never uses programs of this machine"


def postgres_image(major: int) -> str:
    return _POSTGRES_IMAGE.format(major=major)


@contextlib.contextmanager
def postgres_container(major: int, *, logical: bool = True) -> Iterator[PostgresServer]:
    """PostgreSQL with pgvector for the length of a block. Raises Failed."""
    password = secrets.token_urlsafe(18)
    container = _container(postgres_image(major))
    container.with_env("POSTGRES_USER", USER).with_env("POSTGRES_PASSWORD", password)
    _expose(container, 5432)
    settings = (*_SETTINGS, f"wal_level={'logical' if logical else 'replica'}")
    container.with_command(" ".join(f"-c {setting}" for setting in settings))
    name = f"PostgreSQL {major}"
    with _running(container, name):
        # Over TCP: the image's set-up phase already answers on its socket, then restarts.
        ask = ["pg_isready", "-q", "-h", HOST]
        _wait(container, lambda: container.exec(ask).exit_code == 0, name)
        version = _postgres_version(container, name)
        yield PostgresServer(
            _address(container),
            int(container.get_exposed_port(5432)),
            USER,
            password,
            version=version,
            bin_dir=client_tools(major),
            logical=logical,
        )


def _postgres_version(container: Any, name: str) -> str:
    """Such as 16.9. Asked again when nothing comes: Podman may lose what a short command said."""
    found: list[str] = []

    def ask() -> bool:
        said = container.exec(["postgres", "--version"]).output.decode()
        found.extend(said.partition("(PostgreSQL)")[2].split()[:1])
        return bool(found)

    _wait(container, ask, name)
    return found[0]


@contextlib.contextmanager
def qdrant_containers(
    version: str, nodes: int = 1, *, cluster: bool = False, api_key: str | None = None
) -> Iterator[QdrantServer]:
    """One Qdrant node, or a cluster of them on a network of its own. Raises Failed."""
    clustered = cluster or nodes > 1
    name = f"Qdrant {version}"
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(_network(name))
        urls: list[str] = []
        for number in range(1, nodes + 1):
            container = _qdrant_node(version, number, network, clustered, api_key)
            stack.enter_context(_running(container, name))
            urls.append(f"http://{_address(container)}:{container.get_exposed_port(6333)}")
            _wait(container, _answers(urls[-1]), name)
        yield QdrantServer(tuple(urls), version, api_key, clustered)


def _qdrant_node(
    version: str, number: int, network: object, clustered: bool, api_key: str | None
) -> Any:
    # An alias is unique on its network only; the nodes of another deployment have theirs.
    container = _container(qdrant_image(version)).with_network(network)
    container.with_network_aliases(f"qdrant-{number}")
    container.with_env("QDRANT__TELEMETRY_DISABLED", "true")
    _expose(container, 6333)
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


def sweep_containers() -> None:
    """Remove what test runs of this machine that were killed left behind. Raises Failed."""
    import docker

    try:
        with contextlib.closing(docker.from_env()) as engine:
            _remove_stale(engine)
    except docker.errors.DockerException as error:
        raise Failed(f"no container engine answers: {error}", hint=_HINT) from error


def _remove_stale(engine: Any) -> None:
    from docker.errors import APIError

    filters = {"label": _OWNER}
    for container in engine.containers.list(all=True, filters=filters):
        if _is_stale(container.labels[_OWNER]):
            with contextlib.suppress(APIError):  # somebody else was faster
                container.remove(force=True, v=True)
    for network in engine.networks.list(filters=filters):
        if _is_stale(network.attrs["Labels"][_OWNER]):
            with contextlib.suppress(APIError):
                network.remove()


def _is_stale(label: str) -> bool:
    """Whether its process ran on this machine since it booted, and is gone."""
    pid, _, started = label.partition(" ")
    ours = started.partition("/")[0] == this_process().started.partition("/")[0]
    return ours and not Owner(int(pid), started).is_alive()


def _labels() -> dict[str, str]:
    owner = this_process()
    return {_OWNER: f"{owner.pid} {owner.started}"}


def _container(image: str) -> Any:
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    # Its reaper is one more image to pull and wants the engine's socket; `sweep_containers`
    # does as much.
    testcontainers_config.ryuk_disabled = True
    return DockerContainer(image).with_kwargs(labels=_labels())


@contextlib.contextmanager
def _network(name: str) -> Iterator[object]:
    from docker.errors import DockerException
    from testcontainers.core.network import Network

    network = Network(docker_network_kw={"labels": _labels()})
    try:
        network.create()
    except DockerException as error:
        raise Failed(f"no network for the containers of {name}: {error}", hint=_HINT) from error
    try:
        yield network
    finally:
        network.remove()


def _expose(container: Any, port: int) -> None:
    """On loopback only where that is ours: a password guards these servers, nothing else."""
    container.with_exposed_ports(port)
    if _is_here(container):
        container.ports[str(port)] = (HOST, None)


def _address(container: Any) -> str:
    return HOST if _is_here(container) else str(container.get_container_host_ip())


def _is_here(container: Any) -> bool:
    """Whether the engine runs on this machine, so that its published ports are on our loopback.

    A file such as /.dockerenv, by which testcontainers tells a container from a machine, also
    lies on machines that were made from an image.
    """
    return bool(container.get_docker_client().client.info()["Name"] == socket.gethostname())


@contextlib.contextmanager
def _running(container: Any, name: str) -> Iterator[None]:
    from docker.errors import DockerException

    try:
        container.start()
    except DockerException as error:
        # It may have been made already.
        with contextlib.suppress(DockerException):
            container.stop()
        raise Failed(
            f"the container of {name} ({container.image}) did not start: {error}", hint=_HINT
        ) from error
    try:
        yield
    finally:
        container.stop()


def _wait(container: Any, ready: Callable[[], bool], name: str) -> None:
    """Until it is ready. Raises Failed with the end of its log when it ends instead."""
    from docker.errors import DockerException

    deadline = time.monotonic() + _READY_TIMEOUT
    while True:
        with contextlib.suppress(DockerException):  # it ended between two looks
            if ready():
                return
        container.reload()
        if container.status in ("exited", "dead"):
            said = b"".join(container.get_logs()).decode("utf-8", "replace").strip()
            last = said.splitlines()[-15:] or ["it said nothing"]
            raise Failed(f"the container of {name} ended: {last[-1]}", hint="\n".join(last))
        if time.monotonic() > deadline:
            raise Failed(f"the container of {name} was not ready in {_READY_TIMEOUT:.0f} s")
        time.sleep(0.1)
