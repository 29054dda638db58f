"""What real servers say no to, and what we say no to before they are asked."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from vbackup.clock import SystemClock
from vbackup.config import QdrantConfig
from vbackup.errors import (
    AlreadyExists,
    Damaged,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    VbackupError,
)
from vbackup.model.link import Link
from vbackup.progress import SilentReporter
from vbackup.qdrant.source import QdrantSource

pytestmark = pytest.mark.integration

BODY: dict[str, Any] = {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 2}


def _points(count: int = 50) -> list[dict[str, Any]]:
    return [{"id": n, "vector": [1.0, n, 2.0, 3.0], "payload": {"n": n}} for n in range(count)]


OTHERS: dict[str, dict[str, Any]] = {
    "size": {"vectors": {"size": 5, "distance": "Dot"}},
    "distance": {"vectors": {"size": 4, "distance": "Cosine"}},
    "datatype": {"vectors": {"size": 4, "distance": "Dot", "datatype": "float16"}},
    "named": {"vectors": {"a": {"size": 4, "distance": "Dot"}}},
    "multi": {
        "vectors": {
            "size": 4,
            "distance": "Dot",
            "multivector_config": {"comparator": "max_sim"},
        }
    },
    "sparse": {"sparse_vectors": {"s": {}}},
    "shards": {"shard_number": 1},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_collection_of_another_shape_is_left_alone(
    store: Any, tmp_path: Path, other: str
) -> None:
    name = store.make(BODY)
    store.put(name, _points())
    saved = store.save(name, tmp_path)
    target = store.make(BODY | OTHERS[other])
    before = store.everything(target)

    assert store.target.preflight(saved.part, target, existing=True)
    with pytest.raises(Refused):
        store.target.recover(saved.part, target, saved.open, SilentReporter())
    assert store.everything(target) == before


def test_a_shard_with_another_hash_is_not_taken(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    store.put(name, _points())
    saved = store.save(name, tmp_path)
    path = next(iter(saved.files.values()))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    target = store.make(BODY)
    store.put(target, _points(7))

    with pytest.raises(Failed, match="hecksum"):
        store.target.recover(saved.part, target, saved.open, SilentReporter())
    assert store.call("GET", store.path(target))["status"] in ("green", "grey")


def test_a_failing_artifact_is_its_own_error(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    store.put(name, _points())
    saved = store.save(name, tmp_path)
    target = store.make(BODY)

    def broken(_: Any) -> Iterator[bytes]:
        yield b"x" * 1000
        raise NotFound("pack 17 is missing")

    with pytest.raises(NotFound, match="pack 17"):
        store.target.recover(saved.part, target, broken, SilentReporter())
    store.target.recover(saved.part, target, saved.open, SilentReporter())
    assert store.target.settle(target, timeout=60) == 50


def test_an_artifact_of_another_length_is_an_error(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    saved = store.save(name, tmp_path)
    shards = tuple(
        replace(shard, artifact=replace(shard.artifact, length=shard.artifact.length + 5))
        for shard in saved.part.shards
    )
    target = store.make(BODY)

    part = replace(saved.part, shards=shards)
    with pytest.raises(Damaged, match="bytes long"):
        store.target.recover(part, target, saved.open, SilentReporter())


def test_names_that_are_taken(store: Any, tmp_path: Path) -> None:
    name = store.make(BODY)
    saved = store.save(name, tmp_path)
    alias = store.name("-alias")
    store.target.alias([(alias, name)])

    assert "exists already" in store.target.preflight(saved.part, name, existing=False)[0]
    assert "alias" in store.target.preflight(saved.part, alias, existing=False)[0]
    assert store.target.preflight(saved.part, store.name(), existing=True)
    with pytest.raises(AlreadyExists):
        store.target.create(saved.part, name)
    store.target.drop(store.name())


def test_aliases_move_without_a_gap_and_all_or_nothing(store: Any) -> None:
    first, second = store.make(BODY), store.make(BODY)
    one, two = store.name("-one"), store.name(" 'zwei'")
    store.target.alias([(one, first), (two, first)])
    assert store.facts(first).aliases == tuple(sorted((one, two)))

    with pytest.raises(NotFound):
        store.target.alias([(one, second), (two, "not there")])
    assert store.facts(first).aliases == tuple(sorted((one, two)))

    store.target.alias([(one, second)])
    assert store.facts(first).aliases == (two,)
    assert store.facts(second).aliases == (one,)
    store.target.alias([])


def test_facts_select_collections_by_pattern(store: Any) -> None:
    prefix = store.name()
    names = [f"{prefix}{suffix}" for suffix in ("-a", "-b", "-[b]", "-cü")]
    for name in names:
        store.made.append(name)
        store.call("PUT", store.path(name), BODY)

    def found(*patterns: str) -> list[str]:
        return [collection.name for collection in store.source.facts(patterns).collections]

    assert found(f"{prefix}*") == sorted(names)
    assert found(f"{prefix}*", f"!{prefix}-[ab]") == sorted(names[2:])
    assert found(names[2]) == [names[2]]
    assert found(names[0], f"!{names[0]}") == []
    store.target.alias([(f"{prefix}-alias", names[0])])
    with pytest.raises(NotFound, match="-alias") as caught:
        found(f"{prefix}-alias")
    assert names[0] in caught.value.hint
    with pytest.raises(NotFound):
        found(f"{prefix}-none")
    with pytest.raises(NotFound):
        list(store.source.points(Link("l", "*", ()), prefix))


def test_a_copy_that_an_alias_made_live_is_backed_up(store: Any) -> None:
    live, restored = store.make(BODY), store.make(BODY, "_restored_abc123")
    alias = f"{live}-alias"
    patterns = QdrantConfig().patterns

    def covered() -> dict[str, tuple[str, ...]]:
        found = store.source.facts(patterns).collections
        return {one.name: one.aliases for one in found if one.name in (live, restored)}

    assert covered() == {live: ()}
    store.target.alias([(alias, restored)])
    assert covered() == {live: (), restored: (alias,)}


def test_facts_tell_versions_nodes_and_exact_counts(store: Any) -> None:
    name = store.make(BODY)
    store.put(name, _points(33))

    facts = store.source.facts([name])

    assert facts.server_version == store.server.version
    assert facts.nodes == store.server.urls
    (collection,) = facts.collections
    assert collection.points == 33
    assert [shard.id for shard in collection.shards] == [0, 1]
    assert {shard.node for shard in collection.shards} == set(store.server.urls)
    assert collection.config["params"]["shard_number"] == 2


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
def test_a_wrong_key_is_denied_and_never_shown(stores: Any, version: str) -> None:
    guarded = stores(version, api_key=True)
    name = guarded.make(BODY)
    assert guarded.facts(name).points == 0
    for key in (None, "wrong-key-123456"):
        secret = SecretStr(key) if key else None
        source = QdrantSource(QdrantConfig(url=guarded.server.url, api_key=secret), SystemClock())
        with pytest.raises(Denied) as caught:
            source.facts(["*"])
        assert "api_key" in caught.value.hint
        assert "wrong-key" not in f"{caught.value} {caught.value.hint}"
        source.close()


def test_nobody_there() -> None:
    source = QdrantSource(QdrantConfig(url="http://user:secret@127.0.0.1:9"), SystemClock())
    with pytest.raises(Unreachable) as caught:
        source.facts(["*"])
    assert caught.value.retryable
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)
    source.close()


class _Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Other)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_something_else_there(web_server: HTTPServer, store: Any) -> None:
    port = web_server.server_address[1]
    for url in (f"http://127.0.0.1:{port}", f"{store.server.url}/prefix"):
        source = QdrantSource(QdrantConfig(url=url), SystemClock())
        with pytest.raises(Failed, match="like a Qdrant") as caught:
            source.facts(["*"])
        assert "6333" in caught.value.hint
        source.close()


def test_tls_is_checked(web_server: HTTPServer, tmp_path: Path, store: Any) -> None:
    port = web_server.server_address[1]
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    web_server.socket = context.wrap_socket(web_server.socket, server_side=True)
    url = f"https://127.0.0.1:{port}"

    def tried(**options: Any) -> VbackupError:
        source = QdrantSource(QdrantConfig(url=url, **options), SystemClock())
        try:
            with pytest.raises(VbackupError) as caught:
                source.facts(["*"])
        finally:
            source.close()
        return caught.value

    assert "ca_file" in tried().hint
    # Past TLS, it turns out to be no Qdrant.
    assert "like a Qdrant" in str(tried(ca_file=certificate))
    assert "like a Qdrant" in str(tried(verify_tls=False))
    with pytest.raises(VbackupError, match="ca_file"):
        QdrantSource(QdrantConfig(url=url, ca_file=tmp_path / "none.pem"), SystemClock())
    plain = store.server.url.replace("http://", "https://")
    source = QdrantSource(QdrantConfig(url=plain), SystemClock())
    with pytest.raises(Failed) as caught:
        source.facts(["*"])
    assert "http://" in caught.value.hint
    source.close()
