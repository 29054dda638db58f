"""vbackup.json: what the repository is, and the keys in their slots.

One line of JSON whose last member, `mac`, authenticates all the bytes before and after it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import msgspec

from vbackup.errors import AlreadyExists, Damaged, Denied, Failed, NotFound, Refused
from vbackup.ports import ObjectStore
from vbackup.repository import keys, untrusted
from vbackup.repository.chunker import ChunkerParameters
from vbackup.repository.keys import KeySlot, RepositoryKeys

_COPY = "bring this object back from another copy of the repository: it holds the keys"
KEY = "vbackup.json"
FORMAT = "vbackup repository"
VERSION = 1
CHUNKER = "fastcdc2020-nc1-by-stream"

_EARLY = "fastcdc2020-nc1"
_BLANK = "0" * 64
_LIMIT = 1024**2


@dataclass(frozen=True, slots=True)
class Header:
    """The values of vbackup.json. `key` is the repository key, in clear, only when encryption
    is none."""

    id: str
    created_at: datetime
    encryption: Literal["passphrase", "none"]
    chunker: ChunkerParameters
    slots: tuple[KeySlot, ...] = ()
    key: str = ""
    algorithm: str = CHUNKER
    format: str = FORMAT
    version: int = VERSION
    mac: str = _BLANK

    @property
    def encrypted(self) -> bool:
        """Whether stored bytes are unreadable without a passphrase."""
        return self.encryption == "passphrase"


_HEADERS = msgspec.json.Decoder(Header)
_ANYTHING = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Opened:
    """A header with its keys. `slot` is the id of the slot that opened, empty without one."""

    header: Header
    keys: RepositoryKeys
    slot: str = ""


def create(
    store: ObjectStore, passphrase: str | None, chunker: ChunkerParameters, at: datetime
) -> Opened:
    """Write a new vbackup.json. Raises AlreadyExists; Refused where packs lie about without one
    (it may be lost: a new one would orphan them)."""
    if store.stat(KEY) is None and next(iter(store.scan("packs/")), None) is not None:
        raise Refused(
            f"{store.location} holds packs but no {KEY}",
            hint="restore that object (it holds the keys), or choose an empty prefix",
        )
    fresh = keys.new_keys()
    header = Header(
        id=secrets.token_hex(16),
        created_at=at,
        encryption="none" if passphrase is None else "passphrase",
        chunker=chunker,
        slots=() if passphrase is None else (keys.wrap(fresh, passphrase, "first", at),),
        key=fresh.master.hex() if passphrase is None else "",
    )
    _put(store, _encode(header, fresh), if_absent=True)
    return Opened(header, fresh)


def check_there(store: ObjectStore) -> None:
    """Before anything is written for a repository that must be there already: a directory whose
    file system is not mounted would take it. Raises NotFound."""
    if store.stat(KEY) is None:
        raise _nothing_at(store)


def _nothing_at(store: ObjectStore) -> NotFound:
    return NotFound(
        f"no repository at {store.location}",
        hint="vbackup init makes a new one; is the file system of an old one mounted?"
        if store.location.startswith("file:")
        else "vbackup init",
    )


def load(store: ObjectStore, passphrase: str | None) -> Opened:
    """Read and authenticate vbackup.json.

    Raises NotFound (no repository), Denied (passphrase missing or wrong), Refused (newer
    format, or not encrypted though a passphrase was given), Damaged."""
    try:
        raw = store.get(KEY, 0, _LIMIT + 1)
    except NotFound:
        raise _nothing_at(store) from None
    header = _decode(raw)
    found, slot = _unlock(header, passphrase, store.location)
    _authenticate(raw, header, found)
    return Opened(header, found, slot)


def change_slots(
    store: ObjectStore,
    opened: Opened,
    change: Callable[[tuple[KeySlot, ...]], tuple[KeySlot, ...]],
) -> Opened:
    """Rewrite the slots of the header as it is stored now. Raises Refused without encryption."""
    raw = store.get(KEY, 0, _LIMIT + 1)
    header = _decode(raw)
    _authenticate(raw, header, opened.keys)
    if not header.encrypted:
        raise Refused("the repository is not encrypted: it has no passphrases")
    changed = replace(header, slots=change(header.slots))
    _put(store, _encode(changed, opened.keys), if_absent=False)
    return replace(opened, header=changed)


def _put(store: ObjectStore, data: bytes, *, if_absent: bool) -> None:
    """Write and read back: nothing else in the repository can be read without this object."""
    if if_absent and not store.conditional and store.stat(KEY) is not None:
        raise AlreadyExists(f"there is a repository at {store.location}")
    store.put(KEY, data, if_absent=if_absent)
    if store.get(KEY) != data:
        raise Failed(f"{KEY} was not stored as it was written", hint="check the storage")


def _encode(header: Header, found: RepositoryKeys) -> bytes:
    blank = msgspec.json.encode(replace(header, mac=_BLANK))
    return blank.replace(_BLANK.encode(), found.mac(blank).encode())


def _decode(raw: bytes) -> Header:
    if len(raw) > _LIMIT:
        raise Damaged(f"{KEY} is larger than {_LIMIT} bytes", hint=_COPY)
    _refuse_newer(raw)
    header = untrusted.parse(_HEADERS, raw, KEY, hint=_COPY)
    if header.format == FORMAT and header.algorithm == _EARLY:
        raise Refused(
            "the repository was made by a development version of vbackup, before the format was"
            " settled",
            hint="back up into another prefix; the version that made it can still restore from it",
        )
    if header.format != FORMAT or header.algorithm != CHUNKER or not header.chunker.valid():
        raise Damaged(f"{KEY} does not describe a repository that this vbackup knows", hint=_COPY)
    for slot in header.slots:
        keys.check_slot(slot)
    return header


def _refuse_newer(raw: bytes) -> None:
    loose = untrusted.parse(_ANYTHING, raw, KEY, hint=_COPY)
    version = loose.get("version") if isinstance(loose, dict) else None
    if not isinstance(version, int) or version < 1:
        raise Damaged(f"{KEY} has no format version", hint=_COPY)
    if version > VERSION:
        raise Refused(
            f"the repository has format {version}; this vbackup knows {VERSION}",
            hint="upgrade vbackup",
        )


def _unlock(header: Header, passphrase: str | None, where: str) -> tuple[RepositoryKeys, str]:
    if header.encrypted:
        if passphrase is None:
            raise Denied(
                f"the repository at {where} is encrypted and no passphrase was given",
                hint="set repository.passphrase, passphrase_file or passphrase_command, or give"
                " --passphrase-file",
            )
        found, slot = keys.unwrap(header.slots, passphrase)
        return found, slot.id
    if passphrase is not None:
        # Else whoever can write the bucket could make the next backup readable for himself.
        raise Refused(
            f"the repository at {where} is not encrypted, but a passphrase is configured",
            hint='set repository.encryption = "none", or choose another prefix',
        )
    try:
        master = bytes.fromhex(header.key)
    except ValueError:
        master = b""
    if len(master) != 32:
        raise Damaged(f"{KEY}: the repository key is malformed", hint=_COPY)
    return RepositoryKeys(master), ""


def _authenticate(raw: bytes, header: Header, found: RepositoryKeys) -> None:
    mac = header.mac.encode()
    if raw.count(mac) != 1 or found.mac(raw.replace(mac, _BLANK.encode())) != header.mac:
        raise Damaged(f"{KEY} was changed: it does not match its own checksum", hint=_COPY)
