"""A hostile repository out of any bytes, and everything that reads a repository run on it.

The attacker has the keys: what he forges authenticates. Nothing but vbackup's own errors may come
of it, within the memory that `main` leaves; and where he only damaged what was there, whatever
still reads without complaint is what was written.

    python -m tests.torture.repository.fuzzing 500                       # examples
    python -m tests.torture.repository.fuzzing atheris -max_total_time=600
"""

from __future__ import annotations

import gc
import json
import random
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec
import numpy as np

from tests.unit.repository.conftest import Kit, MemoryStore
from vbackup.config import RetentionConfig
from vbackup.errors import VbackupError
from vbackup.repository import header, keys, lease, quarantine, recipe, sealed
from vbackup.repository import index as index_objects
from vbackup.repository.blobs import Blob, seal_blob
from vbackup.repository.check import verify
from vbackup.repository.checks import newest_passed
from vbackup.repository.codec import CODECS, Compression
from vbackup.repository.keys import CHUNK_ID, RepositoryKeys
from vbackup.repository.packs import ENTRY, PackBuilder, pack_key
from vbackup.repository.prune import PruneOptions, prune
from vbackup.repository.reindex import repair_index
from vbackup.repository.repository import Repository
from vbackup.repository.sample import Sample

MEMORY = 1024**3
"""Bytes of address space beyond what the imports took."""

TERABYTE = 1024**4
KIT = Kit()
ONE = RetentionConfig(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0)
STREAMS = {"a": KIT.noise(9000), "b": KIT.text(9000), "c": b""}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Dice:
    """Choices out of bytes; zeros when they have run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        return int.from_bytes(self.raw(1 if below <= 256 else 4, exact=True), "little") % below

    def pick(self, options: Any) -> Any:
        return options[self.number(len(options))]

    def raw(self, most: int, *, exact: bool = False) -> bytes:
        size = most if exact else self.number(most + 1)
        found = self._data[self._at : self._at + size]
        self._at += size
        return found


class Huge(MemoryStore):
    """Some objects are a terabyte of zeros: who asks for one as a whole does not get far."""

    huge: frozenset[str] = frozenset()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key not in self.huge or key not in self.objects:
            return super().get(key, start, length)
        left = max(0, TERABYTE - start)
        return bytes(left if length is None else min(length, left))


@cache
def whole() -> dict[str, tuple[bytes, datetime]]:
    """The objects of a repository with two backups."""
    store = MemoryStore()
    repository = Repository.create(store, passphrase=None, options=KIT.small, clock=store.clock)
    for name in ("b1", "b2"):
        KIT.back_up(repository, name, **STREAMS)
    return store.objects


def stolen() -> RepositoryKeys:
    return RepositoryKeys(bytes.fromhex(json.loads(whole()[header.KEY][0])["key"]))


def manifest() -> Any:
    """Of b1, as JSON."""
    data = whole()["backups/b1/manifest"][0]
    seal = stolen().seal(encrypted=False)
    return json.loads(sealed.decode(seal, sealed.MANIFEST, "b1", data, limit=2**25))


def put_sealed(store: Huge, kind: bytes, key: str, raw: bytes) -> None:
    name = "b1" if kind == sealed.MANIFEST else key
    store.put(key, sealed.encode(stolen().seal(encrypted=False), kind, name, raw))


VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**70, 1e308, -0.5, 10**400, "", "..", "../../etc/passwd",
    "/abs", "a\0b", "a" * 5000, "2026-01-01T00:00:00", "9999-12-31T23:59:59+00:00", "ab" * 32,
    "0001-01-01T00:00:00Z", [], {}, [[]] * 3000, ["ab" * 32] * 500,
    json.loads("[" * 500 + "]" * 500),
    {"a" * n: n for n in range(300)}, "\u202e", "e\u0301", "\ud800",
]  # fmt: skip


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: its container and its key."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from nodes(inner)


def bent(dice: Dice, value: Any) -> bytes:
    for _ in range(1 + dice.number(3)):
        places = list(nodes(value))
        if places:
            container, key = places[dice.number(len(places))]
            if dice.number(5):
                container[key] = dice.pick(VALUES)
            else:
                del container[key]
    return json.dumps(value).encode()


# ---------------------------------------------------------------- attacks


def damage(dice: Dice, store: Huge) -> None:
    """What a broken disk or a thief without keys can do."""
    key = dice.pick(store.names())
    data = bytearray(store.objects[key][0])
    at = dice.number(len(data) or 1)
    kind = dice.number(6)
    if kind == 0:
        store.delete([key])
        return
    if kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = dice.raw(40)
    elif kind == 3:
        data = bytearray(store.objects[dice.pick(store.names())][0])
    elif kind == 4:
        store.huge |= {key}
    elif data:
        data[at] ^= 1 + dice.number(255)
    store.put(key, data)


def forge_manifest(dice: Dice, store: Huge) -> None:
    put_sealed(store, sealed.MANIFEST, "backups/b1/manifest", bent(dice, manifest()))


CHECK_KEY = "backups/b2/checks/20260101T000000000000Z-chunks"


def bomb(dice: Dice, store: Huge) -> None:
    """Small objects that claim, and hold, very much."""
    repeated = dice.pick([b"\0", b"[", b"[],", b'"a",'])
    begin = dice.pick([b"", b'{"version":1,"x":[', b'{"postgres":{"dumps":['])
    kind, key = dice.pick(
        [
            (sealed.MANIFEST, "backups/b1/manifest"),
            (sealed.CHECK, CHECK_KEY),
            (sealed.PIN, "backups/b2/pin"),
            (sealed.DOOMED, "doomed/00"),
            (sealed.UNUSED, quarantine.UNUSED_KEY),
            (sealed.CURSOR, "checks/cursor"),
        ]
    )
    put_sealed(store, kind, key, begin + repeated * dice.pick([1000, 2**20, 7 * 2**20]))


def forge_small(dice: Dice, store: Huge) -> None:
    packs = {name.rpartition("/")[2]: "2026-01-01T00:00:00Z" for name in store.names("packs/")}
    record = {"level": "chunks", "at": "2026-01-01T00:00:00Z", "ok": True, "detail": ""}
    kind, key, raw = dice.pick(
        [
            (sealed.UNUSED, quarantine.UNUSED_KEY, bent(dice, packs)),
            (sealed.CHECK, CHECK_KEY, bent(dice, record)),
            (sealed.DOOMED, "doomed/00", dice.raw(200)),
            (sealed.CURSOR, "checks/cursor", dice.raw(200)),
        ]
    )
    put_sealed(store, kind, key, raw)


def forge_lease(dice: Dice, store: Huge) -> None:
    name = dice.pick(["writer", "pruner", "reader", "keys"])
    record = lease.LeaseRecord(name, "00", "host", 7, "p@1", NOW, NOW, 300.0, "b1")
    raw = bent(dice, json.loads(msgspec.json.encode(record)))
    store.put(record.key, raw if dice.number(3) else dice.raw(100))


def forge_index(dice: Dice, store: Huge) -> None:
    names = [name.rpartition("/")[2] for name in store.names("packs/")] or ["00" * 32]
    entries = np.zeros(1 + dice.number(400), dtype=ENTRY)
    entries["id"] = np.void(dice.raw(CHUNK_ID).ljust(CHUNK_ID, b"i"))
    for name in ("offset", "stored", "content", "start", "length"):
        entries[name] = dice.pick([0, 1, 8, 40, 1000, 2**24, 2**32 - 1])
    entries["codec"] = dice.number(5)
    size = dice.pick([0, 8, 1000, 2**30, 2**63, 2**64 - 1])
    pack = bytes.fromhex(dice.pick(names))
    index_objects.write(store, stolen().seal(encrypted=False), [(pack, size, entries)])


def forge_pack(dice: Dice, store: Huge) -> None:
    """Chunks whose payload is not what their codec says, and recipes that lie or repeat."""
    seal, hasher = stolen().seal(encrypted=False), stolen().hasher()
    builder, plain = PackBuilder(), dice.raw(300) or b"x"
    for _ in range(1 + dice.number(4)):
        odd = dice.raw(CHUNK_ID).ljust(CHUNK_ID)
        chunk = dice.pick([hasher.id(plain), hasher.id(STREAMS["a"]), odd])
        codec = dice.pick(CODECS)
        payload = dice.pick([plain, bytes(Compression(1).pack(bytes(2**22))[1]), dice.raw(60)])
        length = dice.pick([len(plain), 2**22, 2**24, 1])
        parts = dice.pick([1, 1, 2, 50])
        data = seal_blob(seal, codec, length * parts, payload)
        builder.append(Blob(data, [chunk] * parts, [length] * parts, codec))
    span = dice.pick([0, 1, len(plain), 2**24, 2**49, 2**64 - 1])
    count = 1 + dice.number(20)
    entries = recipe.ENTRY.pack(hasher.id(plain), span) * count
    root = hasher.id(entries)
    sealed_recipe = seal_blob(seal, 0, len(entries), entries)
    builder.append(Blob(sealed_recipe, [root], [len(entries)], 0))
    pack = builder.finish(seal)
    store.put(pack_key(pack.id), pack.data)
    if dice.number(2):
        index_objects.write(store, seal, [(pack.id, len(pack.data), pack.entries)])
    loose = manifest()
    length = min(span * count, 2**50)
    first = loose["postgres"]["dumps"][0]["artifact"]
    first.update(root=[root.hex()], depth=dice.number(8), length=length)
    put_sealed(store, sealed.MANIFEST, "backups/b1/manifest", json.dumps(loose).encode())


def forge_header(dice: Dice, store: Huge) -> None:
    loose = json.loads(whole()[header.KEY][0])
    loose["mac"] = "0" * 64
    blank = bent(dice, loose)
    store.put(header.KEY, blank.replace(b"0" * 64, stolen().mac(blank).encode()))


FORGERIES: tuple[Callable[[Dice, Huge], None], ...] = (
    forge_manifest, bomb, forge_small, forge_lease, forge_index, forge_pack, forge_header,
)  # fmt: skip


# ---------------------------------------------------------------- victims


def read_all(repository: Repository, name: str) -> dict[str, bytes]:
    """What a restore reads of one backup, the first MiB of each artifact."""
    found = {}
    with repository.reading(name):
        for artifact in repository.load(name).artifacts():
            taken = bytearray()
            for block in repository.read(artifact):
                taken += block
                if len(taken) > 1024**2:
                    break
            found[artifact.name] = bytes(taken)
    return found


def use(store: Huge, *, honest: bool) -> None:
    """Everything that reads or cleans, each on its own: one refusal must not hide another."""

    def opened() -> Repository:
        return Repository.open(store, passphrase=None, options=KIT.small, clock=store.clock)

    for name in ("b1", "b2"):
        with suppress(VbackupError):
            found = read_all(opened(), name)
            if honest and found != STREAMS:
                raise AssertionError(f"{name} came back wrong")
    actions: list[Callable[[], object]] = [
        lambda: opened().backups(),
        lambda: opened().holders(),
        lambda: newest_passed(opened(), "chunks"),
        lambda: verify(opened(), "b2", level="chunks"),
        lambda: verify(opened(), "b1", level="chunks", part=Sample(0.5)),
        lambda: verify(opened(), "b1", level="manifest"),
        lambda: prune(opened(), ONE, PruneOptions(dry_run=True)),
        lambda: repair_index(opened()),
        lambda: KIT.back_up(opened(), "b3", **STREAMS),
        lambda: prune(opened(), ONE, PruneOptions(grace=0.0)),
        lambda: lease.acquire(store, store.clock, "keys").release(),
    ]
    for action in actions:
        with suppress(VbackupError):
            action()


def attack(data: bytes) -> None:
    """One hostile repository; raises whatever no person should ever see."""
    dice = Dice(data)
    store = Huge(objects=dict(whole()))
    honest = dice.number(3) == 0
    for _ in range(1 + dice.number(3)):
        with suppress(VbackupError):  # Some things vbackup's own tools refuse to forge.
            (damage if honest else dice.pick(FORGERIES))(dice, store)
    use(store, honest=honest)


# ---------------------------------------------------------------- the process


def limit_memory() -> None:
    """From here on, address space is short: an unbounded read or a bomb is a MemoryError."""
    threading.stack_size(256 * 1024)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def by_hypothesis(examples: int, seed: int) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    settled = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settled(seeded(seed)(given(st.binary(min_size=8, max_size=400))(attack)))()
    for number in range(examples):
        data = random.Random(f"{seed}/{number}").randbytes(200)
        try:
            attack(data)
        except BaseException:
            sys.stderr.write(f"seed {seed}, example {number}: {data.hex()}\n")
            raise


def by_atheris(arguments: list[str]) -> None:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # of `make fuzz`

    # Not `instrument_all`: what the libraries do is not looked for, and costs most of the time.
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and str(found.__module__).startswith("vbackup."):
            atheris.instrument_func(found)
    atheris.Setup([sys.argv[0], *arguments], attack)
    atheris.Fuzz()


def main() -> None:
    """`N [SEED]` examples, `hex DATA` one of them, or `atheris ARGUMENTS`."""
    keys._SCRYPT_N = 2**4
    whole()
    limit_memory()
    if sys.argv[1] == "atheris":
        by_atheris(sys.argv[2:])
    elif sys.argv[1] == "hex":
        attack(bytes.fromhex(sys.argv[2]))
    else:
        by_hypothesis(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    sys.stderr.write(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB\n")


if __name__ == "__main__":
    main()
