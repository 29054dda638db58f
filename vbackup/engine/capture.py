"""Capture: keep the images of points that change while shards are being cut.

A shard is cut a moment before the watermark, so rows that change in between have points
that the shard snapshot lacks or holds in an older version. The capturer follows the change
feed and fetches those points from the live store, each kept under the version that the
point itself says. It never decides what is right: the comparison under the watermark does
(`engine.authority`). A row that capture misses ends on the re-embed list, never wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from vbackup.engine.links import Target
from vbackup.engine.owners import Owner, at_collection, rows_of
from vbackup.engine.versions import later, microseconds
from vbackup.model.blocks import Point, RowBlock
from vbackup.model.keys import canonical
from vbackup.model.link import Link
from vbackup.ports import Clock, PointSource, RecordSource

WANTED_LIMIT = 200_000
"""Rows that may be waited for at once: a bulk update beyond this goes to the late fetch."""

POLL_BATCH = 500
"""Rows whose points one poll asks for; they are in memory at once, vectors and all."""


Slot = tuple[str, Owner]
"""A link's name and one of its rows."""


@dataclass(frozen=True, slots=True)
class RowVersion:
    """What a live row says of its points: their version, and how many there are, where that is
    more than one and known."""

    version: str
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A captured point and where it lives."""

    collection: str
    point: Point


def version_of(link: Link, point: Point) -> str | None:
    """The version a point says it has; None when the link or the payload does not say."""
    return normal(canonical(link.version.extract(point.payload))) if link.version else None


def normal(version: str | None) -> str | None:
    """One spelling for equal versions, as the comparison sees them: a timestamp is an instant."""
    if version is None or (instant := microseconds(version)) is None:
        return version
    return f"@{instant}"


def newer(one: str, other: str) -> bool:
    """Whether one version (as `normal` spells it) is known to be newer than the other."""
    return later(one.removeprefix("@"), other.removeprefix("@"))


class ImageStore:
    """Captured images by (link, row, version), on disk: memory stays flat however many come.

    SQLite without journal or sync: the file lives as long as one backup and a crash needs
    nothing of it. One thread writes; readers wait for it."""

    def __init__(self, path: Path, memory: int) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(f"PRAGMA cache_size=-{max(memory // 1024, 2048)}")
        self._db.execute(
            "CREATE TABLE image (link TEXT, key TEXT, collection TEXT, version TEXT, size INTEGER,"
            " points BLOB, PRIMARY KEY (link, key, collection, version)) WITHOUT ROWID"
        )
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(list[Image]).decode

    def put(self, link: str, owner: Owner, version: str, images: Sequence[Image]) -> None:
        """Keep one set of points of one row version: all of them, as far as could be seen."""
        self._db.execute(
            "INSERT OR REPLACE INTO image VALUES (?, ?, ?, ?, ?, ?)",
            (link, *_row(owner), version, len(images), self._encode(list(images))),
        )

    def has(self, link: str, owner: Owner, row: RowVersion) -> bool:
        """Whether this version of the row is captured, with as many points as the row says."""
        found = self._db.execute(f"SELECT size {_OF_ROW}", (link, *_row(owner), row.version))
        sizes = found.fetchone()
        return sizes is not None and row.count in (None, sizes[0])

    def get(self, link: str, owner: Owner, row: RowVersion) -> list[Image] | None:
        """The points of this row version, or None: as many as the row says."""
        wanted = (link, *_row(owner), row.version)
        found = self._db.execute(f"SELECT size, points {_OF_ROW}", wanted).fetchone()
        if found is None or row.count not in (None, found[0]):
            return None
        return self._decode(found[1])

    def propose(self, link: str, owner: Owner, images: Sequence[Image]) -> None:
        """Keep points of a row whose version nobody knows yet, in place of earlier ones."""
        self.put(link, owner, _PROPOSED, images)

    def accept(self, link: str, owner: Owner, version: str) -> None:
        """What was proposed for the row has this version."""
        changed = "UPDATE OR REPLACE image SET version = ? WHERE link = ? AND key = ?"
        changed += " AND collection = ? AND version = ?"
        self._db.execute(changed, (version, link, *_row(owner), _PROPOSED))

    def count(self) -> int:
        """Row versions captured."""
        known = "SELECT count(*) FROM image WHERE version <> ?"
        return int(self._db.execute(known, (_PROPOSED,)).fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


_PROPOSED = "\0proposed"
"""In place of a version; no row can say it."""
_OF_ROW = "FROM image WHERE link = ? AND key = ? AND collection = ? AND version = ?"


def _row(owner: Owner) -> tuple[str, str]:
    return owner.key, "" if owner.collection is None else f"={owner.collection}"


@dataclass(slots=True)
class Wanted:
    """A live row version whose points are not captured yet."""

    row: RowVersion
    since: float
    seen: frozenset[tuple[str, str]] = frozenset()
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """Points of an unkeyed row, fetched a lag after the row was seen; accepted when the row still
    is the same another lag later: of an application that writes the point first, it could be the
    point of a row that is still to come. The points themselves are with the images."""

    identity: str
    fetched: float


@dataclass(slots=True)
class Capturer:
    """Follows the change feed from `base` and captures the points of changed rows.

    A keyed link's image belongs to the version that the point says. Without a version on both
    sides a row version is its identity (`xmin`), and an image is taken for it when the row did
    not change for `max_index_lag` seconds before and after the fetch: best effort, wrong when the
    lag is really longer."""

    records: RecordSource
    points: PointSource | None
    targets: Sequence[Target]
    images: ImageStore
    clock: Clock
    base: str
    settle_lag: float
    max_index_lag: float = 300.0
    aliases: Mapping[str, str] = field(default_factory=dict)
    proposals: dict[Slot, Proposal] = field(default_factory=dict)
    wanted: dict[Slot, Wanted] = field(default_factory=dict)
    past: dict[Slot, str] = field(default_factory=dict)
    overflowed: bool = False
    changes: int = 0

    def tick(self) -> None:
        """Read what changed since the last tick, then look for points."""
        links = [target.link for target in self.targets]
        if not links:
            return
        fetched = self._ripe()
        changed, self.base = self.records.changed(links, self.base, most=WANTED_LIMIT)
        for link in links:
            self.want(link, changed[link.name])
        self._settle(fetched)
        self.poll()

    def _ripe(self) -> dict[Slot, Proposal]:
        """Take out the proposals that were fetched a lag ago."""
        latest = self.clock.monotonic() - self.max_index_lag
        ripe = {slot: one for slot, one in self.proposals.items() if one.fetched <= latest}
        for slot in ripe:
            del self.proposals[slot]
        return ripe

    def _settle(self, fetched: dict[Slot, Proposal]) -> None:
        """Accept what was fetched a lag before this tick for rows that still are what they were.

        The rows are read again: one that changed and was deleted since is in no change feed."""
        if not fetched:
            return
        for target in self.targets:
            name = target.link.name
            owners = [owner for link, owner in fetched if link == name]
            for owner, identity in self._identities(target.link, owners):
                slot = (name, owner)
                if slot not in fetched or fetched[slot].identity != identity:
                    continue
                self.images.accept(*slot, fetched[slot].identity)
                if (held := self.wanted.get(slot)) and held.row.version == identity:
                    del self.wanted[slot]

    def _identities(self, link: Link, owners: Sequence[Owner]) -> list[tuple[Owner, str | None]]:
        if not owners:
            return []
        view = self.records.view()
        try:
            block = view.lookup(link, list(dict.fromkeys(owner.key for owner in owners)))
        finally:
            view.close()
        said = block.versions or [None] * len(block)
        return [(owner, normal(said[at])) for at, owner in rows_of(link, block, self.aliases)]

    def want(self, link: Link, block: RowBlock) -> list[tuple[Owner, RowVersion]]:
        """Ask for the live rows of a block that are not captured; returns them."""
        asked: list[tuple[Owner, RowVersion]] = []
        self.changes += len(block)
        rows = list(rows_of(link, block, self.aliases))
        self._forget_older(link, block, rows)
        now = self.clock.monotonic()
        for owner, row in _live(link, block, rows):
            slot = (link.name, owner)
            held = self.wanted.get(slot)
            if self.images.has(link.name, owner, row):
                if held and held.row.version == row.version:
                    del self.wanted[slot]
                continue
            asked.append((owner, row))
            if held and held.row == row:
                continue
            if len(self.wanted) >= WANTED_LIMIT and not held:
                self.overflowed = True
                continue
            self.wanted[slot] = Wanted(row, now)
        return asked

    def _forget_older(self, link: Link, block: RowBlock, rows: Iterable[tuple[int, Owner]]) -> None:
        """Stop waiting for versions that rows no longer have, rows that are not live any more
        among them: an unkeyed row's next point would be taken for the old one's."""
        if block.versions is None:
            return
        for at, owner in rows:
            held = self.wanted.get((link.name, owner))
            if held and held.row.version != normal(block.versions[at]):
                del self.wanted[link.name, owner]
                self.proposals.pop((link.name, owner), None)

    def awaited(self, slot: Slot, row: RowVersion) -> bool:
        """Whether the point of this row version may still come: it is not captured, and not known
        to have moved past it, for then it never comes back."""
        if self.images.has(*slot, row):
            return False
        return not ((seen := self.past.get(slot)) and newer(seen, row.version))

    def poll(self) -> int:
        """Fetch the points of wanted rows from the live store; how many became captured."""
        before = len(self.wanted)
        for target in self.targets:
            owners = self._due(target.link)
            if owners:
                self._capture(target, owners)
        return before - len(self.wanted)

    def _due(self, link: Link) -> list[Owner]:
        """The wanted rows worth a fetch now; unkeyed ones only a lag after they were seen."""
        latest = self.clock.monotonic() - self.max_index_lag
        due = (
            owner
            for (name, owner), wanted in self.wanted.items()
            if name == link.name
            and (link.exact or (wanted.since <= latest and (name, owner) not in self.proposals))
        )
        return list(islice(due, POLL_BATCH))

    def _capture(self, target: Target, owners: Sequence[Owner]) -> None:
        link = target.link
        if self.points is None:
            return
        for owner, images in fetch_images(self.points, target, owners).items():
            slot = (link.name, owner)
            wanted = self.wanted.pop(slot)
            if not self._accept(link, owner, images, wanted):
                # Back to the end of the line, so that a poll with many wanted rows moves on.
                self.wanted[slot] = wanted

    def _accept(self, link: Link, owner: Owner, images: list[Image], wanted: Wanted) -> bool:
        sought = wanted.row.version
        if not link.exact:
            if images:
                now = self.clock.monotonic()
                self.proposals[link.name, owner] = Proposal(sought, now)
                self.images.propose(link.name, owner, images)
            return False
        version = common_version(link, images) if link.keyed else sought
        if version is None or not images:
            return False
        if newer(version, sought):
            self.past[link.name, owner] = version
        if link.cardinality == "many" and not self._complete(images, version, wanted):
            return False
        self.images.put(link.name, owner, version, images)
        return version == sought

    def _complete(self, images: list[Image], version: str, wanted: Wanted) -> bool:
        """Whether a set of points is all of them: by the row's count, or because a fetch a lag
        later finds the same set. Of a version that no row is seen to have yet that is a guess:
        the row's count, once it says one, decides (`ImageStore.has`)."""
        if wanted.row.count is not None and version == wanted.row.version:
            return len(images) == wanted.row.count
        names = frozenset((image.collection, f"{image.point.id}@{version}") for image in images)
        now = self.clock.monotonic()
        if names != wanted.seen:
            wanted.seen, wanted.seen_at = names, now
            return False
        return now - wanted.seen_at >= self.settle_lag


def _live(
    link: Link, block: RowBlock, rows: Iterable[tuple[int, Owner]]
) -> Iterator[tuple[Owner, RowVersion]]:
    """The live ones of these rows of a block that say their version, and that have points."""
    if block.versions is None:
        return
    for at, owner in rows:
        version = normal(block.versions[at])
        count = block.counts[at] if block.counts is not None else None
        live = block.live is None or block.live[at]
        if live and version is not None and count != 0:
            yield owner, RowVersion(version, count if link.cardinality == "many" else None)


def common_version(link: Link, images: Iterable[Image]) -> str | None:
    """The one version that all points say; None when there are several, none, or no points."""
    versions = {version_of(link, image.point) for image in images}
    return versions.pop() if len(versions) == 1 else None


def fetch_images(
    points: PointSource, target: Target, owners: Sequence[Owner]
) -> dict[Owner, list[Image]]:
    """The live points of these rows in all collections that may have them; [] where there are
    none."""
    found: dict[Owner, list[Image]] = {owner: [] for owner in owners}
    for collection in target.collections:
        if not (here := at_collection(owners, collection)):
            continue
        fetched = points.fetch(target.link, collection, [owner.key for owner in here])
        for owner in here:
            found[owner] += [Image(collection, point) for point in fetched.get(owner.key, ())]
    return found
