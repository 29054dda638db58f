"""Where findings go: files of JSON lines, and a few examples for the screen."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vbackup.cli.jsonl import LineFile
from vbackup.cli.reembed import line_of_finding

if TYPE_CHECKING:
    from vbackup.model.finding import Finding

EXAMPLES = 10
REEMBED_KINDS = frozenset({"missing", "stale", "ahead", "wrong_count"})
"""Findings that go away when the row is embedded again."""


class Evidence:
    """Takes findings one by one; the files appear when the block ends without an error.

    `limit` bounds the findings that are written, never what is counted or embedded again.
    Raises Usage at once when a file cannot be written.
    """

    def __init__(self, output: Path | None, reembed: Path | None, limit: int | None = None) -> None:
        self.seen = 0
        self._limit = limit
        self.examples: list[Finding] = []
        self._stack = ExitStack()
        try:
            self._output = self._open(output)
            self._reembed = self._open(reembed)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def __enter__(self) -> Evidence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def written(self) -> int:
        """Lines in the file of findings."""
        return self._output.count if self._output else 0

    @property
    def truncated(self) -> bool:
        """Whether there were more findings than were to be written."""
        return self._limit is not None and self.seen > self._limit

    def take(self, finding: Finding) -> None:
        self.seen += 1
        if self._reembed and finding.kind in REEMBED_KINDS:
            self._reembed.write(line_of_finding(finding))
        if self.truncated:
            return
        if len(self.examples) < EXAMPLES:
            self.examples.append(finding)
        if self._output:
            self._output.write(asdict(finding))

    def _open(self, path: Path | None) -> LineFile | None:
        return self._stack.enter_context(LineFile(path)) if path else None
