"""Every store that can be had here, behind one fixture: `opened`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.servers import Endpoint, moto_with_auth, s3rver
from tests.faults import MemoryStore
from vbackup.clock import SystemClock
from vbackup.ports import ObjectStore
from vbackup.sandbox.servers import S3Server
from vbackup.storage.directory import DirectoryStore
from vbackup.storage.open import open_store

STORES = ("memory", "overwriting memory", "directory", "moto", "moto with auth", "s3rver", "given")
_UNCONDITIONAL = {"overwriting memory", "s3rver"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A store on a prefix of its own, and a way to open other prefixes beside it.

    `conditional` is what the server is known to do, None when nobody knows.
    """

    store: ObjectStore
    beside: Callable[[str], ObjectStore] | None
    conditional: bool | None


@pytest.fixture(scope="session")
def moto_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with moto_with_auth(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def s3rver_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with s3rver(tmp_path_factory.mktemp("s3rver")) as endpoint:
        yield endpoint


def _sandbox_endpoint(request: pytest.FixtureRequest) -> Endpoint:
    server: S3Server = request.getfixturevalue("s3_server")
    return Endpoint(
        server.endpoint_url,
        server.access_key_id,
        server.secret_access_key,
        server.region,
        server.bucket,
    )


def _given_endpoint(request: pytest.FixtureRequest) -> Endpoint:
    if not os.environ.get("VBACKUP_TEST_S3_URL"):
        pytest.skip("VBACKUP_TEST_S3_URL names no server")
    return _sandbox_endpoint(request)


def _endpoint(name: str, request: pytest.FixtureRequest) -> Endpoint:
    if name == "given":
        return _given_endpoint(request)
    if name == "moto":
        return _sandbox_endpoint(request)
    fixture = {"moto with auth": "moto_auth", "s3rver": "s3rver_endpoint"}[name]
    endpoint: Endpoint = request.getfixturevalue(fixture)
    return endpoint


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path, fresh_prefix: str) -> Opened:
    name: str = request.param
    conditional = None if name == "given" else name not in _UNCONDITIONAL
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

    def beside(prefix: str) -> ObjectStore:
        return open_store(endpoint.config(prefix), SystemClock())

    return Opened(beside(fresh_prefix), beside, conditional)


@pytest.fixture
def store(opened: Opened) -> ObjectStore:
    return opened.store
