"""Segments with an HNSW index, quantized or on disk, are read offline in full, without vectors."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from vbackup.model.link import Link, PayloadPath

pytestmark = pytest.mark.integration

COUNT = 3_000
SETTINGS: dict[str, Any] = {
    "vectors": {
        "disk": {"size": 32, "distance": "Cosine", "on_disk": True},
        "small": {
            "size": 16,
            "distance": "Dot",
            "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        },
        "many": {
            "size": 8,
            "distance": "Cosine",
            "multivector_config": {"comparator": "max_sim"},
        },
    },
    "sparse_vectors": {"words": {}},
    "hnsw_config": {"m": 8, "ef_construct": 16, "full_scan_threshold": 10},
}


def _points() -> list[dict[str, Any]]:
    rng = random.Random(3)

    def vector(size: int) -> list[float]:
        return [rng.uniform(-1, 1) for _ in range(size)]

    return [
        {
            "id": number,
            "vector": {
                "disk": vector(32),
                "small": vector(16),
                "many": [vector(8), vector(8)],
                "words": {"indices": [1, 7], "values": [0.5, 1.0]},
            },
            "payload": {"row": number, "version": number * 3},
        }
        for number in range(COUNT)
    ]


def _wait_until_indexed(store: Any, name: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = store.call("GET", store.path(name))
        if found["status"] == "green" and found["indexed_vectors_count"] >= COUNT:
            return
    pytest.fail(f"nothing was indexed: {found}")


@pytest.mark.parametrize("optimizers", [{}, {"memmap_threshold": 50}], ids=["ram", "mmap"])
def test_indexed_segments_show_every_point(
    store: Any, tmp_path: Path, optimizers: dict[str, Any]
) -> None:
    settings = {"indexing_threshold": 50, "default_segment_number": 1, **optimizers}
    name = store.make({**SETTINGS, "optimizers_config": settings})
    store.put(name, _points())
    gone = set(range(0, COUNT, 7))
    store.call("POST", store.path(name, "/points/delete"), {"points": list(gone)}, wait="true")
    _wait_until_indexed(store, name)
    link = Link("link", "*", (), ref=(PayloadPath.parse("row"),), version=PayloadPath(("version",)))

    with store.source.offline(store.spool(name, tmp_path), tmp_path / "work") as reader:
        found = {
            (point, ref, version)
            for block in reader.points(link, name)
            for point, ref, version in zip(block.ids, block.refs, block.versions, strict=True)
        }

    assert found == {(n, str(n), str(n * 3)) for n in range(COUNT) if n not in gone}
