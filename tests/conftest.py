"""Real servers for every test: yours, containers, or programs that the sandbox starts.

Each is started once a session and worker, when first asked for. docs/development.md lists the
variables that point tests at your own servers.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol, TypeVar
from urllib.parse import urlencode
from zlib import crc32

import psycopg
import psycopg.conninfo
import pytest
from psycopg import sql

from vbackup.errors import NotFound
from vbackup.sandbox.loopback import request
from vbackup.sandbox.postgres_binaries import client_tools
from vbackup.sandbox.provider import Provider
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

_Server = TypeVar("_Server")

OLDER = {"store": "1.16.3", "documents": 16}
"""Fixtures that are made for each supported version, and the older one."""


class PostgresServers(Protocol):
    def __call__(self, version: int | str = 16, *, logical: bool = True) -> PostgresServer: ...


class QdrantServers(Protocol):
    def __call__(
        self,
        version: str = "1.17.0",
        nodes: int = 1,
        *,
        cluster: bool = False,
        api_key: bool = False,
    ) -> QdrantServer: ...


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would every command that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where it sees CI, pytest shows differences in full: of streams and files that takes it hours.
    if in_ci := os.environ.pop("CI", ""):
        os.environ["VBACKUP_TEST_IN_CI"] = in_ci


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A third of the tests that could run on every supported version run on the older one, too;
    all do with `VBACKUP_TEST_VERSIONS=all` (`make versions`), and what is asked for by name."""
    if os.environ.get("VBACKUP_TEST_VERSIONS") == "all" or any("::" in arg for arg in config.args):
        return
    out = [item for item in items if _is_older(item) and crc32(item.nodeid.encode()) % 3]
    config.hook.pytest_deselected(items=out)
    gone = set(out)
    items[:] = [item for item in items if item not in gone]


def _is_older(item: pytest.Item) -> bool:
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return any(params.get(name) == older for name, older in OLDER.items())


def _provided(start: Callable[[], _Server]) -> _Server:
    """An engine that is not on this machine skips the test here and fails it in CI."""
    try:
        return start()
    except NotFound as missing:
        reason = f"{missing.message} ({missing.hint})"
    if os.environ.get("VBACKUP_TEST_IN_CI"):
        pytest.fail(f"CI must have every engine: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """Starts servers on demand and stops them all, also when the run is terminated."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        pytest.exit("terminated by SIGTERM", returncode=143)

    before = signal.signal(signal.SIGTERM, leave)
    containers = {"never": False, "always": True}.get(os.environ.get("VBACKUP_TEST_CONTAINERS", ""))
    with Provider(
        postgres=_given_postgres(),
        qdrant=_given_qdrant(),
        s3=_given_s3(),
        containers=containers,
    ) as provider:
        yield provider
    signal.signal(signal.SIGTERM, before)


def _given_postgres() -> PostgresServer | None:
    dsn = os.environ.get("VBACKUP_TEST_POSTGRES_DSN")
    if not dsn:
        return None
    with psycopg.connect(dsn) as connection:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
        info = connection.info
        row = connection.execute(
            "SELECT current_setting('server_version'), current_setting('wal_level')"
        ).fetchone()
        version, wal_level = row or ("0", "")
        known = ("host", "port", "user", "password", "dbname")
        rest = {name: str(value) for name, value in given.items() if name not in known}
        return PostgresServer(
            info.host,
            info.port,
            info.user,
            info.password,
            version=version.split()[0],
            bin_dir=client_tools(info.server_version // 10000),
            query=urlencode(rest),
            logical=wal_level == "logical",
        )


def _given_qdrant() -> QdrantServer | None:
    urls = tuple(filter(None, os.environ.get("VBACKUP_TEST_QDRANT_URL", "").split(",")))
    if not urls:
        return None
    api_key = os.environ.get("VBACKUP_TEST_QDRANT_API_KEY")
    status, body = request(urls[0], headers={"api-key": api_key} if api_key else {})
    if status != 200:
        pytest.fail(f"no Qdrant answers at VBACKUP_TEST_QDRANT_URL ({urls[0]}): HTTP {status}")
    return QdrantServer(urls, json.loads(body)["version"], api_key, clustered=len(urls) > 1)


def _collections(server: QdrantServer) -> list[str]:
    headers = {"api-key": server.api_key} if server.api_key else {}
    status, body = request(f"{server.url}/collections", headers=headers, timeout=30.0)
    if status != 200:
        return []
    return [each["name"] for each in json.loads(body)["result"]["collections"]]


def _given_s3() -> S3Server | None:
    url = os.environ.get("VBACKUP_TEST_S3_URL")
    if not url:
        return None
    return S3Server(
        url,
        os.environ.get("VBACKUP_TEST_S3_BUCKET", "vbackup-test"),
        os.environ.get("AWS_ACCESS_KEY_ID", ""),
        os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1")),
        os.environ.get("AWS_SESSION_TOKEN"),
    )


@pytest.fixture(scope="session")
def postgres_servers(provider: Provider) -> PostgresServers:
    """`postgres_servers(18)`: one server a version. wal_level is logical unless told otherwise."""

    def get(version: int | str = 16, *, logical: bool = True) -> PostgresServer:
        return _provided(lambda: provider.postgres(int(version), logical=logical))

    return get


@pytest.fixture(scope="session")
def postgres_server(provider: Provider) -> PostgresServer:
    """PostgreSQL 16, or yours: `.dsn(dbname)`, `.admin_dsn`, `.version`, `.major`, `.bin_dir`."""
    return _provided(provider.postgres)


@pytest.fixture
def new_database() -> Iterator[Callable[[PostgresServer], str]]:
    """`new_database(server)` makes an empty database and returns its DSN; dropped afterwards."""
    made: list[tuple[PostgresServer, str]] = []

    def make(server: PostgresServer) -> str:
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made.append((server, name))
        return server.dsn(name)

    yield make
    for server, name in made:
        _drop_database(server, name)


@pytest.fixture
def database(postgres_server: PostgresServer, new_database: Callable[[PostgresServer], str]) -> str:
    """The DSN of a fresh, empty database on `postgres_server`."""
    return new_database(postgres_server)


def _drop_database(server: PostgresServer, name: str) -> None:
    """With everything that would keep it: prepared transactions, slots, connections."""
    with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
        there = admin.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if there is None:
            return
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
        admin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s AND NOT active",
            (name,),
        )
        prepared = admin.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = %s", (name,)
        ).fetchall()
        if prepared:
            with psycopg.connect(server.dsn(name), autocommit=True) as inside:
                for (gid,) in prepared:
                    inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@pytest.fixture(scope="session")
def qdrant_servers(provider: Provider) -> QdrantServers:
    """`qdrant_servers("1.16.3", nodes=3)`: one deployment a version and size."""

    def get(
        version: str = "1.17.0",
        nodes: int = 1,
        *,
        cluster: bool = False,
        api_key: bool = False,
    ) -> QdrantServer:
        return _provided(lambda: provider.qdrant(version, nodes, cluster=cluster, api_key=api_key))

    return get


@pytest.fixture(scope="session")
def qdrant_server(provider: Provider) -> QdrantServer:
    """Qdrant 1.17.0 on one node, or yours: `.url`, `.urls`, `.version`, `.api_key`."""
    return _provided(provider.qdrant)


@pytest.fixture
def collection_prefix(provider: Provider) -> Iterator[str]:
    """A prefix for collection names; collections that start with it are deleted afterwards."""
    prefix = f"t{secrets.token_hex(5)}_"
    yield prefix
    for server in provider.qdrants:
        headers = {"api-key": server.api_key} if server.api_key else {}
        for name in _collections(server):
            if name.startswith(prefix):
                url = f"{server.url}/collections/{name}"
                request(url, method="DELETE", headers=headers, timeout=30.0)


@pytest.fixture(scope="session")
def s3_server(provider: Provider) -> S3Server:
    """An S3 endpoint: `.endpoint_url`, `.bucket` (it exists), keys, `.region`."""
    return _provided(provider.s3)


@pytest.fixture
def fresh_prefix() -> str:
    """A key prefix that no other test uses."""
    return f"test-{secrets.token_hex(6)}"
