"""Rewriting the index: after a sweep, and from the packs alone when index objects are lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vbackup.errors import Damaged, NotFound
from vbackup.ports import ObjectStore
from vbackup.repository import index as index_objects
from vbackup.repository import packs as pack_objects
from vbackup.repository.catalog import Catalog
from vbackup.repository.codec import Seal
from vbackup.repository.index import PackEntries
from vbackup.repository.packs import pack_key
from vbackup.repository.repository import Repository

PACKS_AN_OBJECT = 256
_SCATTERED = 16


@dataclass(frozen=True, slots=True)
class RepairedIndex:
    """`unreadable`: packs whose own index could not be read, with the reason."""

    packs: int
    chunks: int
    unreadable: dict[str, str]


def rewrite(store: ObjectStore, seal: Seal, catalog: Catalog, *, without: set[bytes]) -> None:
    """New index objects for all stored packs but these, then the old objects are deleted.

    Nothing happens when the index is right as it is and not scattered."""
    known = catalog.index.packs
    gone = {pack for pack in known if pack not in catalog.stored}
    unreadable = [key for key in catalog.unreadable if key.startswith(index_objects.PREFIX)]
    scattered = len(catalog.objects) > len(known) / PACKS_AN_OBJECT + _SCATTERED
    if not (gone or unreadable or scattered or catalog.strays or without & known.keys()):
        return
    keep = set(catalog.stored) - without
    written = _write(store, seal, _named(store, seal, catalog, keep))
    store.delete([key for key in catalog.objects if key not in written])


def _named(
    store: ObjectStore, seal: Seal, catalog: Catalog, keep: set[bytes]
) -> Iterator[PackEntries]:
    """The packs to keep, once each, out of the old objects and the strays."""
    left = set(keep)

    def take(packs: Iterable[PackEntries]) -> Iterator[PackEntries]:
        for pack in packs:
            if pack[0] in left:
                left.discard(pack[0])
                yield pack

    for key in catalog.objects:
        if key not in catalog.unreadable:
            yield from take(index_objects.read(store, seal, key))
    yield from take(catalog.strays)


def _write(store: ObjectStore, seal: Seal, packs: Iterable[PackEntries]) -> set[str]:
    written: set[str] = set()
    batch: list[PackEntries] = []
    for pack in packs:
        batch.append(pack)
        if len(batch) == PACKS_AN_OBJECT:
            written.add(index_objects.write(store, seal, batch)[0])
            batch = []
    if batch:
        written.add(index_objects.write(store, seal, batch)[0])
    return written


def index_packs(store: ObjectStore, seal: Seal, packs: Iterable[bytes]) -> None:
    """Name these packs in the index again: the store would not let go of them."""
    chosen = set(packs)
    _write(store, seal, _from_packs(store, seal, {}, [0, 0], chosen) if chosen else ())


def repair_index(repository: Repository) -> RepairedIndex:
    """Rebuild the index from the packs' own indexes and replace what is there.

    Holds the `pruner` lease. Old objects are deleted only when every pack could be read: what
    cannot be read now may still be named by one of them. Raises Locked."""
    store, seal = repository.store, repository.seal
    with repository.lease("pruner"):
        old = [stat.key for stat in store.scan(index_objects.PREFIX)]
        unreadable: dict[str, str] = {}
        counts = [0, 0]
        written = _write(store, seal, _from_packs(store, seal, unreadable, counts))
        if not unreadable:
            store.delete([key for key in old if key not in written])
    repository.refresh()
    return RepairedIndex(counts[0], counts[1], unreadable)


def _from_packs(
    store: ObjectStore,
    seal: Seal,
    unreadable: dict[str, str],
    counts: list[int],
    chosen: set[bytes] | None = None,
) -> Iterator[PackEntries]:
    for pack, stat in pack_objects.stored_packs(store).items():
        if chosen is not None and pack not in chosen:
            continue
        try:
            entries = pack_objects.read_entries(store, seal, pack, stat.size)
        except (Damaged, NotFound) as error:
            unreadable[pack_key(pack)] = str(error)
            continue
        counts[0] += 1
        counts[1] += len(entries)
        yield pack, stat.size, entries
