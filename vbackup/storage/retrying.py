"""The one retry policy, around any object store: backoff with jitter, within a budget."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypeVar

from vbackup.errors import AlreadyExists, VbackupError
from vbackup.ports import Buffer, Clock, LockingStore, ObjectStat, ObjectStore

_T = TypeVar("_T")
_DELETE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retries` after the first attempt; seconds otherwise. `budget` bounds the waiting of one
    call, from its first failure on; a list that makes progress starts anew."""

    retries: int = 6
    base: float = 0.5
    cap: float = 30.0
    budget: float = 300.0

    def delay(self, failures: int, chance: float) -> float:
        """Full jitter between half and all of the exponential step; `chance` in [0, 1)."""
        step = min(self.cap, self.base * 2.0 ** (failures - 1))
        return float(step * (0.5 + chance / 2))


@dataclass(frozen=True, slots=True)
class Retry:
    """What is reported before each wait."""

    method: str
    key: str
    failures: int
    delay: float
    error: VbackupError


class RetryingStore:
    """`vbackup.ports.ObjectStore` that tries retryable failures again.

    `on_retry` is called on the thread that waits. The last error is raised as it is.
    """

    def __init__(
        self,
        inner: ObjectStore,
        clock: Clock,
        policy: RetryPolicy | None = None,
        *,
        on_retry: Callable[[Retry], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._policy = policy or RetryPolicy()
        self._on_retry = on_retry
        self._chance = chance

    @property
    def conditional(self) -> bool:
        return self._again("probe", "", lambda _: self._inner.conditional)

    @property
    def location(self) -> str:
        return self._inner.location

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        """A create-only put whose reply was lost may find its own object on the next attempt:
        an object with exactly these bytes then counts as written."""

        def attempt(failures: int) -> None:
            try:
                self._inner.put(key, data, if_absent=if_absent)
            except AlreadyExists:
                if not failures or not self._holds(key, data):
                    raise

        self._again("put", key, attempt)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._again("get", key, lambda _: self._inner.get(key, start, length))

    def stat(self, key: str) -> ObjectStat | None:
        return self._again("stat", key, lambda _: self._inner.stat(key))

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        """After a failure the list starts again and skips what was yielded before."""
        last: str | None = None
        patience = self._patience("scan", prefix)
        while True:
            try:
                for found in self._inner.scan(prefix):
                    if last is None or found.key > last:
                        yield found
                        last = found.key
                        patience.renew()
            except VbackupError as error:
                patience.wait_after(error)
            else:
                return

    def delete(self, keys: Iterable[str]) -> None:
        remaining = iter(keys)
        while batch := list(islice(remaining, _DELETE_BATCH)):
            self._delete_batch(batch)

    @property
    def locks(self) -> bool:
        """See `ports.LockingStore`; False around a store that cannot."""
        return isinstance(self._inner, LockingStore) and self._inner.locks

    def prolong(self, key: str) -> None:
        inner = self._inner
        if isinstance(inner, LockingStore):
            self._again("prolong", key, lambda _: inner.prolong(key))

    def locked_until(self, key: str) -> datetime | None:
        inner = self._inner
        if not isinstance(inner, LockingStore):
            return None
        return self._again("stat", key, lambda _: inner.locked_until(key))

    def _delete_batch(self, batch: list[str]) -> None:
        self._again("delete", batch[0], lambda _: self._inner.delete(batch))

    def _holds(self, key: str, data: Buffer) -> bool:
        return self._inner.get(key) == bytes(data)

    def _again(self, method: str, key: str, attempt: Callable[[int], _T]) -> _T:
        """Run `attempt(failures so far)` until it succeeds or a retry cannot help."""
        patience = self._patience(method, key)
        while True:
            try:
                return attempt(patience.failures)
            except VbackupError as error:
                patience.wait_after(error)

    def _patience(self, method: str, key: str) -> _Patience:
        return _Patience(method, key, self._clock, self._policy, self._chance, self._on_retry)


class _Patience:
    """How often one call failed in a row, since when, and whether to try again."""

    def __init__(
        self,
        method: str,
        key: str,
        clock: Clock,
        policy: RetryPolicy,
        chance: Callable[[], float],
        on_retry: Callable[[Retry], None] | None,
    ) -> None:
        self._method = method
        self._key = key
        self._clock = clock
        self._policy = policy
        self._chance = chance
        self._on_retry = on_retry
        self._since = 0.0
        self.failures = 0

    def renew(self) -> None:
        """The call made progress."""
        self.failures = 0

    def wait_after(self, error: VbackupError) -> None:
        """Wait before the next attempt, or raise `error` when no more is allowed or of use."""
        if not self.failures:
            self._since = self._clock.monotonic()
        self.failures += 1
        delay = self._policy.delay(self.failures, self._chance())
        spent = self._clock.monotonic() - self._since
        if (
            not error.retryable
            or self.failures > self._policy.retries
            or spent + delay > self._policy.budget
        ):
            raise error
        if self._on_retry is not None:
            self._on_retry(Retry(self._method, self._key, self.failures, delay, error))
        self._clock.sleep(delay)
