"""Holds the lease of the one active instance of a repository, through outages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from vbackup.errors import Locked, NotFound, VbackupError
from vbackup.ports import Reporter


class HeldLease(Protocol):
    """What the keeper needs of a lease (vbackup.repository.lease.Lease is one)."""

    def confirm(self) -> None:
        """Raises Locked when it was lost, Unreachable."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class Keeper:
    """Takes the lease, and takes it back after an outage. Thread-safe: every lane asks it."""

    def __init__(self, take: Callable[[], HeldLease], reporter: Reporter) -> None:
        self._take = take
        self._reporter = reporter
        self._held: HeldLease | None = None
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Take the lease. Raises Locked while another instance has it, Denied, Usage.

        A repository that is away for now is a warning: the daemon that starts before the
        network does, or before its disk is mounted, still says what it could not do."""
        with self._lock:
            self._again()

    def still_ours(self) -> bool:
        """Whether this instance may start a job. An unreachable repository is no reason not to:
        the job will fail and be reported."""
        with self._lock:
            try:
                if self._held:
                    self._held.confirm()
                    return True
            except Locked:
                pass
            except VbackupError as error:
                self._reporter.warn("the lease could not be renewed", reason=error.message)
                return True
            try:
                self._again()
            except Locked:
                return False
            except VbackupError as error:
                self._reporter.warn("the lease could not be taken", reason=error.message)
            return True

    def _again(self) -> None:
        # Our own expired claim must not keep us out.
        self._let_go()
        try:
            self._held = self._take()
        except VbackupError as error:
            away = error.retryable or isinstance(error, NotFound)
            if not away or isinstance(error, Locked):
                raise
            self._reporter.warn("the lease could not be taken", reason=error.message)

    def _let_go(self) -> None:
        if self._held:
            with suppress(VbackupError):
                self._held.release()
            self._held = None

    def release(self) -> None:
        """Let another instance in."""
        with self._lock:
            self._let_go()
