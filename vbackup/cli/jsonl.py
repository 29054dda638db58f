"""Files of JSON lines that other programs read: findings, rows to re-embed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from vbackup.errors import Usage


def create(path: Path, flag: int, *, named: Path) -> TextIO:
    """A file to write that only its owner can read; `flag` says what is done with one that is
    there (os.O_TRUNC, os.O_EXCL). Raises Usage about `named`."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    except OSError as error:
        raise Usage(
            f"cannot write {named}: {error.strerror}",
            hint="name a file in a folder that this account can write to",
        ) from None
    return os.fdopen(handle, "w", encoding="utf-8")


class LineFile:
    """Written beside its final name, and moved there when the block ends without an error.

    Raises Usage at once when the place cannot be written to: nobody wants to hear that after an
    hour's restore.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._file = create(self._partial, os.O_TRUNC, named=path)

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, line: Mapping[str, object]) -> None:
        """One object, one line."""
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.count += 1
