"""How fast the repository takes bytes in, and gives them back: one core's worth, no storage.

    python benchmarks/repository.py --megabytes 400

Each kind of data goes through chunking, hashing, compression, sealing and packing into a store
that keeps packs in memory; then once more (all of it known), then back out. Two rates: wall, and
CPU seconds of this process, which other load on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import numpy as np

from vbackup.errors import NotFound
from vbackup.ports import Buffer, ObjectStat
from vbackup.repository.repository import Repository, RepositoryOptions

_READ = 65_536
_MEGABYTE = 1_000_000


class MemoryStore:
    """Objects in a dictionary."""

    conditional = True
    location = "memory://"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        if not (if_absent and key in self.objects):
            self.objects[key] = bytes(data)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][start : None if length is None else start + length]

    def stat(self, key: str) -> ObjectStat | None:
        data = self.objects.get(key)
        return None if data is None else ObjectStat(key, len(data), datetime.now(UTC))

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        found = (self.stat(key) for key in sorted(self.objects) if key.startswith(prefix))
        return (stat for stat in found if stat)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)


def rows(size: int) -> bytes:
    """Text as COPY prints it: numbers, UUIDs, times, words."""
    rng = random.Random(1)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(5000)]
    lines: list[str] = []
    total = 0
    while total < size:
        moment = f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02} 12:{rng.randint(0, 59):02}"
        text = " ".join(rng.choices(words, k=60))
        line = f"{len(lines)}\t{rng.getrandbits(128):032x}\t{moment}\t{text}\t{rng.random():.4f}\n"
        lines.append(line)
        total += len(line)
    return "".join(lines).encode()[:size]


def vectors(size: int) -> bytes:
    """Normalised 32-bit embeddings."""
    found = np.random.default_rng(1).standard_normal((size // 1536, 384), dtype=np.float32)
    return bytes((found / np.linalg.norm(found, axis=1, keepdims=True)).tobytes())


KINDS: dict[str, Callable[[int], bytes]] = {
    "table rows": rows,
    "float32 vectors": vectors,
    "incompressible": os.urandom,
}


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _READ] for at in range(0, len(data), _READ))


def rate(size: int, what: Callable[[], object]) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{size / wall / _MEGABYTE:5.0f} MB/s wall {size / cpu / _MEGABYTE:5.0f} MB/CPU-s"


def measure(kind: str, data: bytes, level: int) -> None:
    options = RepositoryOptions(compression_level=level)
    repository = Repository.create(MemoryStore(), passphrase="benchmark", options=options)
    writer = repository.begin("first")
    stored = rate(len(data), lambda: writer.add("data", pieces(data)))
    artifact = writer.add("data", pieces(data))
    writer.abort()
    writer = repository.begin("second")
    known = rate(len(data), lambda: writer.add("data", pieces(data)))
    writer.abort()
    back = rate(len(data), lambda: [None for _ in repository.read(artifact)])
    packs = sum(stat.size for stat in repository.store.scan("packs/"))
    print(f"{kind:16} level {level}, ratio {len(data) / packs:.2f}")
    print(f"  stored {stored}\n  known  {known}\n  read   {back}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--level", type=int, default=1)
    options = parser.parse_args()
    for kind, make in KINDS.items():
        measure(kind, make(options.megabytes * _MEGABYTE), options.level)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory {peak} MiB, data and packs included")


if __name__ == "__main__":
    main()
