"""What a link needs of each point, and how pages of points become blocks: live and offline alike.

Only the needed payload keys are asked for, and whole columns are built at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, cast

import msgspec
import numpy as np

from vbackup.model.blocks import Point, PointBlock, PointId
from vbackup.model.columns import Integers, Numbers, Uuids
from vbackup.model.keys import all_uuids, canonical, composite
from vbackup.model.link import JSON_STEP, Link, PayloadPath
from vbackup.qdrant.conditions import Admission, filter_paths, server_key
from vbackup.qdrant.pagescan import PageScan, rest_of

Payload = dict[str, Any] | None

_INT64 = np.uint64(2**63)
_WHOLE = {int, str}
# The shortest text that may be another spelling of a UUID.
_UUID_LENGTH = 32


class Record(msgspec.Struct, gc=False):
    """A point as the server tells it, without vectors."""

    id: PointId
    payload: Payload = None


class Page(msgspec.Struct):
    points: list[Record]
    next_page_offset: PointId | None = None


_NO_PAGE = Page([])


class _PageAnswer(msgspec.Struct):
    result: Page


class _Sample(msgspec.Struct):
    points: list[Record]


class _SampleAnswer(msgspec.Struct):
    result: _Sample


class _RecordsAnswer(msgspec.Struct):
    result: list[Record]


decode_page = msgspec.json.Decoder(_PageAnswer).decode
decode_sample = msgspec.json.Decoder(_SampleAnswer).decode
decode_records = msgspec.json.Decoder(_RecordsAnswer).decode


class Projection:
    """How one link reads points.

    `filtered` tells that whoever delivers the points has applied the link's filters already, so
    that their payload keys need not be read.
    """

    def __init__(self, link: Link, *, filtered: bool = False) -> None:
        self._link = link
        self._admits = Admission({}, {}) if filtered else Admission(link.filter, link.must_not)
        paths = [*link.ref, link.version, link.tenant]
        if not filtered:
            paths += filter_paths(link)
        self._scan = PageScan(link) if self._admits.everything else None
        self.keys = _projected([path for path in paths if path])
        """Payload paths to ask a server for, in its spelling; empty when ids are enough."""

    def scanned(self, raw: bytes) -> PointBlock | None:
        """The points of a scroll's answer, read as bytes; None where they have to be decoded."""
        return self._scan.block(raw) if self._scan else None

    def page(self, records: Sequence[Record]) -> PointBlock:
        """Decoded records as columns."""
        return self.block([r.id for r in records], [r.payload for r in records])

    def block(self, ids: Sequence[PointId], payloads: Sequence[Payload]) -> PointBlock:
        """Points as columns: those that the link's filters admit."""
        if not self._admits.everything:
            admitted = [self._admits(payload) for payload in payloads]
            ids = list(compress(ids, admitted))
            payloads = list(compress(payloads, admitted))
        link = self._link
        return PointBlock(
            ids=ids,
            refs=self._refs(ids, payloads),
            versions=_column(link.version, payloads) if link.version else None,
            tenants=_column(link.tenant, payloads) if link.tenant else None,
        )

    def _refs(self, ids: Sequence[PointId], payloads: Sequence[Payload]) -> Sequence[str | None]:
        if self._link.by_id:
            return _keys(ids)
        columns = [_column(path, payloads) for path in self._link.ref]
        if len(columns) == 1:
            return columns[0]
        return [composite(parts) for parts in zip(*columns, strict=True)]


class Answer:
    """The answer of a scroll: where the next page starts at once, the points when asked for.

    Raises msgspec's errors for what is no such answer."""

    def __init__(self, projection: Projection, raw: bytes) -> None:
        self._projection = projection
        self._raw = raw
        rest = rest_of(raw)
        self._page = None if rest else decode_page(raw).result
        self.start = (rest or self._page or _NO_PAGE).next_page_offset

    def points(self, asked: int) -> int:
        """How many there are, when so many were asked for: a page that is not the last is full."""
        return len(self._page.points) if self._page else asked

    def block(self) -> PointBlock:
        """The points as columns: those that the link's filters admit."""
        if not self._page and (block := self._projection.scanned(self._raw)):
            return block
        page = self._page or decode_page(self._raw).result
        return self._projection.page(page.points)


def reference(link: Link, id_: PointId, payload: Payload) -> str | None:
    """The canonical key that one point refers to."""
    if link.by_id:
        return str(id_)
    return composite(canonical(path.extract(payload)) for path in link.ref)


def by_reference(
    link: Link, points: Iterable[Point], keys: Iterable[str]
) -> dict[str, list[Point]]:
    """Those of the points that the link's filters admit and that refer to one of these keys."""
    admits = Admission(link.filter, link.must_not)
    wanted = set(keys)
    found: dict[str, list[Point]] = {}
    for point in points:
        key = reference(link, point.id, point.payload)
        if key is not None and key in wanted and admits(point.payload):
            found.setdefault(key, []).append(point)
    return found


def chosen(block: PointBlock, keys: Collection[str]) -> PointBlock:
    """The points of the block that refer to one of these keys."""
    wanted = [ref in keys for ref in block.refs]
    if all(wanted):
        return block
    return PointBlock(
        ids=list(compress(block.ids, wanted)),
        refs=list(compress(block.refs, wanted)),
        versions=None if block.versions is None else list(compress(block.versions, wanted)),
        tenants=None if block.tenants is None else list(compress(block.tenants, wanted)),
    )


def joined(blocks: Sequence[PointBlock]) -> PointBlock:
    """One block of several of the same link; without any, an empty one."""
    if len(blocks) == 1:
        return blocks[0]
    ids: list[PointId] = []
    refs: list[str | None] = []
    versions: list[str | None] = []
    tenants: list[str | None] = []
    for block in blocks:
        ids += block.ids
        refs += block.refs
        versions += block.versions or ()
        tenants += block.tenants or ()
    return PointBlock(
        ids=ids,
        refs=refs,
        versions=None if any(block.versions is None for block in blocks) else versions,
        tenants=None if any(block.tenants is None for block in blocks) else tenants,
    )


def _keys(ids: Sequence[PointId]) -> Sequence[str]:
    """Ids as the keys of rows."""
    if isinstance(ids, Uuids):
        return ids
    if isinstance(ids, Numbers) and len(ids) and ids.values.max() < _INT64:
        return Integers(ids.values.view(np.int64))
    return list(map(str, ids))


def _column(path: PayloadPath, payloads: Sequence[Payload]) -> Sequence[str | None]:
    if len(path.steps) == 1:
        step = path.steps[0]
        return _canonical([payload.get(step) if payload else None for payload in payloads])
    return _canonical([path.extract(payload) for payload in payloads])


def _canonical(values: Sequence[object]) -> Sequence[str | None]:
    """`canonical` of each, the common columns as a whole: of numbers, short texts, UUIDs."""
    kinds = set(map(type, values))
    if kinds == {int}:
        with suppress(OverflowError):
            return Integers(np.fromiter(cast("Sequence[int]", values), np.int64, len(values)))
    if values and kinds <= _WHOLE:
        texts = list(map(str, values))
        if max(map(len, texts)) < _UUID_LENGTH or all_uuids(texts):
            return cast("list[str | None]", texts)
    return [canonical(value) for value in values]


def _projected(paths: Sequence[PayloadPath]) -> list[str]:
    """The server's spelling of the paths, each up to where only we can follow: JSON text, or a
    step that may be a list index."""
    keys: dict[str, None] = {}
    for path in paths:
        steps: list[str] = []
        for step in path.steps:
            if step == JSON_STEP or (steps and step.isdigit()):
                break
            steps.append(step)
        keys[server_key(steps)] = None
    return list(keys)
