"""Keeps secrets out of everything that people, logs and manifests see.

Two nets: values that were registered are replaced wherever they appear, and places where
secrets usually stand (conninfo, URLs, headers, JSON) are blanked even when the value is unknown.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from urllib.parse import quote, quote_plus

MASK = "***"

_SHORTEST = 4
# Passwords that are also everyday words of this tool. Replacing them everywhere would make
# messages unreadable and hide nothing; they are still blanked where a password stands.
_WORDS = frozenset(
    (
        "admin",
        "default",
        "demo",
        "guest",
        "minio",
        "minioadmin",
        "none",
        "null",
        "pass",
        "passphrase",
        "password",
        "postgres",
        "postgresql",
        "qdrant",
        "redis",
        "root",
        "secret",
        "test",
        "testing",
        "token",
        "true",
        "user",
        "vbackup",
    )
)

_NAMES = (
    r"(?:pg)?password|sslpassword|passwd|pwd|passphrase|scram_(?:client|server)_key"
    r"|(?:aws[_-])?secret(?:[_-]access)?(?:[_-]key)?|(?:aws[_-])?session[_-]token|security[_-]token"
    r"|(?:x[_-])?api[_-]?key|access[_-]token|auth[_-]token|token|oauth_client_secret"
    r"|x-amz-(?:signature|credential|security-token)"
)
_QUOTED = r"""'(?:[^'\\]|\\.|'')*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)"""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        # scheme://user:password@host; up to the last @ of the authority, as people forget to
        # encode an @ in a password.
        (r"(://[^\s/@:'\"]*):[^\s/'\"<>]*@", rf"\1:{MASK}@"),
        # The same with an unencoded slash in the password (no port looks like that).
        (r"(://[^\s/@:'\"]*):(?!\d+/)[^\s@'\"]*/[^\s@'\"]*@", rf"\1:{MASK}@"),
        (rf"([?&](?:{_NAMES})=)[^&\s#'\"]*", rf"\1{MASK}"),
        (rf"((['\"])(?:{_NAMES})\2\s*[:=]\s*)(?:{_QUOTED}|[^\s,}}\]]+)", rf"\1{MASK}"),
        (rf"((?<![\w?&'\"])(?:{_NAMES})\s*=\s*)(?:{_QUOTED}|(?:\\.|[^\s\\])+)", rf"\1{MASK}"),
        (r"(\b(?:x-)?api-key\s*:\s*)\S+", rf"\1{MASK}"),
        (r"(\bauthorization\s*:\s*)[^\r\n]+", rf"\1{MASK}"),
        (r"\b(Bearer\s+)[\w.~+/=-]{8,}", rf"\1{MASK}"),
        (r"\b((?-i:A(?:KIA|SIA|ROA)))(?-i:[A-Z0-9]{12,})\b", rf"\1{MASK}"),
    )
)


class _Registry:
    """The known secret values and one pattern that finds them, longest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        with self._lock:
            self._values |= _spellings(secret)
            longest_first = sorted(self._values, key=lambda value: (-len(value), value))
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def replace(self, text: str) -> str:
        pattern = self._pattern
        return pattern.sub(MASK, text) if pattern else text

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._pattern = None


def _spellings(secret: str) -> set[str]:
    """A secret as it stands in text, in a URL and in JSON."""
    escaped = json.dumps(secret)[1:-1]
    return {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), escaped}


_registry = _Registry()


def register(secret: str | None) -> None:
    """Remember a secret value: from now on `scrub` replaces it wherever it appears.

    Values shorter than 4 characters and everyday words ("postgres") are only blanked where a
    password stands. Thread-safe.
    """
    value = (secret or "").strip()
    if len(value) >= _SHORTEST and value.lower() not in _WORDS:
        _registry.add(value)


def forget() -> None:
    """Forget all registered secrets (for tests)."""
    _registry.clear()


def scrub(text: str) -> str:
    """The text without secrets."""
    cleaned = _registry.replace(text)
    for pattern, replacement in _PATTERNS:
        cleaned = pattern.sub(replacement, cleaned)
    return cleaned


def scrub_tree(value: object) -> object:
    """A JSON-like value with every string in it scrubbed; keys that name a secret are masked."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if _names_secret(key) and isinstance(inner, str) else scrub_tree(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [scrub_tree(inner) for inner in value]
    return value


_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)


def _names_secret(key: object) -> bool:
    return isinstance(key, str) and _SECRET_NAME.fullmatch(key) is not None


def safe_url(url: str) -> str:
    """A URL for people: without its password and secret query parameters."""
    return scrub(url)


def safe_dsn(dsn: str) -> str:
    """A libpq conninfo (keywords or URL, several hosts included) for people."""
    return scrub(dsn)
