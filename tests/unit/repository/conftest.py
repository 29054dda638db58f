"""An in-memory object store, a clock that tests own, and small repositories."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from vbackup.errors import AlreadyExists, NotFound
from vbackup.model.link import Link, PayloadPath, RowSource
from vbackup.model.manifest import (
    Artifact,
    DatabaseFacts,
    DumpArtifact,
    Manifest,
    PatchPart,
    PostgresPart,
    Statistics,
    WatermarkRecord,
)
from vbackup.ports import Buffer, ObjectStat
from vbackup.repository.repository import Repository, RepositoryOptions

SMALL = RepositoryOptions(chunk_size=1024, blob_size=4096, pack_size=32 * 1024, upload_jobs=2)
PASSPHRASE = "correct horse battery staple"


@dataclass
class FakeClock:
    """Stands still until a test moves it; sleeping moves it."""

    at: datetime = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    elapsed: float = 0.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.elapsed += seconds


@dataclass
class MemoryStore:
    """An ObjectStore in a dict. `conditional` False makes create-only puts overwrite."""

    clock: FakeClock = field(default_factory=FakeClock)
    conditional: bool = True
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    location: str = "memory://test"
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        with self.lock:
            if if_absent and self.conditional and key in self.objects:
                raise AlreadyExists(f"{key} is there already")
            self.objects[key] = bytes(data), self.clock.now()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self.lock:
            if key not in self.objects:
                raise NotFound(f"no object {key}")
            data = self.objects[key][0]
        return data[start:] if length is None else data[start : start + length]

    def stat(self, key: str) -> ObjectStat | None:
        with self.lock:
            found = self.objects.get(key)
        return None if found is None else ObjectStat(key, len(found[0]), found[1])

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        with self.lock:
            found = sorted(self.objects.items())
        for key, (data, modified) in found:
            if key.startswith(prefix):
                yield ObjectStat(key, len(data), modified)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self.lock:
                self.objects.pop(key, None)

    def names(self, prefix: str = "") -> list[str]:
        """For tests."""
        return [stat.key for stat in self.scan(prefix)]

    def copy(self) -> MemoryStore:
        """For tests: another store with the same objects."""
        return MemoryStore(self.clock, self.conditional, dict(self.objects), self.location)


def make_manifest(backup_id: str, artifacts: Iterable[Artifact], at: datetime) -> Manifest:
    """A manifest of a pair whose dumps are these artifacts."""
    facts = DatabaseFacts("app", "16.4", 160004, "7412", "UTF8", "C", "C")
    dumps = tuple(DumpArtifact("table", artifact, artifact.name) for artifact in artifacts)
    link = Link(
        "documents",
        "documents",
        (RowSource(table="public.documents", key=("id",), version="version"),),
        ref=(PayloadPath(("pg_id",)),),
        version=PayloadPath(("version",)),
        filter={"kind": "text", "n": 1, "live": True},
    )
    return Manifest(
        id=backup_id,
        created_at=at,
        vbackup_version="0",
        host="host",
        watermark=WatermarkRecord("capture", "0-1", "0/1", at),
        postgres=PostgresPart(facts, "16.4", dumps, sum(a.length for a in artifacts)),
        qdrant=None,
        links=(link,),
        patch=PatchPart(),
        statistics=Statistics(),
        tags={"env": "test"},
    )


def back_up(
    repository: Repository, backup_id: str, streams: dict[str, bytes], at: datetime | None = None
) -> Manifest:
    """One whole backup of these streams."""
    writer = repository.begin(backup_id)
    try:
        artifacts = [writer.add(name, [data]) for name, data in streams.items()]
        return writer.publish(make_manifest(backup_id, artifacts, at or repository.clock.now()))
    except BaseException:
        writer.abort()
        raise


@dataclass(frozen=True)
class Kit:
    """The plain functions and classes above, for tests."""

    small: RepositoryOptions = SMALL
    store: type[MemoryStore] = MemoryStore
    clock: type[FakeClock] = FakeClock

    def manifest(self, backup_id: str, artifacts: Iterable[Artifact], at: datetime) -> Manifest:
        return make_manifest(backup_id, list(artifacts), at)

    def back_up(self, repository: Repository, backup_id: str, **streams: bytes) -> Manifest:
        return back_up(repository, backup_id, streams)

    def contents(self, repository: Repository, backup_id: str) -> dict[str, bytes]:
        return contents(repository, backup_id)

    def counted(self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The keys that are asked for from now on, one entry a request."""
        requests: list[str] = []
        get = store.get

        def counting(key: str, start: int = 0, length: int | None = None) -> bytes:
            requests.append(key)
            return get(key, start, length)

        monkeypatch.setattr(store, "get", counting)
        return requests

    def noise(self, size: int, seed: int = 0) -> bytes:
        return random.Random(seed).randbytes(size)

    def text(self, size: int, seed: int = 0) -> bytes:
        rng = random.Random(seed)
        words = [b"%d" % rng.getrandbits(20) for _ in range(300)]
        return b" ".join(rng.choices(words, k=size // 4))[:size]


@pytest.fixture
def kit() -> Kit:
    return Kit()


def contents(repository: Repository, backup_id: str) -> dict[str, bytes]:
    """Everything that a backup holds, read back."""
    artifacts = repository.load(backup_id).artifacts()
    return {artifact.name: b"".join(repository.read(artifact)) for artifact in artifacts}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture(params=[PASSPHRASE, None], ids=["encrypted", "plain"])
def passphrase(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


@pytest.fixture(autouse=True)
def cheap_stretching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key slots at full strength cost a fifth of a second each."""
    monkeypatch.setattr("vbackup.repository.keys._SCRYPT_N", 2**4)


@pytest.fixture
def repository(store: MemoryStore, clock: FakeClock, passphrase: str | None) -> Repository:
    return Repository.create(store, passphrase=passphrase, options=SMALL, clock=clock)


@pytest.fixture
def reopen(
    store: MemoryStore, clock: FakeClock, passphrase: str | None, repository: Repository
) -> Callable[[], Repository]:
    return lambda: Repository.open(store, passphrase=passphrase, options=SMALL, clock=clock)
