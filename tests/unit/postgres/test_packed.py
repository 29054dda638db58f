"""COPY's binary rows, as PostgreSQL sends them, become the blocks that the text would give."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from vbackup.errors import Failed
from vbackup.model.blocks import RowBlock
from vbackup.postgres.packed import HEADER, TRAILER, Packed
from vbackup.postgres.row_plan import Expression, RowPlan

INT2, INT8, TEXT, UUID = 21, 20, 25, 2950
NUMBERS = st.integers(-(2**63), 2**63 - 1)


def plan(key: int, version: int | None = None, *, live: bool = False, **more: object) -> RowPlan:
    return RowPlan(
        origin=sql.SQL("t"),
        where=(),
        key=(Expression(sql.Identifier("k"), key),),
        version=Expression(sql.Identifier("v"), version) if version else None,
        live=sql.SQL("alive") if live else None,
        **more,  # type: ignore[arg-type]
    )


def sent(*values: int | uuid.UUID | bool | None) -> bytes:
    """One row in COPY's binary format."""
    cells = b""
    for value in values:
        data = _bytes(value)
        cells += struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data
    return struct.pack(">h", len(values)) + cells


def _bytes(value: int | uuid.UUID | bool | None) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return bytes([value])
    return value.bytes if isinstance(value, uuid.UUID) else struct.pack(">q", value)


def read(of: RowPlan, rows: list[bytes]) -> list[RowBlock]:
    """As a stream would: the header before the first row, the trailer in a message of its own."""
    packed = Packed(of)
    messages = [HEADER + rows[0], *rows[1:], TRAILER] if rows else [HEADER, TRAILER]
    return packed.blocks(*packed.split(messages))


@given(
    st.sampled_from([(INT8, NUMBERS), (UUID, st.uuids())]),
    st.sampled_from([(INT2, NUMBERS), (UUID, st.uuids())]),
    st.data(),
)
def test_rows_come_back_with_and_without_versions(
    key: tuple[int, st.SearchStrategy[object]],
    version: tuple[int, st.SearchStrategy[object]],
    data: st.DataObject,
) -> None:
    rows = data.draw(st.lists(st.tuples(key[1], version[1] | st.none(), st.booleans())))
    blocks = read(plan(key[0], version[0], live=True), [sent(*row) for row in rows])  # type: ignore[arg-type]
    found = [
        row
        for block in blocks
        for row in zip(block.keys, block.versions or (), block.live or (), strict=True)
    ]
    expected = [(str(k), None if v is None else str(v), alive) for k, v, alive in rows]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def test_keys_alone() -> None:
    assert read(plan(INT8), [sent(7), sent(-1)]) == [RowBlock(["7", "-1"])]
    assert read(plan(INT8), []) == []


def test_only_numbers_uuids_and_flags_are_packed() -> None:
    assert plan(INT8).packed
    assert plan(UUID, INT2, live=True).packed
    assert not plan(TEXT).packed
    assert not plan(INT8, TEXT).packed
    assert not plan(INT8, identity=True).packed
    assert not plan(INT8, count=sql.SQL("n")).packed
    assert not plan(INT8, collection=Expression(sql.SQL("c"), TEXT)).packed


@pytest.mark.parametrize("rows", [sent(1, 2)[:-1], sent(1, 2) + b"\0"])
def test_rows_of_another_shape_are_told(rows: bytes) -> None:
    with pytest.raises(Failed, match="another length"):
        read(plan(INT8, INT8), [rows])


def test_a_field_of_another_length_is_told() -> None:
    row = struct.pack(">hiqiq", 2, 4, 1, 8, 2)
    with pytest.raises(Failed, match="a key of another length"):
        read(plan(INT8, INT8), [row])
