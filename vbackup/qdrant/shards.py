"""Shard snapshots as streams: into a local file at full speed, checked, and their cut noticed.

Qdrant 1.16 freezes a shard while a slow reader holds its snapshot, so nothing here waits for
anybody but the disk. A failed stream ends like a good one: the tar must prove it is whole.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from vbackup.errors import Damaged, Failed, Interrupted, VbackupError
from vbackup.ports import Buffer, Clock, ShardRef, ShardSpool
from vbackup.qdrant.download import severable
from vbackup.qdrant.rest import Node, collection_path
from vbackup.qdrant.tarstream import Member, TarStream

WRITE_BYTES = 256 * 1024
_AGAIN = "the shard is cut again by the next try; look at the server's log if it keeps failing"


def start_spool(
    node: Node, shard: ShardRef, path: Path, clock: Clock, stop: threading.Event
) -> ShardSpool:
    """Begin streaming the shard's snapshot into `path` on a thread; returns at once.

    The file exists when this returns; `length` and `sha256` are final once `done` is set. On
    failure `error` is set, then both events, and the file is gone. `stop` gives up all streams
    that have it, `ShardSpool.stop` this one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "w")
    except OSError as error:
        raise _disk(path, error) from error
    spool = ShardSpool(ref=shard, path=path, requested_at=clock.now())
    receiver = _Receiver(node, spool, file, clock, stop)
    spool.stop = receiver.stop
    name = f"spool-{shard.collection}-{shard.id}"
    threading.Thread(target=receiver.run, name=name, daemon=True).start()
    return spool


class _Receiver:
    """One stream into one file."""

    def __init__(
        self, node: Node, spool: ShardSpool, file: FileIO, clock: Clock, stop: threading.Event
    ) -> None:
        self._node = node
        self._spool = spool
        self._file = file
        self._clock = clock
        self._stop = stop
        self._given_up = threading.Event()
        self._sever: Callable[[], None] | None = None
        self._digest = hashlib.sha256()
        self._contents = ShardContents()

    def stop(self) -> None:
        """Give up, also where the server has fallen silent. Before it has begun to answer, the
        stream ends when it does, or with its time-out."""
        self._given_up.set()
        if self._sever:
            self._sever()

    def run(self) -> None:
        spool = self._spool
        try:
            with self._file:
                self._receive()
        except VbackupError as error:
            # A connection that was ended from here looks broken, which nobody should cure.
            spool.error = _named(_stopped() if self._given_up.is_set() else error, spool.ref)
        except Exception as error:  # noqa: BLE001 - a thread's failure must surface in its caller
            spool.error = error
        finally:
            if spool.error:
                spool.path.unlink(missing_ok=True)
            spool.cut.set()
            spool.done.set()

    def _receive(self) -> None:
        ref = self._spool.ref
        buffer = memoryview(bytearray(WRITE_BYTES))
        path = collection_path(ref.collection, "shards", ref.id, "snapshot")
        with self._node.stream(path) as body, severable(body) as self._sever:
            self._check()
            # Until the cut every piece counts at once; later, large ones are cheaper.
            while not self._contents.cut and (piece := body.read1(WRITE_BYTES)):
                self._store(memoryview(piece))
            while size := body.readinto(buffer):
                self._store(buffer[:size])
        self._contents.finish()
        self._spool.sha256 = self._digest.hexdigest()
        self._spool.length = self._contents.length

    def _check(self) -> None:
        if self._stop.is_set() or self._given_up.is_set():
            raise _stopped()

    def _store(self, data: memoryview) -> None:
        self._check()
        rest = data
        while rest:
            rest = rest[self._write(rest) :]
        self._digest.update(data)
        self._contents.feed(data)
        if self._contents.cut and not self._spool.cut.is_set():
            self._spool.cut_at = self._clock.now()
            self._spool.cut.set()

    def _write(self, data: memoryview) -> int:
        try:
            return self._file.write(data) or 0
        except OSError as error:
            raise _disk(self._spool.path, error) from error


class ShardContents:
    """Watches a shard snapshot's tar stream: when the shard was cut, and whether all is there."""

    def __init__(self) -> None:
        self._tar = TarStream(self._member)
        self._last = ""
        self._roots: set[str] = set()
        self.cut = False

    @property
    def length(self) -> int:
        """Bytes seen so far."""
        return self._tar.length

    def feed(self, data: Buffer) -> None:
        self._tar.feed(data)

    def finish(self) -> None:
        """Raises Damaged unless this was one whole shard snapshot."""
        self._tar.finish()
        wanted = {"segments", "wal", "replica_state.json", "shard_config.json"}
        missing = sorted(wanted - self._roots)
        if missing or self._last != "shard_config.json":
            lack = ", ".join(missing) or "its last member"
            raise Damaged(f"the shard snapshot lacks {lack}", hint=_AGAIN, retryable=True)

    def _member(self, member: Member) -> None:
        name = member.name.removeprefix("./").rstrip("/")
        self._last = name
        root, slash, _ = name.partition("/")
        self._roots.add(root)
        # Qdrant proxies all segments before it writes the first of them: the cut is made. A
        # manifest may come earlier, and proves nothing.
        self.cut = self.cut or (root == "segments" and bool(slash))


def _stopped() -> Interrupted:
    return Interrupted("stopped before the shard snapshot was whole")


def _named(error: VbackupError, shard: ShardRef) -> VbackupError:
    where = f"snapshot of shard {shard.id} of collection {shard.collection!r}"
    if "does not look like" in error.message:
        # A Qdrant that answers everything else: the address is right, the server is old.
        hint = "shard snapshots can be streamed since Qdrant 1.12; upgrade the server"
        return Failed(f"{where}: {shard.node} cannot stream it", hint=hint)
    if "failed to parse header value" in error.message:
        # Qdrant puts the name into a header of its answer.
        hint = "rename it (a new collection and an alias), or leave it out of qdrant.collections"
        return Failed(f"{where}: Qdrant cannot stream a name with such letters", hint=hint)
    if "not a local" in error.message:
        hint = "the shard has moved to another node; start again"
        return Failed(f"{where}: {shard.node} no longer holds it", hint=hint, retryable=True)
    hint = error.hint or (_AGAIN if error.retryable else "")
    return type(error)(f"{where}: {error.message}", hint=hint, retryable=error.retryable)


def _disk(path: Path, error: OSError) -> Failed:
    return Failed(
        f"cannot write the spool file {path}: {error.strerror or error}",
        hint="set [watermark] work_dir to a disk with room for the collections",
    )
