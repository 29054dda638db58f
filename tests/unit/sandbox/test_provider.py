"""Which server a test gets: the given one, a container, or a program of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vbackup.errors import Failed, NotFound
from vbackup.sandbox import containers, docker, provider
from vbackup.sandbox.provider import Provider
from vbackup.sandbox.sandbox import Options
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

POSTGRES = PostgresServer("db.example", 5432, "me", "", version="16.3", logical=True)
QDRANT = QdrantServer(("http://q.example:6333",), "1.17.0")
S3 = S3Server("http://s3.example", "mine", "id", "key")


class Starts:
    """Stands in for everything that starts servers, and notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = 0

    @contextlib.contextmanager
    def postgres_container(self, major: int, *, logical: bool) -> Iterator[PostgresServer]:
        self.asked.append(f"postgres container {major} logical={logical}")
        self.running += 1
        yield PostgresServer("c", 1, "u", "p", version=f"{major}.1")
        self.running -= 1

    @contextlib.contextmanager
    def qdrant_containers(
        self, version: str, nodes: int, *, cluster: bool, api_key: str | None
    ) -> Iterator[QdrantServer]:
        self.asked.append(f"qdrant container {version} nodes={nodes}")
        self.running += 1
        yield QdrantServer(("http://c",) * nodes, version, api_key, cluster)
        self.running -= 1

    @contextlib.contextmanager
    def throwaway(self, options: Options) -> Iterator[Any]:
        self.asked.append(f"sandbox {options.postgres} {options.qdrant} {options.s3}")
        self.running += 1

        class Fake:
            postgres = PostgresServer("b", 1, "u", "p", version="16.1")
            qdrant = QdrantServer(("http://b",), "1.17.0")
            s3 = S3

        yield Fake()
        self.running -= 1


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    starts = Starts()
    for name in ("postgres_container", "qdrant_containers", "throwaway"):
        monkeypatch.setattr(provider, name, getattr(starts, name))
    monkeypatch.setattr(provider, "sweep", list)
    monkeypatch.setattr(provider, "sweep_containers", list)
    monkeypatch.setattr(provider, "lacks_image", lambda image: "")
    return starts


def test_given_servers_are_used_and_nothing_is_started(starts: Starts) -> None:
    with Provider(postgres=POSTGRES, qdrant=QDRANT, s3=S3) as given:
        assert given.postgres() is POSTGRES
        assert given.postgres(16) is POSTGRES
        assert given.qdrant() is QDRANT
        assert given.qdrant("1.17.0") is QDRANT
        assert given.s3() is S3
        assert given.qdrants == [QDRANT], "their collections are cleaned too"
    assert starts.asked == []


def test_a_given_server_of_another_kind_is_passed_over(starts: Starts) -> None:
    with Provider(postgres=POSTGRES, qdrant=QDRANT, containers=True) as given:
        assert given.postgres(18).major == 18
        assert given.qdrant("1.16.3").version == "1.16.3"
        assert len(given.qdrant("1.17.0", 3).urls) == 3
        assert given.qdrant("1.17.0", api_key=True).api_key
        assert given.qdrant("1.17.0", cluster=True).clustered
    assert len(starts.asked) == 5


def test_a_given_server_without_logical_decoding_is_only_the_default(starts: Starts) -> None:
    plain = dataclasses.replace(POSTGRES, logical=False)
    with Provider(postgres=plain, containers=True) as given:
        assert given.postgres() is plain
        assert given.postgres(16, logical=False) is plain
        assert given.postgres(16) is not plain


def test_each_server_is_started_once_and_stopped_at_the_end(starts: Starts) -> None:
    with Provider(containers=False) as programs:
        assert programs.postgres() is programs.postgres(16)
        assert programs.postgres(16) is not programs.postgres(16, logical=False)
        assert programs.s3() is programs.s3()
        assert len(starts.asked) == starts.running == 3
    assert starts.running == 0


def test_containers_are_preferred_where_an_engine_answers(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "docker_answers", lambda: True)
    with Provider() as chosen:
        chosen.postgres(15)
        chosen.qdrant("1.16.3")
    assert starts.asked == [
        "postgres container 15 logical=True",
        "qdrant container 1.16.3 nodes=1",
    ]


def test_programs_stand_in_for_images_that_cannot_be_had(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {"pgvector/pgvector:pg15": "docker pull pgvector/pgvector:pg15 failed: no route"}
    monkeypatch.setattr(provider, "docker_answers", lambda: True)
    monkeypatch.setattr(provider, "lacks_image", lambda image: lacking.get(image, ""))
    with Provider() as chosen:
        chosen.postgres(15)
        chosen.postgres(16)
    assert [asked.split()[0] for asked in starts.asked] == ["sandbox", "postgres"]


def test_containers_that_are_insisted_on_do_not_turn_into_programs(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "lacks_image", lambda image: f"docker pull {image} failed: no")
    with Provider(containers=True) as insisting, pytest.raises(Failed, match="pg16 failed: no"):
        insisting.postgres(16)
    assert starts.asked == []


def test_when_neither_can_be_had_both_reasons_are_told(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_options: Options) -> Any:
        raise NotFound("no PostgreSQL 15 here", hint="install postgresql-15")

    monkeypatch.setattr(provider, "docker_answers", lambda: True)
    monkeypatch.setattr(provider, "lacks_image", lambda image: "docker pull failed: no route")
    monkeypatch.setattr(provider, "throwaway", nothing)
    with Provider() as chosen, pytest.raises(NotFound, match="no PostgreSQL 15") as caught:
        chosen.postgres(15)
    assert caught.value.hint == "install postgresql-15; docker pull failed: no route"


def test_an_engine_that_only_its_client_reaches_is_passed_over(
    starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf() -> None:
        raise Failed("no container engine answers")

    monkeypatch.setattr(provider, "docker_answers", lambda: True)
    monkeypatch.setattr(provider, "sweep_containers", deaf)
    with Provider() as chosen:
        chosen.postgres(16)
    assert starts.asked[0].startswith("sandbox")
    with pytest.raises(Failed, match="no container engine"), Provider(containers=True):
        pass


def test_an_image_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = tmp_path / "docker"
    client.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho no route >&2\nexit 1\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    docker.lacks_image.cache_clear()
    assert (
        docker.lacks_image("a:1") == docker.lacks_image("a:1") == "docker pull a:1 failed: no route"
    )
    assert (tmp_path / "calls").read_text().splitlines() == ["image inspect a:1", "pull a:1"]
    docker.lacks_image.cache_clear()


@pytest.mark.parametrize(("script", "answers"), [("exit 0", True), ("exit 1", False)])
def test_an_engine_answers_when_docker_info_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, answers: bool
) -> None:
    client = tmp_path / "docker"
    client.write_text(f'#!/bin/sh\n[ "$1" = info ] || exit 5\n{script}\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    docker.docker_answers.cache_clear()
    assert docker.docker_answers() is answers
    monkeypatch.setenv("PATH", "")
    docker.docker_answers.cache_clear()
    assert docker.docker_answers() is False
    docker.docker_answers.cache_clear()


class FakeContainer:
    """Records what testcontainers' DockerContainer is told."""

    all: list[FakeContainer]
    engine = socket.gethostname()

    def __init__(self, image: str) -> None:
        self.image = image
        self.told: dict[str, Any] = {}
        self.ports: dict[str, Any] = {}
        self.status = "running"
        self.asked = 0
        self.stopped = False
        type(self).all.append(self)

    def __getattr__(self, name: str) -> Callable[..., FakeContainer]:
        def tell(*values: Any) -> FakeContainer:
            self.told.setdefault(name, []).append(values)
            return self

        if not name.startswith("with_"):
            raise AttributeError(name)
        return tell

    def start(self) -> None:
        if "broken" in self.image:
            from docker.errors import DockerException

            raise DockerException("no such image")

    def stop(self) -> None:
        self.stopped = True

    def reload(self) -> None:
        if "ending" in self.image:
            self.status = "exited"

    def get_logs(self) -> tuple[bytes, bytes]:
        return b"starting\n", b"FATAL: no space left\n"

    def get_docker_client(self) -> Any:
        class Client:
            @property
            def client(self) -> Client:
                return self

            def info(self) -> dict[str, str]:
                return {"Name": FakeContainer.engine}

        return Client()

    def exec(self, command: list[str]) -> Any:
        class Result:
            exit_code = 1 if "ending" in self.image else 0
            output = b""

        if command == ["postgres", "--version"]:
            self.asked += 1
            if self.asked > 1:  # what it says at first is lost, as it is by Podman at times
                Result.output = b"postgres (PostgreSQL) 16.9 (Debian 16.9-1.pgdg120+1)\n"
        return Result()

    def get_container_host_ip(self) -> str:
        return "engine.example"

    def get_exposed_port(self, port: int) -> str:
        return str(port + 1)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeContainer]:
    FakeContainer.all = []
    monkeypatch.setattr(containers, "_container", FakeContainer)
    monkeypatch.setattr(containers, "request", lambda _: (200, b""))
    return FakeContainer


def test_a_postgres_container_is_set_up_like_the_sandbox(fakes: type[FakeContainer]) -> None:
    with containers.postgres_container(16) as server:
        (container,) = fakes.all
        assert (server.host, server.port, server.version) == ("127.0.0.1", 5433, "16.9")
        assert container.image == "pgvector/pgvector:pg16"
        assert ("POSTGRES_PASSWORD", server.password) in container.told["with_env"]
        assert "-c wal_level=logical" in container.told["with_command"][0][0]
        assert container.ports == {"5432": ("127.0.0.1", None)}, "nobody else's business"
        assert not container.stopped
    assert container.stopped


def test_an_engine_elsewhere_publishes_to_us(
    fakes: type[FakeContainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeContainer, "engine", "another-machine")
    with containers.postgres_container(16) as server:
        assert server.host == "engine.example"
        assert fakes.all[0].ports == {}


def test_a_container_that_does_not_start_is_named(
    fakes: type[FakeContainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_POSTGRES_IMAGE", "broken:{major}")
    with (
        pytest.raises(Failed, match=r"PostgreSQL 16 .*broken:16.* no such image"),
        containers.postgres_container(16),
    ):
        pass
    assert fakes.all[0].stopped, "it may have been made before it did not start"


def test_a_container_that_ends_is_told_with_its_last_words(
    fakes: type[FakeContainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_POSTGRES_IMAGE", "ending:{major}")
    with (
        pytest.raises(Failed, match="PostgreSQL 16 ended: FATAL: no space left"),
        containers.postgres_container(16),
    ):
        pass
    assert fakes.all[0].stopped


def test_what_containers_are_told_is_what_testcontainers_knows() -> None:
    from testcontainers.core.container import DockerContainer

    used = ("env", "exposed_ports", "command", "network", "network_aliases", "kwargs")
    others = ("start", "stop", "exec", "reload", "get_logs", "get_docker_client")
    for name in (*(f"with_{each}" for each in used), *others):
        assert callable(getattr(DockerContainer, name))


@pytest.fixture
def conftest(pytestconfig: pytest.Config) -> ModuleType:
    path = pytestconfig.rootpath / "tests" / "conftest.py"
    module = pytestconfig.pluginmanager.get_plugin(str(path))
    assert isinstance(module, ModuleType)
    return module


def _missing() -> PostgresServer:
    raise NotFound("no PostgreSQL 9 here", hint="install it")


def test_a_missing_engine_skips_on_a_laptop(
    conftest: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VBACKUP_TEST_IN_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no PostgreSQL 9 here"):
        conftest._provided(_missing)


def test_a_missing_engine_fails_in_ci(
    conftest: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBACKUP_TEST_IN_CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have every engine: no PostgreSQL 9"):
        conftest._provided(_missing)
