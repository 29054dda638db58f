"""Rows of numbers and UUIDs in COPY's binary format: whole blocks become arrays as they are.

Most links need a key and a version of such types, and then every row has the same length: the
number of its fields, and for each field its length (-1 for null) and its bytes
(https://www.postgresql.org/docs/current/sql-copy.html, File Formats, Binary Format).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.abc import Buffer

from vbackup.errors import Failed
from vbackup.model.blocks import RowBlock
from vbackup.model.columns import Integers, Uuids
from vbackup.postgres.row_plan import Expression, RowPlan

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What comes before the first row: signature, no flags, no extension."""
TRAILER = b"\xff\xff"
"""What comes after the last one."""

Records = NDArray[Any]


class Packed:
    """How the rows of one plan lie in memory (`RowPlan.packed`)."""

    def __init__(self, plan: RowPlan) -> None:
        self._plan = plan
        self._whole = _layout(plan, plan.version is not None)
        self._unversioned = _layout(plan, versioned=False, null=plan.version is not None)

    def split(self, rows: Sequence[Buffer]) -> tuple[bytes, bytes]:
        """The rows in one piece: those with all fields, and those whose version is null.

        Only the version can be: keys are asked for where they are not null."""
        size = self._whole.itemsize
        whole = b"".join(rows)
        if len(whole) == size * len(rows):
            return whole, b""
        rows = [bytes(row).removeprefix(HEADER) for row in rows]
        rows = [row for row in rows if row not in (b"", TRAILER)]
        short = b"".join(row for row in rows if len(row) != size)
        return b"".join(row for row in rows if len(row) == size), short

    def blocks(self, whole: bytes, short: bytes) -> list[RowBlock]:
        """What `split` gave, as blocks."""
        found = [self._block(whole, self._whole)] if whole else []
        if short:
            found.append(self._block(short, self._unversioned))
        return found

    def _block(self, rows: bytes, layout: np.dtype[np.void]) -> RowBlock:
        if len(rows) % layout.itemsize:
            raise Failed("PostgreSQL sent rows of another length than their columns have")
        records = np.frombuffer(rows, layout)
        versions: Sequence[str | None] | None = None
        if self._plan.version:
            said = layout is self._whole
            versions = _column(records, "version", self._plan.version) if said else None
            versions = versions if said else [None] * len(records)
        return RowBlock(
            keys=_column(records, "key", self._plan.key[0]),
            versions=versions,
            live=(records["live"] != 0).tolist() if self._plan.live else None,
        )


def _layout(plan: RowPlan, versioned: bool, *, null: bool = False) -> np.dtype[np.void]:
    """The fields of a row; big-endian, as the protocol has it."""
    fields: list[tuple[Any, ...]] = [("fields", ">i2"), *_field("key", plan.key[0])]
    if plan.version and versioned:
        fields += _field("version", plan.version)
    elif null:
        fields.append(("version_size", ">i4"))
    if plan.live:
        fields += [("live_size", ">i4"), ("live", "u1")]
    return np.dtype(fields)


def _field(name: str, expression: Expression) -> list[tuple[Any, ...]]:
    value = (name, ">u8", 2) if expression.uuid else (name, ">i8")
    return [(f"{name}_size", ">i4"), value]


def _column(records: Records, name: str, expression: Expression) -> Integers | Uuids:
    size = 16 if expression.uuid else 8
    if not (records[f"{name}_size"] == size).all():
        raise Failed(f"PostgreSQL sent a {name} of another length than its type has")
    if expression.uuid:
        halves = records[name].astype(np.uint64)
        return Uuids(halves[:, 0].copy(), halves[:, 1].copy())
    return Integers(records[name].astype(np.int64))
