"""Streams rows out of PostgreSQL: COPY, cut into blocks, parsed a column at a time.

Numbers and UUIDs come as they are (`postgres.packed`), everything else as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TypeVar, cast

from psycopg import errors, generators, pq, sql
from psycopg.abc import Buffer

from vbackup.model.blocks import RowBlock
from vbackup.model.keys import all_uuids, canonical, composite
from vbackup.postgres.connection import Connection
from vbackup.postgres.packed import Packed
from vbackup.postgres.row_plan import Expression, RowPlan

BLOCK_ROWS = 16_384
BLOCK_BYTES = 16 * 1024**2
LOOKUP_KEYS = 10_000
_JOINED_ROWS = 100

Column = list[str | None]
_T = TypeVar("_T")

_NULL = "\\N"
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_JSON_SPECIAL = re.compile(r'["\\\x00-\x1f]')
# The shortest text that may be another spelling of a UUID.
_UUID_LENGTH = 32


def stream(connection: Connection, plan: RowPlan, query: sql.Composed) -> Iterator[RowBlock]:
    """The rows of a query made by this plan, in blocks of up to 16,384 rows, in no order."""
    if plan.packed:
        yield from _unpacked(connection, Packed(plan), query)
        return
    for text in copied(connection, query):
        block = parse(text, plan)
        if len(block):
            yield block


def looked_up(connection: Connection, plan: RowPlan, keys: Sequence[str]) -> Iterator[RowBlock]:
    """The rows that have one of these canonical keys."""
    for start in range(0, len(keys), LOOKUP_KEYS):
        wanted = keys[start : start + LOOKUP_KEYS]
        condition = plan.having(wanted)
        if condition is not None:
            yield from stream(connection, plan, plan.select(condition))


def joined(blocks: Sequence[RowBlock]) -> RowBlock:
    """One block out of several; a column that only some of them have is filled with what its
    absence means."""
    if len(blocks) == 1:
        return blocks[0]
    keys = [key for block in blocks for key in block.keys]
    return RowBlock(
        keys=keys,
        versions=_joined([(len(b), b.versions) for b in blocks], None),
        live=_joined([(len(b), b.live) for b in blocks], True),
        counts=_joined([(len(b), b.counts) for b in blocks], None),
        tenants=_joined([(len(b), b.tenants) for b in blocks], None),
        collections=_joined([(len(b), b.collections) for b in blocks], None),
    )


def _joined(columns: list[tuple[int, Sequence[_T] | None]], absent: _T) -> list[_T] | None:
    if all(column is None for _, column in columns):
        return None
    found: list[_T] = []
    for length, column in columns:
        found.extend([absent] * length if column is None else column)
    return found


def copied(connection: Connection, query: sql.Composed) -> Iterator[str]:
    """COPY's text output in pieces of whole lines."""
    pieces: list[bytes] = []
    size = 0
    for lines in _copy(connection, sql.SQL("COPY ({}) TO STDOUT").format(query)):
        piece = b"".join(lines)
        pieces.append(piece)
        size += len(piece)
        if len(pieces) * _JOINED_ROWS >= BLOCK_ROWS or size >= BLOCK_BYTES:
            yield b"".join(pieces).decode()
            pieces.clear()
            size = 0
    if size:
        yield b"".join(pieces).decode()


def _unpacked(connection: Connection, packed: Packed, query: sql.Composed) -> Iterator[RowBlock]:
    """The rows of a packed plan. Those without a version come in blocks of their own."""
    whole: list[bytes] = []
    short: list[bytes] = []
    for rows in _copy(connection, sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)):
        complete, incomplete = packed.split(rows)
        whole.append(complete)
        short.append(incomplete)
        if len(whole) * _JOINED_ROWS >= BLOCK_ROWS:
            yield from packed.blocks(b"".join(whole), b"".join(short))
            whole.clear()
            short.clear()
    yield from packed.blocks(b"".join(whole), b"".join(short))


def _copy(connection: Connection, command: sql.Composed) -> Iterator[list[Buffer]]:
    """What a COPY sends, a few rows at a time: keeping a block's rows as so many buffers costs
    more than COPY.

    What libpq has received is taken from it directly, which costs a third of iterating over
    `copy`; that is left to do the waiting."""
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        received = connection.pgconn.get_copy_data
        over = False
        while not over:
            rows: list[Buffer] = []
            keep = rows.append
            # A million times: every name that is looked up and every call counts here.
            for _ in range(min(_JOINED_ROWS, BLOCK_ROWS)):
                size, row = received(1)
                if size > 0:
                    keep(row)
                elif size == 0 and (waited := copy.read()):
                    keep(waited)
                else:
                    if size < 0:
                        _ended(connection)
                    over = True
                    break
            yield rows


def _ended(connection: Connection) -> None:
    """Take the result of a COPY that gave its last line. Raises psycopg's errors."""
    *_, result = connection.wait(generators.fetch_many(connection.pgconn))
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(result)


def parse(text: str, plan: RowPlan) -> RowBlock:
    """A block out of whole lines of COPY's text format, in the order of the plan's columns.

    Rows whose key is null are left out.
    """
    columns = split(text, len(plan.columns))
    keys, rest = keys_of(plan.key, columns[: len(plan.key)]), columns[len(plan.key) :]
    if None in keys:
        present = [key is not None for key in keys]
        keys = list(compress(keys, present))
        rest = [list(compress(column, present)) for column in rest]
    return _block(cast("list[str]", keys), rest, plan)


def split(text: str, width: int) -> list[Column]:
    """Whole lines of COPY's text format as columns of that many cells a line."""
    cells = text.replace("\n", "\t").split("\t")
    cells.pop()
    return [_decoded(cells[at::width], text) for at in range(width)]


def _block(keys: list[str], rest: list[Column], plan: RowPlan) -> RowBlock:
    remaining = iter(rest)
    versions = live = counts = tenants = collections = None
    if plan.version:
        versions = spelled(next(remaining), plan.version)
    elif plan.identity:
        versions = next(remaining)
    if plan.live:
        live = [value == "t" for value in next(remaining)]
    if plan.count:
        counts = [None if value is None else int(value) for value in next(remaining)]
    if plan.tenant:
        tenants = spelled(next(remaining), plan.tenant)
    if plan.collection:
        collections = next(remaining)
    return RowBlock(keys, versions, live, counts, tenants, collections)


def _decoded(cells: list[str], text: str) -> Column:
    """Cells without COPY's escapes; None for null."""
    if "\\" not in text:
        return cast("Column", cells)
    return [
        cell if "\\" not in cell else None if cell == _NULL else _ESCAPE.sub(_unescaped, cell)
        for cell in cells
    ]


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[1])


def spelled(column: Column, expression: Expression) -> Column:
    """The column in the spelling that vbackup compares (model.keys)."""
    if expression.plain:
        return column
    if expression.floating:
        return [None if value is None else canonical(float(value)) for value in column]
    if None not in column and all_uuids(cast("list[str]", column)):
        return column
    return [
        value if value is None or len(value) < _UUID_LENGTH else canonical(value)
        for value in column
    ]


def keys_of(parts: Sequence[Expression], columns: list[Column]) -> Column:
    """Canonical keys out of the columns of their parts."""
    found = [spelled(column, part) for part, column in zip(parts, columns, strict=True)]
    if len(found) == 1:
        return found[0]
    if not any(_to_escape(column) for column in found):
        form = "[" + ",".join(['"{}"'] * len(found)) + "]"
        return list(map(form.format, *found))
    return [composite(values) for values in zip(*found, strict=True)]


def _to_escape(column: Column) -> bool:
    """Whether JSON would spell a value of this column otherwise than between two quotes."""
    return None in column or _JSON_SPECIAL.search("".join(cast("list[str]", column))) is not None
