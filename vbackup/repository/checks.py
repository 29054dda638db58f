"""The results of earlier verifications, over all backups."""

from __future__ import annotations

from vbackup.errors import Damaged, NotFound
from vbackup.model.manifest import CheckRecord
from vbackup.repository import manifest as manifests
from vbackup.repository.repository import Repository


def newest_passed(repository: Repository, level: str) -> CheckRecord | None:
    """The newest check of a level that passed, of whatever backup; None when there is none.
    Records that cannot be read count as none: `verify` reports them."""
    found = [
        stat.key
        for stat in repository.store.scan(manifests.PREFIX)
        if "/checks/" in stat.key and stat.key.endswith(f"-{level}")
    ]
    # The last part of the key begins with the time.
    for key in sorted(found, key=lambda key: key.rpartition("/")[2], reverse=True):
        try:
            record = manifests.read_check(repository.store, repository.seal, key)
        except (Damaged, NotFound):
            continue
        if record.ok:
            return record
    return None
