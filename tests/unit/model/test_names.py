"""Copies that vbackup made are recognised, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vbackup.config import QdrantConfig
from vbackup.model.names import (
    COLLECTION_NAME_BYTES,
    collection_copy,
    is_copy,
    kept_suffix,
    restored_suffix,
)


def test_names_that_vbackup_gives_are_recognised() -> None:
    assert is_copy("docs" + restored_suffix("20260304T110000Z-abc123"))
    assert is_copy("docs" + restored_suffix("20260304T110000Z-abc123", 2))
    assert is_copy("docs" + kept_suffix(datetime(2026, 3, 4, tzinfo=UTC)))


@pytest.mark.parametrize(
    "name", ["docs", "docs_restored", "docs_restored_xyz123", "docs_before_2026", "_restored_"]
)
def test_other_names_are_not(name: str) -> None:
    assert not is_copy(name)


def test_copies_are_left_out_unless_one_is_named() -> None:
    assert QdrantConfig().patterns[0] == "*"
    assert all(pattern.startswith("!") for pattern in QdrantConfig().patterns[1:])
    named = QdrantConfig(collections=("docs_restored_abc123",))
    assert named.patterns == named.collections


def test_a_copy_of_a_long_name_can_be_copied_again() -> None:
    """Qdrant puts the name into that of a file, which may have 255 bytes."""
    suffix = kept_suffix(datetime(2026, 3, 4, tzinfo=UTC))
    assert collection_copy("docs", suffix) == "docs" + suffix
    long = "ü" * 120
    copies = {collection_copy(long + end, suffix) for end in ("", "a", "b")}
    assert len(copies) == 3
    assert all(is_copy(copy) for copy in copies)
    assert all(len(copy.encode()) <= COLLECTION_NAME_BYTES for copy in copies)
