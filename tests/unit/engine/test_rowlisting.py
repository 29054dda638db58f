"""Row listings: whatever form a server's columns come in, they are read back as texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from vbackup.engine.rowlisting import ListedRows, StoredRows
from vbackup.model.blocks import RowBlock
from vbackup.model.columns import Integers, Uuids
from vbackup.model.link import Link, RowSource

LINK = Link("documents", "*", (RowSource(table="t", key=("id",)),))
IDS = [UUID(int=n << 64 | 7) for n in (1, 2)]
UUIDS = Uuids.of_bytes(b"".join(one.bytes for one in IDS))


class Rows:
    def __init__(self, block: RowBlock) -> None:
        self._block = block

    def rows(self, link: Link) -> Iterator[RowBlock]:
        yield self._block

    def lookup(self, link: Link, keys: Sequence[str]) -> RowBlock:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("keys", "texts"),
    [
        (["a", "b"], ["a", "b"]),
        (Integers(np.array([1, -2], dtype=np.int64)), ["1", "-2"]),
        (UUIDS, [str(one) for one in IDS]),
    ],
    ids=["texts", "integers", "uuids"],
)
def test_columns_come_back_as_texts(keys: Sequence[str], texts: list[str], tmp_path: Path) -> None:
    block = RowBlock(keys, versions=Integers(np.array([7, 8], dtype=np.int64)))
    listed = ListedRows(Rows(block), tmp_path / "rows")
    assert list(listed.rows(LINK)) == [block]
    (back,) = StoredRows(lambda name: listed.stream()).rows(LINK)
    assert (list(back.keys), list(back.versions or ())) == (texts, ["7", "8"])
