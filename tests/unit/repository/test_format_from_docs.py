"""A backup can be taken out with docs/format.md alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vbackup.clock import SystemClock
from vbackup.repository.repository import Repository, RepositoryOptions
from vbackup.storage.directory import DirectoryStore

READER = Path(__file__).with_name("reader_from_docs.py")
FORMAT = Path(__file__).parents[3] / "docs" / "format.md"


def streams(kit: Any) -> dict[str, bytes]:
    vectors = np.random.default_rng(7).standard_normal(150_000).astype(np.float32)
    return {
        "empty": b"",
        "one-chunk": b"one small chunk",
        "noise": random.Random(1).randbytes(300_000),
        "text": kit.text(300_000),
        "vectors": vectors.tobytes(),
    }


@pytest.mark.parametrize("passphrase", ["a good passphrase", None], ids=["encrypted", "plain"])
@pytest.mark.parametrize("chunk_size", [1024, 32 * 1024])
def test_a_reader_written_from_the_docs_restores_every_artifact(
    tmp_path: Path, kit: Any, passphrase: str | None, chunk_size: int
) -> None:
    clock = SystemClock()
    store = DirectoryStore(tmp_path / "repository", clock)
    options = RepositoryOptions(chunk_size=chunk_size, pack_size=200_000)
    repository = Repository.create(store, passphrase=passphrase, options=options, clock=clock)
    kit.back_up(repository, "b1", **streams(kit))
    assert max(artifact.depth for artifact in repository.load("b1").artifacts()) >= 1
    for name, data in streams(kit).items():
        command = [sys.executable, "-I", str(READER), str(tmp_path / "repository"), "b1", name]
        secret = {"PASSPHRASE": passphrase} if passphrase else {}
        ran = subprocess.run(command, capture_output=True, check=False, env=os.environ | secret)
        assert ran.returncode == 0, ran.stderr.decode()
        assert ran.stdout == data, name


def test_the_reader_imports_nothing_of_vbackup() -> None:
    source = READER.read_text()
    assert "import vbackup" not in source
    assert "from vbackup" not in source


def test_the_page_names_every_object_and_constant() -> None:
    page = FORMAT.read_text()
    for word in (
        "VBPK",
        "KPBV",
        "VBAK",
        "vbackup key slot 1",
        "vbackup chunk ids",
        "vbackup data",
        "vbackup config",
        "vbackup chunker seed",
        "pack index",
        "fastcdc2020-nc1-by-stream",
        "damaged/",
        "doomed/",
        "leases/",
        "checks/cursor",
    ):
        assert word in page, word
