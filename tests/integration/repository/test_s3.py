"""The repository's whole life on a real S3 server: back up, resume, damage, heal, prune."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from vbackup.clock import SystemClock
from vbackup.config import RepositoryConfig, RetentionConfig
from vbackup.errors import Damaged, Locked
from vbackup.model.manifest import (
    DatabaseFacts,
    DumpArtifact,
    Manifest,
    PatchPart,
    PostgresPart,
    Statistics,
    WatermarkRecord,
)
from vbackup.ports import ObjectStore
from vbackup.repository.check import verify
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.reindex import repair_index
from vbackup.repository.repository import Repository, RepositoryOptions
from vbackup.sandbox.servers import S3Server
from vbackup.storage.open import open_store

pytestmark = pytest.mark.integration

OPTIONS = RepositoryOptions(chunk_size=16 * 1024, pack_size=512 * 1024)
PASSPHRASE = "a passphrase"
ONE = RetentionConfig(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0)


@pytest.fixture
def store(s3_server: S3Server) -> Iterator[ObjectStore]:
    token = s3_server.session_token
    opened = open_store(
        RepositoryConfig(
            url=f"s3://{s3_server.bucket}/{secrets.token_hex(6)}",
            endpoint_url=s3_server.endpoint_url,
            region=s3_server.region,
            access_key_id=SecretStr(s3_server.access_key_id),
            secret_access_key=SecretStr(s3_server.secret_access_key),
            session_token=SecretStr(token) if token else None,
        ),
        SystemClock(),
    )
    yield opened
    opened.delete([stat.key for stat in opened.scan()])


def opened(store: ObjectStore) -> Repository:
    return Repository.open(store, passphrase=PASSPHRASE, options=OPTIONS)


def streams(own: int) -> dict[str, bytes]:
    return {
        "common": random.Random(0).randbytes(1_500_000),
        "own": random.Random(own).randbytes(900_000),
    }


def back_up(repository: Repository, own: int) -> Manifest:
    now = repository.clock.now()
    writer = repository.begin(f"b{own}")
    artifacts = [writer.add(name, [data]) for name, data in streams(own).items()]
    facts = DatabaseFacts("app", "16.4", 160004, "1", "UTF8", "C", "C")
    dumps = tuple(DumpArtifact("table", artifact) for artifact in artifacts)
    return writer.publish(
        Manifest(
            id=f"b{own}",
            created_at=now,
            vbackup_version="0",
            host="host",
            watermark=WatermarkRecord("capture", "0-1", "0/1", now),
            postgres=PostgresPart(facts, "16.4", dumps, 0),
            qdrant=None,
            links=(),
            patch=PatchPart(),
            statistics=Statistics(),
        )
    )


def contents(repository: Repository, own: int) -> dict[str, bytes]:
    artifacts = repository.load(f"b{own}").artifacts()
    return {artifact.name: b"".join(repository.read(artifact)) for artifact in artifacts}


def packs(store: ObjectStore) -> list[str]:
    return [stat.key for stat in store.scan("packs/")]


def test_a_repository_lives_on_s3(store: ObjectStore) -> None:
    Repository.create(store, passphrase=PASSPHRASE, options=OPTIONS)
    first = back_up(opened(store), 1).statistics
    second = back_up(opened(store), 2).statistics
    assert second.bytes_uploaded < 0.6 * first.bytes_uploaded
    for own in (1, 2):
        assert contents(opened(store), own) == streams(own)
        assert verify(opened(store), f"b{own}", level="chunks").ok

    with opened(store).lease("writer"), pytest.raises(Locked):
        opened(store).begin("b3")

    victim = packs(store)[0]
    data = bytearray(store.get(victim))
    data[len(data) // 2] ^= 1
    store.put(victim, data)
    assert not all(verify(opened(store), f"b{own}", level="chunks").ok for own in (1, 2))
    with pytest.raises(Damaged, match="bytes"):
        assert [contents(opened(store), own) for own in (1, 2)]

    back_up(opened(store), 1_000)
    writer = opened(store).begin("heal")
    for own in (1, 2):
        for name, stream in streams(own).items():
            writer.add(name, [stream])
    writer.abort()
    for own in (1, 2, 1_000):
        assert contents(opened(store), own) == streams(own)

    repair_index(opened(store))
    report = prune(opened(store), ONE, PruneOptions(grace=0))
    assert sorted(report.removed) == ["b1", "b2"]
    assert contents(opened(store), 1_000) == streams(1_000)
    assert verify(opened(store), "b1000", level="chunks").ok
    assert sum(stat.size for stat in store.scan("packs/")) < 2_600_000
    assert not [stat.key for stat in store.scan("leases/")]
