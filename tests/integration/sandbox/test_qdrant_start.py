"""Qdrant starts alone, as a cluster, and behind an API key."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from vbackup.sandbox.loopback import request
from vbackup.sandbox.qdrant import QdrantOptions
from vbackup.sandbox.sandbox import Options, throwaway
from vbackup.sandbox.servers import QdrantServer

pytestmark = pytest.mark.integration


def _only(options: QdrantOptions) -> Options:
    return Options(postgres=None, qdrant=options, s3=False)


def _json(url: str, method: str = "GET", body: object = None) -> object:
    asked = urllib.request.Request(
        url,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)["result"]


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
def test_three_nodes_form_one_cluster(tmp_path: Path, version: str) -> None:
    with throwaway(_only(QdrantOptions(version=version, nodes=3)), tmp_path / "s") as sandbox:
        server = sandbox.qdrant
        assert server.clustered
        assert len(set(server.urls)) == 3
        peers = [_peers(url) for url in server.urls]
        assert len(peers[0]) == 3
        assert peers[0] == peers[1] == peers[2]
        _json(
            f"{server.url}/collections/spread",
            "PUT",
            {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 3},
        )
        placed = _json(f"{server.urls[2]}/collections/spread/cluster")
        assert isinstance(placed, dict)
        assert len(placed["local_shards"]) + len(placed["remote_shards"]) == 3
    assert not (tmp_path / "s").exists()


def _peers(url: str) -> set[str]:
    found = _json(f"{url}/cluster")
    assert isinstance(found, dict)
    return set(found["peers"])


def test_one_node_can_be_a_cluster(tmp_path: Path) -> None:
    with throwaway(_only(QdrantOptions(cluster=True)), tmp_path / "s") as sandbox:
        assert sandbox.qdrant.clustered
        assert len(_peers(sandbox.qdrant.url)) == 1


def test_one_node_is_no_cluster_by_default(qdrant_server: QdrantServer) -> None:
    if len(qdrant_server.urls) > 1:
        pytest.skip("the given Qdrant is a cluster")
    assert not qdrant_server.clustered


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_api_key_is_asked_for(tmp_path: Path, nodes: int) -> None:
    options = QdrantOptions(nodes=nodes, api_key=True)
    with throwaway(_only(options), tmp_path / "s") as sandbox:
        key = sandbox.qdrant.api_key
        assert key
        for url in sandbox.qdrant.urls:
            assert request(f"{url}/collections")[0] == 401
            assert request(f"{url}/collections", headers={"api-key": "wrong"})[0] == 401
            assert request(f"{url}/collections", headers={"api-key": key})[0] == 200
        assert key not in (tmp_path / "s" / "qdrant-1.log").read_text()


def test_the_users_own_variables_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT__SERVICE__HTTP_PORT", "1")
    monkeypatch.setenv("QDRANT_BOOTSTRAP", "http://nowhere:1")
    with throwaway(_only(QdrantOptions()), tmp_path / "s") as sandbox:
        assert request(f"{sandbox.qdrant.url}/readyz")[0] == 200


def test_its_memory_is_limited(tmp_path: Path) -> None:
    options = QdrantOptions(memory_limit=2 * 1024**3)
    with throwaway(_only(options), tmp_path / "s") as sandbox:
        (server,) = sandbox.state.processes
        limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
        assert any(line.startswith("Max data size") and "2147483648" in line for line in limits)
        _json(f"{sandbox.qdrant.url}/collections/c", "PUT", {"vectors": {}})
