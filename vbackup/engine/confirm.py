"""Confirmation: what of the first comparison's findings is drift, and what was only lag.

On a live pair, rows and points are read at different instants, and a point may follow its row
(or run ahead of it) by up to `max_index_lag`. A finding is drift when, that long after the
first comparison had read both sides, the row is still there (or still gone, or still not
live) and the same point in the same version is still wrong: within the lag it should have been
touched. Anything else healed, or belongs to a change too young to be judged; the next
reconcile will see that one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import msgspec

from vbackup.engine.links import Target
from vbackup.engine.reread import Reread
from vbackup.model.finding import Finding
from vbackup.ports import Clock, Reporter

BATCH = 4_000
"""Findings read again at once."""

FIRST_WAIT = 0.5
"""Seconds between the first two looks; each wait is twice the one before it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Finding).decode


class FindingFile:
    """Findings in a temporary file: as many as there are, none in memory."""

    def __init__(self, workdir: Path) -> None:
        # It lives as long as this object: `close` ends it.
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=2**22, mode="w+b", dir=str(workdir)
        )
        self.count = 0

    def add(self, finding: Finding) -> None:
        self._file.write(_encode(finding) + b"\n")
        self.count += 1

    def __iter__(self) -> Iterator[Finding]:
        self._file.seek(0)
        for line in self._file:
            yield _decode(line)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Looks again at findings until they heal or are `max_index_lag` (seconds) old."""

    reread: Reread
    clock: Clock
    reporter: Reporter
    workdir: Path
    max_index_lag: float
    tenant: str | None = None

    def confirm(self, target: Target, findings: Iterable[Finding], since: float) -> FindingFile:
        """The findings that are drift, with the evidence of the last look. `since` is the
        monotonic time at which the first comparison had read both sides. The caller closes
        the file."""
        doubtful = self._collected(findings)
        wait = FIRST_WAIT
        while doubtful.count:
            # The time is taken before the look: what it sees is at least this old.
            remaining = since + self.max_index_lag - self.clock.monotonic()
            doubtful = self._again(target, doubtful)
            if remaining <= 0:
                break
            if doubtful.count:
                self.reporter.note(
                    "waiting for the index",
                    link=target.link.name,
                    doubtful=doubtful.count,
                    at_most_seconds=round(remaining, 1),
                )
                self.clock.sleep(min(wait, remaining))
                wait *= 2
        return doubtful

    def _collected(self, findings: Iterable[Finding]) -> FindingFile:
        collected = FindingFile(self.workdir)
        try:
            for finding in findings:
                collected.add(finding)
        except BaseException:
            collected.close()
            raise
        return collected

    def _again(self, target: Target, doubtful: FindingFile) -> FindingFile:
        """One look: those that are still wrong in the same way."""
        still = FindingFile(self.workdir)
        try:
            for batch in batches(doubtful, BATCH):
                first_seen = {identity(finding) for finding in batch}
                for finding in self.reread.findings(target, batch, tenant=self.tenant):
                    if identity(finding) in first_seen:
                        still.add(finding)
        except BaseException:
            still.close()
            raise
        finally:
            doubtful.close()
        return still


def identity(finding: Finding) -> tuple[object, ...]:
    """What must not change for a finding to be the same one: the point's side of it, and
    whether its row is there and live. The row's version may move on: an unchanged point that
    was wrong before is wrong all the more. How many points fit says something of one version of
    the row only: a row that changes all the time may have none each time one looks."""
    kind = "version" if finding.kind in ("stale", "ahead") else finding.kind
    number = None
    if finding.kind == "wrong_count":
        number = finding.detail.partition(" ")[0], finding.row_version
    # A missing point is missing in whichever collection its row names by now.
    where = finding.collection if finding.point is not None else ""
    return kind, where, finding.key, finding.point, finding.point_version, number


def batches(findings: Iterable[Finding], size: int) -> Iterator[list[Finding]]:
    """Batches of about `size` findings; those of one key, which are neighbours, stay together."""
    stream = iter(findings)
    batch = list(islice(stream, size))
    while batch:
        following = next(stream, None)
        while following is not None and following.key is not None:
            if following.key != batch[-1].key:
                break
            batch.append(following)
            following = next(stream, None)
        yield batch
        batch = [] if following is None else [following, *islice(stream, size - 1)]
