"""The rows that the application's indexer must embed again, as JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vbackup.cli.jsonl import LineFile

if TYPE_CHECKING:
    from vbackup.model.finding import Finding
    from vbackup.model.manifest import Manifest
    from vbackup.model.patch import Reembed
    from vbackup.ports import Repository


def reembed_line(line: Reembed) -> dict[str, object]:
    """`{"link", "key", "version", "tenant", "reason"}`, and `collection` where rows name it;
    reasons are in docs/guarantees.md."""
    return _line(line.link, line.key, line.version, line.tenant, line.reason, line.collection)


def line_of_finding(finding: Finding) -> dict[str, object]:
    """The same of a finding; `collection` is where its point is."""
    return _line(
        finding.link,
        finding.key,
        finding.row_version,
        finding.tenant,
        finding.kind,
        finding.collection or None,
    )


def _line(
    link: str,
    key: str | None,
    version: str | None,
    tenant: str | None,
    reason: str,
    collection: str | None,
) -> dict[str, object]:
    line: dict[str, object] = {
        "link": link,
        "key": key,
        "version": version,
        "tenant": tenant,
        "reason": reason,
    }
    return line if collection is None else line | {"collection": collection}


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
