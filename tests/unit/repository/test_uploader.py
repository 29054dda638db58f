"""The upload pool: what failed in it is known before it is no longer waited for."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from vbackup.errors import Failed
from vbackup.repository.blobs import Blob
from vbackup.repository.index import ChunkIndex
from vbackup.repository.repository import Repository
from vbackup.repository.uploader import PackUploader


class Halting:
    """The uploader's lock. A thread of the pool that leaves it goes no further until `go`."""

    def __init__(self, go: threading.Event) -> None:
        self._lock = threading.Lock()
        self._go = go

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.current_thread().name.startswith("vbackup-upload"):
            self._go.wait(30)


def test_a_flush_that_waits_for_nothing_knows_of_the_failure(
    repository: Repository, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, submitted = threading.Event(), threading.Event()

    def failing(*_: object, **__: object) -> None:
        submitted.wait(30)  # The callback runs in the pool then, not in whoever submits.
        raise Failed("disk full")

    monkeypatch.setattr(store, "put", failing)
    uploader = PackUploader(store, repository.seal, ChunkIndex(), pack_size=2**20, jobs=1)
    lock: Any = Halting(go)
    uploader._lock = lock
    submit = uploader._submit

    def submitting(pack: Any) -> None:
        submit(pack)
        submitted.set()

    monkeypatch.setattr(uploader, "_submit", submitting)
    with uploader.lane() as append:
        append([Blob(b"x" * 100, [b"c" * 16], [100], 0)])
    try:
        with pytest.raises(Failed, match="disk full"):
            uploader.flush()
    finally:
        go.set()
        uploader.close()
