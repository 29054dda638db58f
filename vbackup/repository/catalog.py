"""Loading what the repository holds: index objects, stray packs, packs to avoid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from vbackup.errors import Damaged, NotFound
from vbackup.ports import ObjectStat, ObjectStore
from vbackup.repository import index as index_objects
from vbackup.repository import packs as pack_objects
from vbackup.repository import quarantine
from vbackup.repository.codec import Seal
from vbackup.repository.index import ChunkIndex, PackEntries

_JOBS = 8
_AHEAD = 16
_AHEAD_BYTES = 64 * 1024**2


@dataclass(slots=True)
class Catalog:
    """The index as it was loaded, with what did not fit.

    `missing`: indexed packs that are not stored, or not in their size. `strays`: stored packs
    that no index object names (a killed backup's), readable and now in the index. `unreadable`:
    index objects and stray packs that could not be read, with the reason.
    """

    index: ChunkIndex = field(default_factory=ChunkIndex)
    objects: list[str] = field(default_factory=list)
    stored: dict[bytes, ObjectStat] = field(default_factory=dict)
    missing: set[bytes] = field(default_factory=set)
    damaged: set[bytes] = field(default_factory=set)
    doomed: set[bytes] = field(default_factory=set)
    strays: list[PackEntries] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def load_index(store: ObjectStore, seal: Seal) -> Catalog:
    """The index objects only: enough to read. Unreadable ones are noted, not fatal: what only
    they name is reported as missing by whoever needs it."""
    catalog = Catalog()
    with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-index") as pool:
        for batch in _batches(store.scan(index_objects.PREFIX)):
            futures = [
                pool.submit(index_objects.fetch, store, stat.key, listed=stat.size)
                for stat in batch
            ]
            for stat, future in zip(batch, futures, strict=True):
                _learn(catalog, seal, stat.key, future)
    catalog.index.settle()
    return catalog


def _batches(stats: Iterable[ObjectStat]) -> Iterator[list[ObjectStat]]:
    """A few objects at a time: fetched together, they are large. They are opened one by one, as
    each may hold far more than its size."""
    batch: list[ObjectStat] = []
    size = 0
    for stat in stats:
        if batch and (len(batch) == _AHEAD or size + stat.size > _AHEAD_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(stat)
        size += stat.size
    if batch:
        yield batch


def _learn(catalog: Catalog, seal: Seal, key: str, future: Future[bytes]) -> None:
    try:
        catalog.index.learn(index_objects.parse(seal, key, future.result()))
    except NotFound:
        return  # Pruned since the listing; what replaced it is found as strays, or next time.
    except Damaged as error:
        catalog.unreadable[key] = str(error)
    catalog.objects.append(key)


def load(store: ObjectStore, seal: Seal) -> Catalog:
    """All of it: what a writer, a pruner or a verification goes by."""
    doomed, unreadable = quarantine.doomed_packs(store, seal)
    catalog = load_index(store, seal)
    catalog.doomed = doomed
    catalog.unreadable |= unreadable
    catalog.stored = pack_objects.stored_packs(store)
    catalog.damaged = quarantine.damaged_packs(store)
    known = catalog.index.packs
    for pack, size in known.items():
        stat = catalog.stored.get(pack) or store.stat(pack_objects.pack_key(pack))
        if stat is None or stat.size != size:
            catalog.missing.add(pack)
    _adopt_strays(store, seal, catalog, [pack for pack in catalog.stored if pack not in known])
    for pack in catalog.missing | catalog.damaged | catalog.doomed:
        catalog.index.avoid(pack)
    return catalog


def load_for_writing(store: ObjectStore, seal: Seal) -> Catalog:
    """`load`, for a writer that holds its lease already. Raises Damaged when an announcement of
    a prune cannot be read: its packs might be reused while they are deleted."""
    catalog = load(store, seal)
    for key, problem in catalog.unreadable.items():
        if key.startswith(quarantine.DOOMED_PREFIX):
            raise Damaged(f"{key}: {problem}", hint="vbackup prune removes it")
    return catalog


def _adopt_strays(store: ObjectStore, seal: Seal, catalog: Catalog, strays: list[bytes]) -> None:
    def entries(pack: bytes) -> PackEntries:
        size = catalog.stored[pack].size
        return pack, size, pack_objects.read_entries(store, seal, pack, size)

    with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-index") as pool:
        futures = {pack: pool.submit(entries, pack) for pack in strays}
        for pack, future in futures.items():
            try:
                catalog.strays.append(future.result())
            except (Damaged, NotFound) as error:
                catalog.unreadable[pack_objects.pack_key(pack)] = str(error)
    catalog.index.learn(catalog.strays)
    catalog.index.settle()
