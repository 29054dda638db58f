"""The cache beside the pair, on a real Redis server and under writes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vbackup.config import RedisConfig
from vbackup.errors import Damaged, Denied, Refused, Unreachable
from vbackup.redis.cache import RedisCache

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.integration
PASSWORD = "sandbox-redis-password"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this session's own, with a password."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("VBACKUP_TEST_IN_CI"):
            pytest.fail("redis-server is not installed (Debian: redis-server)")
        pytest.skip("redis-server is not installed")
    port, directory = free_port(), tmp_path_factory.mktemp("redis")
    line = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    process = subprocess.Popen(
        [*line, "--save", "", "--requirepass", PASSWORD],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        for output in process.stdout or ():
            if b"ready to accept connections" in output.lower():
                break
        else:
            pytest.fail("redis-server did not start")
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(f"{redis_url}/3") as found:
        found.flushdb()
        yield found


@pytest.fixture
def cache(redis_url: str) -> Iterator[Callable[..., RedisCache]]:
    made: list[RedisCache] = []

    def make(**settings: Any) -> RedisCache:
        config = RedisConfig(url=SecretStr(f"{redis_url}/3"), **settings)
        made.append(RedisCache(config))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fill(client: Any) -> None:
    for number in range(2_500):
        client.set(f"cache:{number}", "answer")
        client.set(f"session:{number}", "kept")
    client.set("cache[odd]*", "not below cache:")


def test_flush_empties_only_its_own_database(client: Any, redis_url: str, cache: Any) -> None:
    fill(client)
    with redis.Redis.from_url(f"{redis_url}/4") as other:
        other.set("elsewhere", "1")
        assert cache(on_restore="flush").invalidate() == 5_001
        assert client.dbsize() == 0
        assert other.get("elsewhere") == b"1"


def test_prefix_removes_exactly_the_keys_below_it(client: Any, cache: Any) -> None:
    fill(client)
    assert cache(on_restore="prefix", prefixes=("cache:",)).invalidate() == 2_500
    assert client.dbsize() == 2_501
    assert cache(on_restore="prefix", prefixes=("cache[odd]*",)).invalidate() == 1


def test_prefix_removes_what_was_there_while_others_write(client: Any, cache: Any) -> None:
    fill(client)
    stop = threading.Event()

    def write() -> None:
        with redis.Redis(connection_pool=client.connection_pool) as writer:
            number = 0
            while not stop.is_set():
                number += 1
                writer.set(f"cache:new{number}", "written meanwhile")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert cache(on_restore="prefix", prefixes=("cache:",)).invalidate() >= 2_500
    finally:
        stop.set()
        thread.join()
    assert not any(client.exists(f"cache:{number}") for number in range(2_500))


def test_epoch_counts_up_and_none_does_nothing(client: Any, cache: Any) -> None:
    client.set("app:epoch", 41)
    client.set("cache:1", "stays: the application looks below the new epoch")
    assert cache(on_restore="epoch", epoch_key="app:epoch").invalidate() == 1
    assert client.get("app:epoch") == b"42"
    assert cache(on_restore="none").invalidate() == 0
    assert client.get("cache:1") is not None


def test_prefix_without_prefixes_is_refused(cache: Any) -> None:
    with pytest.raises(Refused, match="prefixes is empty"):
        cache(on_restore="prefix").invalidate()


def test_dumped_keys_come_back_with_type_and_life(client: Any, cache: Any) -> None:
    client.set("keep:text", b"\x00\xff binary")
    client.rpush("keep:list", *range(2_000))
    client.hset("keep:hash", mapping={"a": 1, "é": "ü"})
    client.zadd("keep:sorted", {"x": 1.5})
    client.set("keep:short", "lived", px=3_600_000)
    client.set("other", "not kept")
    kept = cache(prefixes=("keep:",))
    stream = b"".join(kept.dump())
    client.flushdb()
    client.set("keep:text", "newer")

    blocks = [stream[at : at + 7] for at in range(0, len(stream), 7)]
    assert kept.load(iter(blocks)) == 5

    assert client.get("keep:text") == b"\x00\xff binary"
    assert client.llen("keep:list") == 2_000
    assert client.hgetall("keep:hash") == {b"a": b"1", "é".encode(): "ü".encode()}
    assert client.zscore("keep:sorted", "x") == 1.5
    assert 3_000_000 < client.pttl("keep:short") <= 3_600_000
    assert client.pttl("keep:text") == -1
    assert not client.exists("other")


def test_a_cut_or_foreign_stream_is_damaged(client: Any, cache: Any) -> None:
    client.set("keep:1", "x")
    stream = b"".join(cache(prefixes=("keep:",)).dump())
    with pytest.raises(Damaged, match="middle of a key"):
        cache().load(iter([stream[:-1]]))
    with pytest.raises(Damaged, match="cannot be read"):
        cache().load(iter([b"\x00\x00\x00\x02{}"]))


def test_wrong_password_and_no_server_are_told_apart(redis_url: str, tmp_path: Path) -> None:
    wrong = RedisCache(RedisConfig(url=SecretStr(redis_url.replace(PASSWORD, "wrong-password"))))
    with pytest.raises(Denied) as denied:
        wrong.check()
    assert "wrong-password" not in str(denied.value)
    absent = RedisCache(RedisConfig(url=SecretStr(f"redis://127.0.0.1:{free_port()}")))
    with pytest.raises(Unreachable, match="Redis at"):
        absent.check()
