"""Every store that can be had here, behind one fixture: `opened`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.servers import Endpoint, moto_with_auth, s3rver, swift
from tests.faults import MemoryStore
from vbackup.clock import SystemClock
from vbackup.ports import ObjectStore
from vbackup.sandbox.servers import S3Server
from vbackup.storage.directory import DirectoryStore
from vbackup.storage.retrying import RetryingStore
from vbackup.storage.s3 import S3Store
from vbackup.storage.s3_client import connect

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

STORES = (
    "memory",
    "overwriting memory",
    "directory",
    "moto",
    "swift",
    "s3rver",
    "given",
)
_UNCONDITIONAL = {"overwriting memory", "s3rver"}
_UNKNOWN = {"given", "moto", "swift"}
# What a server itself gets wrong; vbackup must be loud about it or unharmed.
_DEFECTS = {
    # Two that create one object at once both succeed when they are close enough.
    "moto": frozenset({"conditions race"}),
    "s3rver": frozenset({"lists out of order", "lists & and ' escaped twice", "one page only"}),
    "swift": frozenset({"conditions race", "minutes for a thousand objects"}),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A store on a prefix of its own, and a way to open other prefixes beside it.

    `conditional` is what the server is known to do, None when nobody knows.
    """

    store: ObjectStore
    beside: Callable[[str], ObjectStore] | None
    conditional: bool | None
    defects: frozenset[str] = frozenset()


@pytest.fixture(scope="session")
def moto_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with moto_with_auth(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def s3rver_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with s3rver(tmp_path_factory.mktemp("s3rver")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def swift_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with swift(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


def _given_endpoint(request: pytest.FixtureRequest) -> Endpoint:
    if not os.environ.get("VBACKUP_TEST_S3_URL"):
        pytest.skip("VBACKUP_TEST_S3_URL names no server")
    server: S3Server = request.getfixturevalue("s3_server")
    return Endpoint(
        server.endpoint_url,
        server.access_key_id,
        server.secret_access_key,
        server.session_token,
        server.region,
        server.bucket,
    )


def _endpoint(name: str, request: pytest.FixtureRequest) -> Endpoint:
    if name == "given":
        return _given_endpoint(request)
    fixtures = {"moto": "moto_auth", "swift": "swift_endpoint", "s3rver": "s3rver_endpoint"}
    endpoint: Endpoint = request.getfixturevalue(fixtures[name])
    return endpoint


@cache
def _client(endpoint: Endpoint) -> S3Client:
    """One a server: making it costs more than most of these tests."""
    return connect(endpoint.config(""), endpoint.bucket)


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path, fresh_prefix: str) -> Opened:
    name: str = request.param
    conditional = None if name in _UNKNOWN else name not in _UNCONDITIONAL
    if name.endswith("memory"):
        return Opened(MemoryStore(conditional=bool(conditional)), None, conditional)
    if name == "directory":
        clock = SystemClock()
        return Opened(
            DirectoryStore(tmp_path / fresh_prefix, clock),
            lambda prefix: DirectoryStore(tmp_path / prefix, clock),
            conditional,
        )
    endpoint = _endpoint(name, request)

    clock = SystemClock()
    client = _client(endpoint)

    def beside(prefix: str) -> ObjectStore:
        return RetryingStore(S3Store(client, endpoint.bucket, prefix, clock), clock)

    return Opened(beside(fresh_prefix), beside, conditional, _DEFECTS.get(name, frozenset()))


@pytest.fixture
def store(opened: Opened) -> ObjectStore:
    return opened.store
