"""Servers by version for tests and drills: given ones, containers, or this machine's programs."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from vbackup.errors import Failed, NotFound
from vbackup.sandbox.containers import (
    postgres_container,
    postgres_image,
    qdrant_containers,
    sweep_containers,
)
from vbackup.sandbox.docker import docker_answers, lacks_image
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.qdrant import QdrantOptions
from vbackup.sandbox.qdrant_binary import DEFAULT_VERSION, find_qdrant, qdrant_image
from vbackup.sandbox.sandbox import Options, Sandbox, sweep, throwaway
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

_Server = TypeVar("_Server")


class Provider:
    """Starts each kind of server at most once, when first asked for; stops all on exit.

    A given server is used wherever its version fits. `containers`: True insists on them, False
    leaves them out, None takes them where an engine answers and has or gets the image, and
    programs of this machine otherwise. Methods raise NotFound when the server is not to be had on
    this machine, Failed when it does not start.
    """

    def __init__(
        self,
        *,
        postgres: PostgresServer | None = None,
        qdrant: QdrantServer | None = None,
        s3: S3Server | None = None,
        containers: bool | None = None,
    ) -> None:
        self._given_postgres = postgres
        self._given_qdrant = qdrant
        self._given_s3 = s3
        self._containers = containers
        self._stack = contextlib.ExitStack()
        self._started: dict[tuple[object, ...], object] = {}

    def __enter__(self) -> Provider:
        sweep()
        if self.with_containers:
            self._clear_containers()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _clear_containers(self) -> None:
        """Also shows whether the engine that `docker info` knows answers this process."""
        try:
            sweep_containers()
        except Failed:
            if self._containers:
                raise
            self._containers = False

    @property
    def with_containers(self) -> bool:
        if self._containers is None:
            return importlib.util.find_spec("testcontainers") is not None and docker_answers()
        return self._containers

    @property
    def qdrants(self) -> list[QdrantServer]:
        """Every Qdrant deployment handed out so far."""
        return [server for server in self._started.values() if isinstance(server, QdrantServer)]

    def postgres(self, major: int | None = None, *, logical: bool = True) -> PostgresServer:
        """A server of that major version; None: the given one, else the default."""
        given = self._given_postgres
        if given is not None and (
            major is None or (major == given.major and logical <= given.logical)
        ):
            return given
        options = PostgresOptions(logical=logical)
        if major is not None:
            options = PostgresOptions(major=major, logical=logical)

        def contained() -> PostgresServer:
            container = postgres_container(options.major, logical=logical)
            return self._stack.enter_context(container)

        def program() -> PostgresServer:
            return self._sandbox(Options(postgres=options, qdrant=None, s3=False)).postgres

        def start() -> PostgresServer:
            return self._either(postgres_image(options.major), contained, program)

        return self._once(("postgres", options.major, logical), start)

    def qdrant(
        self,
        version: str | None = None,
        nodes: int = 1,
        *,
        cluster: bool = False,
        api_key: bool = False,
    ) -> QdrantServer:
        """A deployment of that version and size; None: the given one, else the default."""
        given = self._given_qdrant
        if given is not None and _fits(given, version, nodes, cluster, api_key):
            return self._once(("qdrant", "given"), lambda: given)
        clustered = cluster or nodes > 1
        wanted = version or self._default_qdrant()
        options = QdrantOptions(version=wanted, nodes=nodes, cluster=clustered, api_key=api_key)

        def contained() -> QdrantServer:
            key = secrets.token_urlsafe(18) if api_key else None
            containers = qdrant_containers(wanted, nodes, cluster=clustered, api_key=key)
            return self._stack.enter_context(containers)

        def program() -> QdrantServer:
            return self._sandbox(Options(postgres=None, qdrant=options, s3=False)).qdrant

        def start() -> QdrantServer:
            return self._either(qdrant_image(wanted), contained, program)

        return self._once(("qdrant", wanted, nodes, clustered, api_key), start)

    def _default_qdrant(self) -> str:
        """What $VBACKUP_QDRANT_BIN or PATH holds, where only that one version can be had."""
        if self.with_containers and not lacks_image(qdrant_image(DEFAULT_VERSION)):
            return DEFAULT_VERSION
        return find_qdrant().version

    def s3(self) -> S3Server:
        """An S3 endpoint with a bucket; moto's server unless one was given."""
        given = self._given_s3
        if given is not None:
            return given

        def start() -> S3Server:
            return self._sandbox(Options(postgres=None, qdrant=None, s3=True)).s3

        return self._once(("s3",), start)

    def _either(
        self, image: str, contained: Callable[[], _Server], program: Callable[[], _Server]
    ) -> _Server:
        """A container if its image can be had; when nothing can, the error names both reasons."""
        if not self.with_containers:
            return program()
        trouble = lacks_image(image)
        if not trouble:
            return contained()
        if self._containers:
            raise Failed(trouble, hint="VBACKUP_TEST_CONTAINERS=never uses this machine's programs")
        try:
            return program()
        except NotFound as missing:
            raise NotFound(missing.message, hint=f"{missing.hint}; {trouble}") from missing

    def _sandbox(self, options: Options) -> Sandbox:
        return self._stack.enter_context(throwaway(options))

    def _once(self, key: tuple[object, ...], start: Callable[[], _Server]) -> _Server:
        server = self._started.get(key)
        if server is None:
            server = start()
            self._started[key] = server
        return server  # type: ignore[return-value]  # one kind of server a key


def _fits(
    given: QdrantServer, version: str | None, nodes: int, cluster: bool, api_key: bool
) -> bool:
    if version is None and nodes == 1 and not cluster and not api_key:
        return True
    wanted = (version in (None, given.version), nodes == len(given.urls))
    return all(wanted) and cluster <= given.clustered and api_key <= (given.api_key is not None)
