"""The Redis beside the pair: invalidated after a restore, and kept in a backup when asked.

A cache filled before a restore answers from a timeline that no longer exists: semantic caches
return texts that were never there. `flush` empties the database, `prefix` removes keys by their
prefixes, `epoch` counts a key up that the application puts into its cache keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from vbackup.config import RedisConfig
from vbackup.errors import Damaged, Denied, Failed, Refused, Unreachable
from vbackup.redact import safe_url, scrub

BATCH = 1_000
_encoder = msgspec.msgpack.Encoder()


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One key: its name, its remaining life in milliseconds (0: for ever), Redis' own DUMP."""

    key: bytes
    ttl: int
    value: bytes


class RedisCache:
    """One Redis server or cluster."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._where = safe_url(config.url.get_secret_value())
        self._client: Any = None

    def check(self) -> str:
        """The server's version. Raises Unreachable, Denied, Refused."""
        with self._translated("asking for its version"):
            found = self._redis().info("server")
        one = next(iter(found.values())) if "redis_version" not in found else found
        return str(one["redis_version"])

    def invalidate(self) -> int:
        """What `on_restore` asks for; how many keys went (or 1 for a new epoch)."""
        match self._config.on_restore:
            case "flush":
                return self._flush()
            case "prefix":
                return self._remove()
            case "epoch":
                with self._translated("counting the epoch up"):
                    self._redis().incr(self._config.epoch_key)
                return 1
            case "none":
                return 0

    def dump(self) -> Iterator[bytes]:
        """Every key below the prefixes, each as 4 bytes of length and a msgpack array
        (key, ttl, DUMP). Not at the watermark: a cache has none."""
        for keys in self._batches():
            with self._translated("reading keys"):
                pipe = self._redis().pipeline(transaction=False)
                for key in keys:
                    pipe.dump(key)
                    pipe.pttl(key)
                answers = pipe.execute()
            yield b"".join(_frames(keys, answers))

    def load(self, stream: Iterable[bytes]) -> int:
        """Write dumped keys back, over what is there; how many."""
        count = 0
        for entries in _read(stream):
            with self._translated("writing keys"):
                pipe = self._redis().pipeline(transaction=False)
                for entry in entries:
                    pipe.restore(entry.key, entry.ttl, entry.value, replace=True)
                pipe.execute()
            count += len(entries)
        return count

    def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # ------------------------------------------------------------ removing

    def _flush(self) -> int:
        with self._translated("flushing the database"):
            sizes = self._redis().dbsize()
            self._redis().flushdb(asynchronous=True)
        return int(sizes)

    def _remove(self) -> int:
        if not self._config.prefixes:
            raise Refused(
                'redis.on_restore is "prefix" but redis.prefixes is empty',
                hint='name them, such as prefixes = ["cache:"]; "flush" empties the database',
            )
        removed = 0
        for keys in self._batches():
            with self._translated("removing keys"):
                pipe = self._redis().pipeline(transaction=False)
                for key in keys:
                    pipe.unlink(key)
                removed += sum(int(answer) for answer in pipe.execute())
        return removed

    def _batches(self) -> Iterator[list[bytes]]:
        """Keys below the prefixes; SCAN may name one twice, which does no harm."""
        for prefix in self._config.prefixes or ("",):
            keys: list[bytes] = []
            with self._translated("scanning keys"):
                for key in self._redis().scan_iter(match=_glob(prefix), count=BATCH):
                    keys.append(key)
                    if len(keys) >= BATCH:
                        yield keys
                        keys = []
            if keys:
                yield keys

    # ------------------------------------------------------------ connection

    def _redis(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> Any:
        try:
            import redis
        except ImportError as error:
            raise Refused(
                "[redis] needs the redis package", hint="pip install 'vbackup[redis]'"
            ) from error
        url = self._config.url.get_secret_value()
        client: Any = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=10)
        if not client.info("cluster").get("cluster_enabled"):
            return client
        client.close()
        return redis.RedisCluster.from_url(url, socket_timeout=30, socket_connect_timeout=10)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Redis' exceptions as vbackup's, the most specific first."""
        try:
            import redis.exceptions as failures
        except ImportError:
            yield  # _connect says what is missing.
            return
        try:
            yield
        except (failures.AuthenticationError, failures.NoPermissionError) as error:
            raise Denied(
                f"Redis at {self._where}, {doing}: {scrub(str(error))}",
                hint="check the user and password in redis.url and the user's ACL",
            ) from error
        except (failures.ConnectionError, failures.TimeoutError) as error:
            raise Unreachable(
                f"Redis at {self._where}, {doing}: {scrub(str(error))}",
                hint="is it running, and is redis.url right?",
            ) from error
        except failures.RedisError as error:
            raise Failed(f"Redis at {self._where}, {doing}: {scrub(str(error))}") from error
        except ValueError as error:
            raise Failed(f"redis.url is not usable: {scrub(str(error))}") from error


def _glob(prefix: str) -> str:
    """A SCAN pattern for keys that start with exactly this text."""
    return "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in prefix) + "*"


def _frames(keys: list[bytes], answers: list[Any]) -> Iterator[bytes]:
    for at, key in enumerate(keys):
        value, ttl = answers[2 * at], answers[2 * at + 1]
        if value is None:
            continue  # It expired between the scan and the dump.
        data = _encoder.encode(Entry(key, max(int(ttl), 0), value))
        yield len(data).to_bytes(4, "big") + data


def _read(stream: Iterable[bytes]) -> Iterator[list[Entry]]:
    """Entries in batches. Raises Damaged."""
    decoder = msgspec.msgpack.Decoder(Entry)
    rest = b""
    entries: list[Entry] = []
    for block in stream:
        data = rest + block
        at = 0
        while len(data) >= at + 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if len(data) < end:
                break
            try:
                entries.append(decoder.decode(data[at + 4 : end]))
            except msgspec.MsgspecError as error:
                raise Damaged(f"the Redis part of the backup cannot be read: {error}") from error
            at = end
            if len(entries) >= BATCH:
                yield entries
                entries = []
        rest = data[at:]
    if rest:
        raise Damaged("the Redis part of the backup ends in the middle of a key")
    if entries:
        yield entries
