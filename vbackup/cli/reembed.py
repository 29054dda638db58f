"""The rows that the application's indexer must embed again, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.jsonl import LineFile

if TYPE_CHECKING:
    from vbackup.model.manifest import Manifest
    from vbackup.model.patch import Reembed
    from vbackup.ports import Repository


def reembed_line(line: Reembed) -> dict[str, object]:
    """`{"link", "key", "version", "tenant", "reason"}`, and `collection` where rows name it;
    reasons are in docs/guarantees.md."""
    written: dict[str, object] = {
        "link": line.link,
        "key": line.key,
        "version": line.version,
        "tenant": line.tenant,
        "reason": line.reason,
    }
    return written if line.collection is None else written | {"collection": line.collection}


def reembed_lines(repository: Repository, manifest: Manifest) -> Iterator[Reembed]:
    """Out of a stored backup. Raises Damaged."""
    from vbackup.model.patch import Reembed, decode

    if manifest.patch.artifact is not None:
        for line in decode(repository.read(manifest.patch.artifact)):
            if isinstance(line, Reembed):
                yield line


def write_reembed(path: Path, lines: Iterable[Reembed]) -> int:
    """Write the file; how many lines it has. Raises Usage when the place cannot be written."""
    with LineFile(path) as file:
        for line in lines:
            file.write(reembed_line(line))
        return file.count
