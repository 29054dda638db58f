"""Put a proven restored pair in the place of the live one, with a way back.

The live database is renamed, not dropped; each live collection is copied shard by shard to a
name of its own before anything is written into it. The state (`engine.switchstate`) says how to
go back and what may be dropped once nobody wants to.

Order: copies of the live collections, then the database (one rename), then the collections.
Between the last two the application sees the restored rows with the old points: stop the
writers first (docs/operations.md).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from vbackup.engine.cuts import ShardCuts, follow
from vbackup.engine.switchstate import BESIDE, HALF_WAY, SwitchState
from vbackup.errors import Failed, NotFound, Refused, VbackupError
from vbackup.model.manifest import Artifact, CollectionPart, ShardPart
from vbackup.model.names import collection_copy, database_copy, kept_suffix
from vbackup.ports import Clock, PointTarget, RecordTarget, Reporter


@dataclass(frozen=True, slots=True)
class Switch:
    """Moves pairs in and out of place on one PostgreSQL server and one Qdrant deployment, which
    `servers` names."""

    records: RecordTarget | None
    points: PointTarget | None
    work_dir: Path | None
    settle_timeout: float
    reporter: Reporter
    clock: Clock
    servers: tuple[str, str] = ("", "")

    def plan(self, state: SwitchState, names: Iterable[str]) -> dict[str, object]:
        """What a switch that is about to begin adds to its state. `names` are the live
        collections. What is kept gets names that nothing has."""
        live = state.database
        existing = [name for name in names if self.points and self.points.exists(name)]
        database = live if self.records and live and self.records.exists(live) else None
        at = self.clock.now()
        while self._taken(database, existing, kept_suffix(at)):
            at += timedelta(seconds=1)
        suffix = kept_suffix(at)
        kept = {name: collection_copy(name, suffix) if name in existing else None for name in names}
        return {
            "phase": "keeping",
            "kept_database": database_copy(database, suffix) if database else None,
            "collections": kept,
            "aliases": self._aliases_of(existing),
        }

    def _aliases_of(self, collections: list[str]) -> dict[str, str]:
        if not (self.points and collections):
            return {}
        found = self.points.reader().facts(collections).collections
        return {alias: facts.name for facts in found for alias in facts.aliases}

    def alias_again(self, state: SwitchState) -> None:
        """Give collections that were created anew the aliases that were dropped with the old
        ones. One that exists points where somebody wants it now."""
        if self.points is None:
            return
        points = self.points
        gone = [pair for pair in state.aliases.items() if not points.exists(pair[0])]
        if gone:
            points.alias(gone)

    def _taken(self, database: str | None, collections: list[str], suffix: str) -> bool:
        if self.points and any(
            self.points.exists(collection_copy(name, suffix)) for name in collections
        ):
            return True
        kept = database_copy(database, suffix) if database else None
        return bool(self.records and kept and self.records.exists(kept))

    def keep(self, state: SwitchState) -> None:
        """Copy the live collections aside; the live pair is not touched."""
        for live, kept in state.collections.items():
            if kept is not None:
                with self.reporter.step(f"keep {live} as {kept}"):
                    self.copy(live, kept)

    def swap_database(self, state: SwitchState) -> None:
        """Rename: live to kept, restored to live."""
        if not (self.records and state.database and state.restored_database):
            return
        with self.reporter.step(f"switch database {state.database}"):
            if state.kept_database:
                self.records.swap(state.database, state.restored_database, state.kept_database)
            else:
                self.records.rename(state.restored_database, state.database)

    def swapped(self, state: SwitchState) -> bool:
        """Whether the restored database has taken the live name. Raises Unreachable."""
        if not (self.records and state.database and state.restored_database):
            return False
        if state.kept_database:
            return self.records.exists(state.kept_database)
        return not self.records.exists(state.restored_database)

    def may_go_back(self, state: SwitchState, *, force: bool) -> None:
        """Raises Refused where there is nothing to go back to."""
        if state.phase == "went back":
            raise Refused(
                f"this switch to {state.backup} was undone already",
                hint="--drop-old drops what it left; what was written since would be lost",
            )
        if state.phase in BESIDE:
            raise Refused(
                f"nothing live was changed by this restore of {state.backup}",
                hint="there is nothing to go back to; --drop-old drops what it made",
            )
        self._same_servers(state, force)

    def go_back(self, state: SwitchState) -> SwitchState:
        """Undo a switch, also one that stopped anywhere: the kept database and points take their
        old names again; the restored database keeps the name it was restored under. Once more
        after a failure does the rest. Returns the state then."""
        self._database_back(state)
        for live, kept in state.collections.items():
            if kept is None:
                self.reporter.warn(
                    "did not exist before the switch; left as it is", collection=live
                )
            else:
                with self.reporter.step(f"bring {live} back"):
                    self.copy(kept, live)
        self.alias_again(state)
        return replace(state, phase="went back")

    def _database_back(self, state: SwitchState) -> None:
        """What is under the live name now decides: the switch may have stopped before the
        rename, and this may be another try."""
        if not (self.records and state.database and state.restored_database):
            return
        with self.reporter.step(f"switch database {state.database} back"):
            if self.swapped(state):
                if state.kept_database:
                    self.records.swap(state.database, state.kept_database, state.restored_database)
                else:
                    self.records.rename(state.database, state.restored_database)
            elif self.records.exists(state.database):
                self.records.reopen(state.database)

    def to_drop(self, state: SwitchState, *, force: bool) -> list[str]:
        """The names that `drop_old` drops, the database first, "" for none.

        Raises Refused half way: what is to be dropped is then the only copy of what was live."""
        self._same_servers(state, force)
        if state.phase in HALF_WAY and not force:
            what = "way back from" if state.phase == "going back" else "switch to"
            raise Refused(
                f"the {what} {state.backup} has not come to its end: the copies may be all that is"
                " left of the live pair",
                hint="first --go-back with the same file; --force drops them all the same",
            )
        database = state.restored_database
        if state.phase == "switched" or (state.phase in HALF_WAY and self.swapped(state)):
            database = state.kept_database
        return [database or "", *state.copies]

    def drop_old(self, state: SwitchState, *, force: bool = False) -> list[str]:
        """Drop what is not live; returns what was dropped. Raises Refused like `to_drop`."""
        database, *copies = self.to_drop(state, force=force)
        dropped: list[str] = []
        if self.records and state.phase == "keeping" and state.kept_database and state.database:
            self.records.reopen(state.database)
        if self.records and database and self.records.exists(database):
            self.records.drop(database)
            dropped.append(f"database {database}")
        for name in copies:
            if self.points and self.points.exists(name):
                self.points.drop(name)
                dropped.append(f"collection {name}")
        return dropped

    def _same_servers(self, state: SwitchState, force: bool) -> None:
        """A name that is a copy there may be the live one here."""
        for then, now in zip((state.postgres, state.qdrant), self.servers, strict=True):
            if then and now and then != now and not force:
                raise Refused(
                    f"this was done on {then}, not on {now}",
                    hint="name the servers as then, with --postgres and --qdrant; --force when"
                    " it is the same server",
                )

    def abandon(self, state: SwitchState) -> bool:
        """Take away a switch that has changed nothing live: copies and the restored pair.
        Whether all of it is gone."""
        gone = True
        if self.records and state.database and state.kept_database:
            gone &= self._try(partial(self.records.reopen, state.database))
        if self.records and state.restored_database:
            gone &= self._try(partial(self.records.drop, state.restored_database))
        for name in state.copies:
            if self.points:
                gone &= self._try(partial(self.points.drop, name))
        return gone

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except VbackupError as error:
            self.reporter.warn("could not clean up", reason=error.message)
            return False
        return True

    # ------------------------------------------------------------ collections

    def fill(
        self, part: CollectionPart, name: str, opener: Callable[[Artifact], Iterator[bytes]]
    ) -> None:
        """Bring a collection's shards under a name that may exist already.

        An existing collection of the same shape is overwritten in place; one of another shape
        is dropped and created anew."""
        if self.points is None:
            return
        if self.points.exists(name) and self.points.preflight(part, name, existing=True):
            self.points.drop(name)
        if not self.points.exists(name):
            self.points.create(part, name)
        self.points.recover(part, name, opener, self.reporter)
        self.points.settle(name, timeout=self.settle_timeout)

    def copy(self, source: str, target: str) -> None:
        """Copy one collection through its own shard snapshots."""
        if self.points is None:
            return
        directory = Path(tempfile.mkdtemp(prefix="vbackup-copy-", dir=self.work_dir))
        try:
            part, files = self._spool(source, directory)
            self.fill(part, target, lambda artifact: _read(files[artifact.name]))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _spool(self, name: str, directory: Path) -> tuple[CollectionPart, dict[str, Path]]:
        if self.points is None:
            raise RuntimeError("a collection without a point store")
        reader = self.points.reader()
        facts = next(iter(reader.facts([name]).collections), None)
        if facts is None:
            raise NotFound(f"no collection {name!r}")
        with closing(ShardCuts(reader.spool, facts.shards, directory, self.clock)) as cuts:
            cuts.request()
            cuts.wait_cut()
            for spool in cuts.spools:
                for _ in follow(spool):
                    pass
        if not cuts.spools:
            raise Failed(f"collection {name!r} has no shards that could be read")
        shards: list[ShardPart] = []
        files: dict[str, Path] = {}
        for spool in cuts.spools:
            artifact = Artifact(f"{name}/{spool.ref.id}", spool.length, spool.sha256)
            files[artifact.name] = spool.path
            cut_at = spool.cut_at or spool.requested_at
            shards.append(
                ShardPart(spool.ref.id, spool.ref.key, artifact, spool.requested_at, cut_at)
            )
        part = CollectionPart(
            name=name,
            config=facts.config,
            payload_schema=facts.payload_schema,
            aliases=facts.aliases,
            shards=tuple(shards),
            points=facts.points,
            bytes=sum(shard.artifact.length for shard in shards),
            custom_sharding=facts.custom_sharding,
        )
        return part, files


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block
