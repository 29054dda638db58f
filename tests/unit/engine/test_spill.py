"""Work files: what is written comes back, and what cannot be written is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackup.engine.fingerprints import U64, Records
from vbackup.engine.spill import BITS, PARTITIONS, ArraySpill, RecordSpill, TextSpill
from vbackup.errors import Failed

DTYPE = np.dtype([("value", "u8"), ("more", "u4")], align=True)


def by_value(records: Records) -> U64:
    spread: U64 = records["value"] << np.uint64(64 - BITS)
    return spread


def records(*values: int) -> Records:
    found: Records = np.zeros(len(values), DTYPE)
    found["value"] = values
    found["more"] = [value + 1 for value in values]
    return found


def test_records_come_back_by_partition(tmp_path: Path) -> None:
    spill = RecordSpill(DTYPE, tmp_path / "deep" / "rows", 10 * DTYPE.itemsize, by_value)
    for start in range(0, 3 * PARTITIONS, 7):
        spill.add(records(*range(start, min(start + 7, 3 * PARTITIONS))))
    assert spill.spilled
    spill.flush()
    assert len(spill.buffered()) == 0
    assert spill.counts().tolist() == [3] * PARTITIONS
    assert spill.extents(0, PARTITIONS).count == 3 * PARTITIONS
    for number in range(PARTITIONS):
        extents = spill.extents(number, number + 1)
        loaded = extents.load(DTYPE)
        assert sorted(loaded["value"].tolist()) == [
            number,
            number + PARTITIONS,
            number + 2 * PARTITIONS,
        ]
        assert (loaded["more"] == loaded["value"] + 1).all()
        odd = extents.load(DTYPE, lambda found: found["value"] > PARTITIONS)
        assert set(odd["value"].tolist()) <= {number + PARTITIONS, number + 2 * PARTITIONS}


def test_little_stays_in_memory(tmp_path: Path) -> None:
    spill = RecordSpill(DTYPE, tmp_path / "rows", 1000, by_value)
    spill.add(records(1, 2))
    assert not spill.spilled
    assert spill.buffered()["value"].tolist() == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_work_file_is_told(tmp_path: Path) -> None:
    spill = RecordSpill(DTYPE, tmp_path / "rows", 1, by_value)
    spill.add(records(1, 2, 3))
    with (tmp_path / "rows").open("r+b") as file:
        file.truncate(DTYPE.itemsize)
    with pytest.raises(Failed, match="shorter than what was written"):
        spill.extents(3, 4).load(DTYPE)


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spill = RecordSpill(DTYPE, tmp_path / "file" / "rows", 1, by_value)
    with pytest.raises(Failed, match="cannot use the work directory") as caught:
        spill.add(records(1))
    assert "work_dir" in caught.value.hint
    texts = TextSpill(tmp_path / "file" / "texts")
    with pytest.raises(Failed, match="cannot use the work directory"):
        texts.add(["x" * 2_000_000])


def test_arrays_keep_their_order(tmp_path: Path) -> None:
    spill = ArraySpill(DTYPE, tmp_path / "found", 5 * DTYPE.itemsize)
    for start in range(0, 100, 3):
        spill.add(records(*range(start, start + 3)))
    for _ in range(2):
        values = [value for block in spill.blocks() for value in block["value"].tolist()]
        assert values == list(range(102))


@given(st.lists(st.lists(st.text(), max_size=5), max_size=5))
def test_texts_come_back(groups: list[list[str]]) -> None:
    spill = TextSpill(Path("never-written"))
    references = [spill.add(texts) for texts in groups]
    for texts, found in zip(groups, references, strict=True):
        assert [spill.read(reference) for reference in found.tolist()] == texts


def test_many_texts_go_to_a_file(tmp_path: Path) -> None:
    spill = TextSpill(tmp_path / "texts")
    wanted = [f"{number} é".rjust(400) for number in range(8_000)]
    references = [spill.add(wanted[at : at + 100]) for at in range(0, len(wanted), 100)]
    assert (tmp_path / "texts").stat().st_size > 2**20
    assert [spill.read(r) for found in references for r in found.tolist()] == wanted
    spill.close()
    with pytest.raises(Failed, match="already removed"):
        spill.read(int(references[0][0]))


def test_a_text_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="longer than 16 MiB"):
        TextSpill(tmp_path / "texts").add(["x" * 2**24])
