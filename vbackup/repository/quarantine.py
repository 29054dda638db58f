"""Packs that must not be relied upon: found damaged by a verification, or about to be pruned."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from vbackup.errors import Damaged, NotFound
from vbackup.ports import ObjectStore
from vbackup.repository import sealed
from vbackup.repository.codec import Seal

DAMAGED_PREFIX = "damaged/"
DOOMED_PREFIX = "doomed/"
_LIMIT = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class DamagedPack:
    """What a verification found wrong with one pack."""

    pack: str
    at: datetime
    detail: str


def report_damaged(store: ObjectStore, seal: Seal, pack: bytes, at: datetime, why: str) -> None:
    """Record a damaged pack: the next backup stores anew what it would have reused of it."""
    key = DAMAGED_PREFIX + pack.hex()
    raw = msgspec.json.encode(DamagedPack(pack.hex(), at, why))
    store.put(key, sealed.encode(seal, sealed.DAMAGED, key, raw))


def damaged_packs(store: ObjectStore) -> set[bytes]:
    """The packs recorded as damaged; the record's name is enough."""
    found = set()
    for stat in store.scan(DAMAGED_PREFIX):
        with suppress(ValueError):
            found.add(bytes.fromhex(stat.key.removeprefix(DAMAGED_PREFIX)))
    return found


def forget_damaged(store: ObjectStore, packs: Iterable[bytes]) -> None:
    """Remove the records of packs that are gone, or good after all."""
    store.delete([DAMAGED_PREFIX + pack.hex() for pack in packs])


def doom(store: ObjectStore, seal: Seal, run: str, packs: Iterable[bytes]) -> str:
    """Announce that these packs are about to be deleted; the key of the announcement."""
    key = DOOMED_PREFIX + run
    store.put(key, sealed.encode(seal, sealed.DOOMED, key, b"".join(packs)))
    return key


def forget_doomed(store: ObjectStore) -> None:
    """Remove all announcements: the packs are gone, or stay after all."""
    store.delete([stat.key for stat in store.scan(DOOMED_PREFIX)])


def doomed_packs(store: ObjectStore, seal: Seal) -> tuple[set[bytes], dict[str, str]]:
    """All packs announced for deletion, and the announcements that cannot be read, with the
    reason. A writer must not guess what those say."""
    found: set[bytes] = set()
    unreadable: dict[str, str] = {}
    for stat in store.scan(DOOMED_PREFIX):
        try:
            data = store.get(stat.key)
            raw = sealed.decode(seal, sealed.DOOMED, stat.key, data, limit=_LIMIT)
        except NotFound:
            continue
        except Damaged as error:
            unreadable[stat.key] = str(error)
            continue
        found.update(raw[i : i + 32] for i in range(0, len(raw), 32))
    return found, unreadable
