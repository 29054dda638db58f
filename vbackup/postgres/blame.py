"""Failures of a restore that speak of the server, not of the backup."""

from __future__ import annotations

import re

from vbackup.errors import VbackupError

# What the server says when it lacks something that no archive can bring along, and what to do.
_LACKS = (
    (r'extension "([^"]+)" is not available', "extension {} is not installed on the server"),
    (r'could not open extension control file ".*/([^/"]+)\.control"', "extension {} is missing"),
    (r'could not access file "([^"]+)"', "the server has no library {}"),
    (r'could not load library "([^"]+)"', "the server cannot load the library {}"),
    (r'could not open dictionary file "([^"]+)"', "the server has no dictionary file {}"),
    (r"must be loaded via \"?shared_preload_libraries\"?", "a library must be preloaded"),
    (r'role "([^"]+)" does not exist', "the server has no role {}"),
    (r'tablespace "([^"]+)" does not exist', "the server has no tablespace {}"),
    (r'language "([^"]+)" does not exist', "the server has no language {}"),
    (r'access method "([^"]+)" does not exist', "the server has no access method {}"),
    (r'unrecognized configuration parameter "([^"]+)"', "the server has no setting {}"),
    (r'collation "([^"]+)" .*does not exist', "the server has no collation {}"),
    (r'could not create locale "([^"]+)"', "the server has no locale {}"),
    (r"(?:permission denied|must be (?:superuser|owner|member))[^;]*", "its user may not do that"),
    (r"No space left on device", "the server's disk is full"),
    (r"max_locks_per_transaction", "the server has too few locks"),
)


def lacking(error: VbackupError) -> str:
    """What the server lacks, when that is why a restore failed; else empty."""
    for pattern, text in _LACKS:
        if found := re.search(pattern, error.message):
            return text.format(*found.groups())
    return ""
