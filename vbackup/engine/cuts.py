"""Cuts: every shard of the pair, streaming into local files, each cut at its own instant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from vbackup.errors import Failed, NotFound, VbackupError
from vbackup.ports import Clock, ShardRef, ShardSpool

FOLLOW_BLOCK = 1 << 20
CUT_TRIES = 3
POLL_SECONDS = 0.05
STOP_SECONDS = 5.0
"""How long streams that were given up may take to end."""


class ShardLost(VbackupError):
    """A shard stream ended early, or its collection is gone: everything has to be cut anew."""


def broken(error: Exception) -> Exception:
    """What a stream that failed means: that cutting anew may help, or just what it says (a disk
    that is full stays full)."""
    if isinstance(error, VbackupError) and (error.retryable or isinstance(error, NotFound)):
        return ShardLost(error.message, hint=error.hint, retryable=True)
    return error


class ShardCuts:
    """All shard streams of one attempt. A stream that fails before its cut is started again.

    `close` ends those that still run: an attempt that is thrown away must not go on loading the
    servers, nor fill the disk with files that nobody reads."""

    def __init__(
        self,
        spool: Callable[[ShardRef, Path], ShardSpool],
        shards: Sequence[ShardRef],
        directory: Path,
        clock: Clock,
    ) -> None:
        self._spool = spool
        self._shards = shards
        self._directory = directory
        self._clock = clock
        self._tries: dict[int, int] = {}
        self.spools: list[ShardSpool] = []

    def request(self) -> None:
        """Ask for all shard streams at once; returns without waiting for any."""
        for number, shard in enumerate(self._shards):
            self.spools.append(self._start(number, shard))

    def all_cut(self) -> bool:
        """Whether every shard has cut. A stream that failed on the way is requested anew.

        Raises the stream's error when it failed CUT_TRIES times or cannot be cured, ShardLost
        when its collection is gone."""
        ready = True
        for number, spool in enumerate(self.spools):
            if spool.error:
                self._again(number, spool.error)
                ready = False
            elif not spool.cut.is_set():
                ready = False
        return ready

    def wait_cut(self) -> None:
        """Return once every shard has cut."""
        while not self.all_cut():
            self._clock.sleep(POLL_SECONDS)

    def _again(self, number: int, error: Exception) -> None:
        if isinstance(error, NotFound):
            raise broken(error) from error
        curable = isinstance(error, VbackupError) and error.retryable
        if self._tries[number] >= CUT_TRIES or not curable:
            raise error
        self.spools[number] = self._start(number, self._shards[number])

    def _start(self, number: int, shard: ShardRef) -> ShardSpool:
        self._tries[number] = self._tries.get(number, 0) + 1
        directory = self._directory / f"{number:04d}-{self._tries[number]}"
        directory.mkdir(parents=True)
        return self._spool(shard, directory)

    def close(self) -> None:
        """Give up the streams that have not come to their end; returns when nothing writes to
        their files any more, or when a server that has not begun to answer holds one up."""
        running = [spool for spool in self.spools if not spool.done.is_set()]
        for spool in running:
            spool.stop()
        deadline = self._clock.monotonic() + STOP_SECONDS
        for spool in running:
            spool.done.wait(max(0.0, deadline - self._clock.monotonic()))

    def await_whole(self) -> None:
        """Return once every stream has come to its end. Raises what one failed with (`broken`) as
        soon as it did: its cut was relied on, so that the watermark must move."""
        for spool in self.spools:
            while not spool.done.wait(POLL_SECONDS):
                self._find_broken()
        self._find_broken()

    def _find_broken(self) -> None:
        for spool in self.spools:
            if spool.error:
                raise broken(spool.error) from spool.error


def follow(spool: ShardSpool) -> Iterator[bytes]:
    """The bytes of a spool while it grows; raises its error instead of ending short."""
    position = 0
    with _opened(spool) as file:
        while True:
            finished = spool.done.is_set()
            block = file.read(FOLLOW_BLOCK)
            if block:
                position += len(block)
                yield block
                continue
            if not finished:
                spool.done.wait(POLL_SECONDS)
                continue
            if spool.error:
                raise spool.error
            if position != spool.length:
                raise Failed(
                    f"shard {spool.ref.id} of {spool.ref.collection!r}: the spool file holds"
                    f" {position} bytes, {spool.length} were received",
                    hint="is something else writing to the work directory?",
                )
            return


def _opened(spool: ShardSpool) -> BinaryIO:
    try:
        return spool.path.open("rb")
    except FileNotFoundError:
        # A stream that failed takes its file away.
        if spool.error:
            raise spool.error from None
        raise
