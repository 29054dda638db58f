"""`${env:NAME}` and `${file:/path}` in any string of the configuration."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbackup.mistakes import Mistake, join_key

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_UNKNOWN = re.compile(r"\$\{(?!(?:env|file):[^}])[^}]*\}")
# An empty one of these would quietly mean another server: libpq's defaults.
_NEVER_EMPTY = ("postgres.dsn", "repository.url", "repository.passphrase", "qdrant.url")


@dataclass(slots=True)
class References:
    """Replaces references in every string; `sources` says which key came from where, `mistakes`
    what could not be found. Relative files count from `directory`."""

    directory: Path
    sources: dict[str, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def resolve(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self.resolve(inner, join_key(key, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.resolve(inner, join_key(key, n)) for n, inner in enumerate(value)]
        return self._text(value, key) if isinstance(value, str) else value

    def _text(self, text: str, key: str) -> str:
        if found := _UNKNOWN.search(text):
            # Taken as it stands it could become a passphrase that nobody knows.
            reason = f"{found[0]} is no reference: write ${{env:NAME}} or ${{file:/path}}"
            self.mistakes.append(Mistake(key, reason))
        value = _REFERENCE.sub(lambda found: self._lookup(found[1], found[2], key), text)
        if text and not value and key in _NEVER_EMPTY:
            self.mistakes.append(Mistake(key, f"{text} is empty"))
        return value

    def _lookup(self, kind: str, name: str, key: str) -> str:
        self.sources[key] = f"{kind} {name}"
        value = os.environ.get(name) if kind == "env" else self._file(name, key)
        if value is None and kind == "env":
            self.mistakes.append(Mistake(key, f"environment variable {name} is not set"))
        return value or ""

    def _file(self, name: str, key: str) -> str | None:
        try:
            return (self.directory / Path(name).expanduser()).read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            self.mistakes.append(Mistake(key, f"cannot read {name}: {error.strerror}"))
        except UnicodeDecodeError:
            self.mistakes.append(Mistake(key, f"cannot read {name}: not UTF-8 text"))
        return None
