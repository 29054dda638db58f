"""What is noted of packs: found damaged by a verification, unused for now, about to be deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from vbackup.errors import Damaged, NotFound
from vbackup.ports import ObjectStore
from vbackup.repository import sealed, untrusted
from vbackup.repository.codec import Seal

DAMAGED_PREFIX = "damaged/"
DOOMED_PREFIX = "doomed/"
UNUSED_KEY = "unused/packs"
_LIMIT = 64 * 1024**2
_UNUSED = 32 * 1024**2


_TIMES = msgspec.json.Decoder(dict[str, datetime])


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
            data = sealed.fetch(store, stat.key, _LIMIT)
            raw = sealed.decode(seal, sealed.DOOMED, stat.key, data, limit=_LIMIT)
        except NotFound:
            continue
        except Damaged as error:
            unreadable[stat.key] = str(error)
            continue
        found.update(raw[i : i + 32] for i in range(0, len(raw), 32))
    return found, unreadable


def unused_packs(store: ObjectStore, seal: Seal) -> dict[bytes, datetime]:
    """When the last backup went that needed all of a pack, by the store's clock. What cannot be
    read counts as never noted: then the wait begins anew."""
    try:
        data = sealed.fetch(store, UNUSED_KEY, _UNUSED)
        raw = sealed.decode(seal, sealed.UNUSED, UNUSED_KEY, data, limit=_UNUSED)
        times = untrusted.parse(_TIMES, raw, UNUSED_KEY)
        return {bytes.fromhex(pack): at for pack, at in times.items() if at.tzinfo}
    except (NotFound, Damaged, ValueError):
        return {}


def note_unused(store: ObjectStore, seal: Seal, packs: Mapping[bytes, datetime]) -> None:
    """Remember it until the next prune."""
    if not packs:
        store.delete([UNUSED_KEY])
        return
    raw = msgspec.json.encode({pack.hex(): at for pack, at in packs.items()})
    store.put(UNUSED_KEY, sealed.encode(seal, sealed.UNUSED, UNUSED_KEY, raw))
