"""The patch while it is being made: three spill files, in the order a restore applies them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vbackup.model.patch import Delete, PatchLine, Reembed, Upsert, decode, encode

READ_BLOCK = 1 << 20


class PatchFile:
    """Collects patch lines on disk and streams them out: deletes, upserts, re-embeds."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._files: dict[type[PatchLine], IO[bytes]] = {
            kind: (directory / f"{kind.__name__.lower()}.jsonl").open("w+b")
            for kind in (Delete, Upsert, Reembed)
        }
        self._again = 0
        self.upserts = 0
        self.deletes = 0
        self.reembeds = 0
        self.reasons: Counter[str] = Counter()
        self.removals: Counter[str] = Counter()
        """By collection, the points that go and that no other point of their row replaces."""

    def add(self, line: PatchLine) -> None:
        """Append one line."""
        self._files[type(line)].write(encode(line))
        match line:
            case Delete():
                self.deletes += 1
                self.removals[line.collection] += line.shrinks
            case Upsert():
                self.upserts += 1
            case Reembed():
                self.reembeds += 1
                self.reasons[line.reason] += 1

    @property
    def empty(self) -> bool:
        """Whether the shard snapshots already are the state at the watermark."""
        return self.upserts + self.deletes + self.reembeds == 0

    def take_reembeds(self) -> Iterator[Reembed]:
        """Remove the re-embed lines collected so far and stream them, to decide them again:
        lines that are added meanwhile are new ones. They may be as many as there are rows."""
        taken = self._files[Reembed]
        self._again += 1
        again = self._directory / f"reembed-{self._again}.jsonl"
        self._files[Reembed] = again.open("w+b")
        self.reembeds = 0
        self.reasons.clear()
        return _taken(taken)

    def stream(self) -> Iterator[bytes]:
        """The whole patch, as it is stored."""
        for kind in (Delete, Upsert, Reembed):
            file = self._files[kind]
            file.flush()
            file.seek(0)
            yield from _blocks(file)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()


def _taken(file: IO[bytes]) -> Iterator[Reembed]:
    with file:
        file.seek(0)
        for line in decode(_blocks(file)):
            if isinstance(line, Reembed):
                yield line


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(READ_BLOCK):
        yield block
