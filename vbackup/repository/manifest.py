"""Manifests: encoded, sealed, and believed only after strict validation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import msgspec

from vbackup.errors import Damaged, Failed, NotFound, Refused, Usage
from vbackup.model.manifest import Artifact, CheckRecord, Manifest
from vbackup.ports import ObjectStore
from vbackup.repository import sealed, untrusted
from vbackup.repository.codec import Seal
from vbackup.repository.recipe import MAX_DEPTH

PREFIX = "backups/"
VERSION = 1
MAX_LENGTH = 2**50
LIMIT = 32 * 1024**2
_CHECK_LIMIT = 1024**2

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*(\.[0-9A-Za-z_-]+)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_ID = re.compile(r"[0-9a-f]{32}")


class _Version(msgspec.Struct):
    """Just that member: whatever else a newer manifest holds is skipped, and costs no memory."""

    version: int


# Made at import: msgspec 0.22 crashes the interpreter when threads are the first to use a type.
_MANIFESTS = msgspec.json.Decoder(Manifest)
_VERSIONS = msgspec.json.Decoder(_Version)
_CHECKS = msgspec.json.Decoder(CheckRecord)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


def check_id(backup_id: str) -> str:
    """The id itself. Raises Usage when it could not be part of an object's key."""
    if not is_id(backup_id):
        raise Usage(f"not a backup id: {backup_id!r}", hint="vbackup list")
    return backup_id


def is_id(text: str) -> bool:
    """Whether a backup could be called so."""
    return len(text) <= 64 and bool(_ID.fullmatch(text))


def manifest_key(backup_id: str) -> str:
    """The object whose existence is the backup's."""
    return f"{PREFIX}{backup_id}/manifest"


def artifact_name(*parts: str) -> str:
    """A name for an artifact out of any text (tables and collections may be called anything):
    parts are percent-encoded where needed and joined by `/`."""
    encoded = [quote(part, safe="") for part in parts]
    return "/".join("%2E" * len(e) if e in {".", ".."} else e for e in encoded)


def check_name(name: str) -> str:
    """The name itself. Raises Usage when it is empty, absolute, or climbs (`..`)."""
    if not _good_name(name):
        raise Usage(f"not an artifact name: {name!r}")
    return name


def _good_name(name: str) -> bool:
    parts = name.split("/")
    return 0 < len(name) <= 4096 and not _FORBIDDEN.search(name) and not {"", ".", ".."} & {*parts}


def encode(seal: Seal, manifest: Manifest) -> bytes:
    """The manifest object. Raises Failed for one that nobody would read."""
    raw = msgspec.json.encode(manifest)
    if len(raw) > LIMIT:
        raise Failed(
            f"the manifest of {manifest.id} would have {len(raw)} bytes; {LIMIT} are allowed",
            hint="split the configuration: fewer collections or large tables in each",
        )
    return sealed.encode(seal, sealed.MANIFEST, manifest.id, raw)


def decode(seal: Seal, backup_id: str, data: bytes) -> Manifest:
    """The manifest of this backup. Raises Damaged; Refused when a newer vbackup wrote it."""
    raw = sealed.decode(seal, sealed.MANIFEST, backup_id, data, limit=LIMIT)
    what = f"manifest of {backup_id}"
    version = untrusted.parse(_VERSIONS, raw, what).version
    if version > VERSION:
        raise Refused(
            f"backup {backup_id} has manifest version {version}; this vbackup knows {VERSION}",
            hint="upgrade vbackup",
        )
    manifest = untrusted.parse(_MANIFESTS, raw, what)
    problem = _problem(manifest, backup_id)
    if problem:
        raise Damaged(f"{what} is malformed: {problem}")
    return manifest


def _problem(manifest: Manifest, backup_id: str) -> str:
    if manifest.id != backup_id:
        return f"it says that it is {manifest.id!r}"
    if manifest.version != VERSION:
        return f"version {manifest.version}"
    if manifest.created_at.tzinfo is None:
        return "a time without a zone"
    for collection in manifest.qdrant.collections if manifest.qdrant else ():
        if "/" in collection.name or not _good_name(collection.name):
            return f"collection name {collection.name!r}"
    return next(filter(None, map(_artifact_problem, manifest.artifacts())), "")


def _artifact_problem(artifact: Artifact) -> str:
    if not _good_name(artifact.name):
        return f"artifact name {artifact.name!r}"
    if not 0 <= artifact.length <= MAX_LENGTH:
        return f"{artifact.name}: length {artifact.length}"
    if not 0 <= artifact.depth <= MAX_DEPTH:
        return f"{artifact.name}: recipe of depth {artifact.depth}"
    digests = [artifact.blake3, *filter(None, [artifact.sha256])]
    if not all(map(_DIGEST.fullmatch, digests)) or not all(map(_CHUNK_ID.fullmatch, artifact.root)):
        return f"{artifact.name}: a digest is none"
    if len(artifact.root) != bool(artifact.length):
        return f"{artifact.name}: length {artifact.length} with {len(artifact.root)} roots"
    return ""


# ---------------------------------------------------------------- beside the manifest


def check_key(backup_id: str, record: CheckRecord) -> str:
    """Where one check record goes: in key order by time."""
    return f"{PREFIX}{backup_id}/checks/{record.at:%Y%m%dT%H%M%S%fZ}-{record.level}"


def encode_check(seal: Seal, key: str, record: CheckRecord) -> bytes:
    """The check record's object."""
    return sealed.encode(seal, sealed.CHECK, key, msgspec.json.encode(record))


def decode_check(seal: Seal, key: str, data: bytes) -> CheckRecord:
    """Raises Damaged."""
    raw = sealed.decode(seal, sealed.CHECK, key, data, limit=_CHECK_LIMIT)
    return untrusted.parse(_CHECKS, raw, key)


def read_check(store: ObjectStore, seal: Seal, key: str) -> CheckRecord:
    """One stored check record. Raises NotFound, Damaged."""
    return decode_check(seal, key, sealed.fetch(store, key, _CHECK_LIMIT))


def pin_key(backup_id: str) -> str:
    """The object whose existence keeps a backup whatever the policy says."""
    return f"{PREFIX}{backup_id}/pin"


def bad_records(store: ObjectStore, seal: Seal, backup_id: str) -> Iterator[tuple[str, str]]:
    """The objects beside a manifest that cannot be read: key and reason."""
    for stat in store.scan(f"{PREFIX}{backup_id}/"):
        rest = stat.key.removeprefix(f"{PREFIX}{backup_id}/")
        try:
            if rest == "pin":
                data = sealed.fetch(store, stat.key, _CHECK_LIMIT)
                sealed.decode(seal, sealed.PIN, stat.key, data, limit=_CHECK_LIMIT)
            elif rest != "manifest":
                read_check(store, seal, stat.key)
        except (Damaged, Refused) as error:
            yield stat.key, str(error)
        except NotFound:
            continue  # Pruned since the listing.
