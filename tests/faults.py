"""Object stores for tests: one in memory, and one that fails exactly as it is told to.

Import them through the fixtures of a conftest (`from tests.faults import ...` works as well,
because pytest runs at the project's root).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from vbackup.errors import AlreadyExists, NotFound, Unreachable
from vbackup.ports import Buffer, ObjectStat, ObjectStore

Method = Literal["put", "get", "stat", "scan", "delete"]
Kind = Literal["error", "timeout", "lost_reply", "torn", "stale", "flip", "short", "delay", "call"]


class ManualClock:
    """A `vbackup.ports.Clock` that moves only when told to, or when somebody sleeps."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start.timestamp()
        self._elapsed = 0.0
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._start + self._elapsed, UTC)

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.sleeps.append(seconds)
            self._elapsed += max(0.0, seconds)

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._elapsed += seconds


class MemoryStore:
    """The reference implementation of `vbackup.ports.ObjectStore`: a dictionary.

    `conditional=False` makes it a store that silently overwrites. Its content may be looked at
    and changed through `objects`.
    """

    def __init__(self, *, conditional: bool = True) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self._conditional = conditional
        self._lock = threading.Lock()

    @property
    def conditional(self) -> bool:
        return self._conditional

    @property
    def location(self) -> str:
        return "memory://"

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        with self._lock:
            if if_absent and key in self.objects:
                raise AlreadyExists(f"{key} is there already")
            self.objects[key] = bytes(data)
            self.modified[key] = datetime.now(UTC)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._lock:
            if key not in self.objects:
                raise NotFound(f"no object {key}")
            data = self.objects[key]
        return data[start:] if length is None else data[start : start + length]

    def stat(self, key: str) -> ObjectStat | None:
        with self._lock:
            data = self.objects.get(key)
            return None if data is None else ObjectStat(key, len(data), self.modified[key])

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        with self._lock:
            keys = sorted(key for key in self.objects if key.startswith(prefix))
        for key in keys:
            if (found := self.stat(key)) is not None:
                yield found

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._lock:
                self.objects.pop(key, None)
                self.modified.pop(key, None)


def _unreachable() -> Exception:
    return Unreachable("the store did not answer (injected)")


@dataclass(slots=True)
class Fault:
    """One scripted fault.

    It strikes calls of `method` ("*": all) whose key starts with `key`, from the `at`-th such
    call (counted from 1) for `times` calls (None: for ever). Kinds:

    * `error`, `timeout`: `error()` is raised and nothing happened in the store;
    * `lost_reply`: the call takes effect, then `error()` is raised;
    * `torn`: a put stores only the first `keep` of its bytes (a share), then `error()` is raised
      (`silent=True`: is not);
    * `stale`: scan, stat and get answer as if the last `hide` writes had not happened yet;
    * `flip`: a get returns one wrong byte (at `offset`);
    * `short`: a get returns only the first `keep` of its bytes;
    * `delay`: the clock sleeps `seconds` first;
    * `call`: `action()` runs first (a barrier, a kill, another writer).
    """

    method: Method | Literal["*"]
    kind: Kind = "error"
    at: int = 1
    times: int | None = 1
    key: str = ""
    error: Callable[[], Exception] = _unreachable
    keep: float = 0.5
    offset: int = 0
    silent: bool = False
    hide: int = 1
    seconds: float = 0.0
    action: Callable[[], None] = lambda: None
    seen: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    def strikes(self, method: str, key: str) -> bool:
        if self.method not in {"*", method} or not key.startswith(self.key):
            return False
        self.seen += 1
        if self.seen < self.at or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


class FaultyStore:
    """Wraps any store; follows its script and records its calls as (method, key)."""

    def __init__(
        self, inner: ObjectStore, *faults: Fault, clock: ManualClock | None = None
    ) -> None:
        self.inner = inner
        self.faults = list(faults)
        self.calls: list[tuple[str, str]] = []
        self._clock = clock or ManualClock()
        self._recent: list[str] = []
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self.faults.extend(faults)

    def count(self, method: Method) -> int:
        return sum(1 for called, _ in self.calls if called == method)

    @property
    def conditional(self) -> bool:
        return self.inner.conditional

    @property
    def location(self) -> str:
        return self.inner.location

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        fault = self._strike("put", key)
        if fault and fault.kind == "torn":
            self.inner.put(key, bytes(data)[: int(len(data) * fault.keep)], if_absent=if_absent)
            if not fault.silent:
                raise fault.error()
            return
        self.inner.put(key, data, if_absent=if_absent)
        with self._lock:
            self._recent.append(key)
        _lose_reply(fault)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        fault = self._strike("get", key)
        if key in self._hidden(fault):
            raise NotFound(f"no object {key}")
        data = self.inner.get(key, start, length)
        _lose_reply(fault)
        if fault and fault.kind == "flip" and data:
            at = fault.offset % len(data)
            return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        if fault and fault.kind == "short":
            return data[: int(len(data) * fault.keep)]
        return data

    def stat(self, key: str) -> ObjectStat | None:
        fault = self._strike("stat", key)
        if key in self._hidden(fault):
            return None
        found = self.inner.stat(key)
        _lose_reply(fault)
        return found

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        """A `lost_reply` strikes after half of the objects, as a failing page does."""
        fault = self._strike("scan", prefix)
        hidden = self._hidden(fault)
        found = [each for each in self.inner.scan(prefix) if each.key not in hidden]
        if fault and fault.kind == "lost_reply":
            yield from found[: len(found) // 2]
            raise fault.error()
        yield from found

    def delete(self, keys: Iterable[str]) -> None:
        """A `torn` delete removes the first `keep` of the keys, then raises."""
        wanted = list(keys)
        fault = self._strike("delete", wanted[0] if wanted else "")
        if fault and fault.kind == "torn":
            self.inner.delete(wanted[: int(len(wanted) * fault.keep)])
            raise fault.error()
        self.inner.delete(wanted)
        _lose_reply(fault)

    def _strike(self, method: Method, key: str) -> Fault | None:
        """The first fault that strikes this call; what comes before the call is done here."""
        with self._lock:
            self.calls.append((method, key))
            fault = next((each for each in self.faults if each.strikes(method, key)), None)
        if fault is None:
            return None
        if fault.kind == "delay":
            self._clock.sleep(fault.seconds)
        elif fault.kind == "call":
            fault.action()
        elif fault.kind in {"error", "timeout"}:
            raise fault.error()
        return fault

    def _hidden(self, fault: Fault | None) -> set[str]:
        if fault is None or fault.kind != "stale" or fault.hide <= 0:
            return set()
        return set(self._recent[-fault.hide :])


def _lose_reply(fault: Fault | None) -> None:
    if fault and fault.kind == "lost_reply":
        raise fault.error()
