"""One attempt at a backup: one set of cuts, its watermark, and everything stored under it.

An attempt is kept or thrown away as a whole: when a shard stream breaks after the watermark
was chosen, the next attempt cuts again and its watermark moves along. Chunks that are already
stored make that cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vbackup.engine import describe
from vbackup.engine.apply import runaways
from vbackup.engine.authority import Authority
from vbackup.engine.capture import Capturer, ImageStore
from vbackup.engine.cuts import ShardCuts, broken, follow
from vbackup.engine.links import Target
from vbackup.engine.patchfile import PatchFile
from vbackup.engine.stopping import StopSwitch
from vbackup.engine.vectors import OpenVectors, VectorAuthority
from vbackup.engine.watermark import Chosen, WatermarkOptions, WatermarkSearch
from vbackup.errors import Denied, Failed, VbackupError
from vbackup.model.finding import LinkReport
from vbackup.model.manifest import (
    Artifact,
    DumpArtifact,
    PatchPart,
    PostgresPart,
    QdrantPart,
    RowListing,
    ShardPart,
    WatermarkRecord,
)
from vbackup.ports import (
    BackupWriter,
    Cache,
    CandidateWatermark,
    Clock,
    DumpStream,
    PointSource,
    PointStoreFacts,
    RecordSource,
    Reporter,
    ShardRef,
    ShardSpool,
    StreamShape,
)


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """What a backup is told: configuration and flags. `capture_memory` is bytes."""

    watermark: WatermarkOptions = field(default_factory=WatermarkOptions)
    collections: tuple[str, ...] = ("*",)
    jobs: int = 2
    capture_memory: int = 64 * 1024**2
    work_dir: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """The live stores. `points` is None for PostgreSQL alone (pgvector), where `vectors` reads
    what links say of vectors; `cache` is there when its keys are to be kept."""

    records: RecordSource
    points: PointSource | None
    cache: Cache | None = None
    vectors: OpenVectors | None = None


class WatermarkBlocked(VbackupError):
    """A dump could not lock a table that a schema change waits for: the watermark has to move."""


class Attempt:
    """Runs once; then `record`, `postgres`, `qdrant` and `patch` describe what was stored."""

    record: WatermarkRecord
    postgres: PostgresPart
    qdrant: QdrantPart | None = None
    patch: PatchPart = PatchPart()
    rows: tuple[RowListing, ...] = ()
    redis: Artifact | None = None

    def __init__(
        self,
        pair: Pair,
        writer: BackupWriter,
        options: BackupOptions,
        directory: Path,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self._pair = pair
        self._writer = writer
        self._options = options
        self._directory = directory
        self._reporter = reporter
        self._clock = clock
        self._store: PointStoreFacts | None = (
            pair.points.facts(options.collections) if pair.points else None
        )
        self._stop = StopSwitch()
        self.reports: list[LinkReport] = []
        self.warnings: list[str] = []

    def collection_names(self) -> dict[str, tuple[str, ...]]:
        """The collections of the backup and their aliases."""
        return {c.name: c.aliases for c in self._store.collections} if self._store else {}

    def run(self, targets: Sequence[Target]) -> None:
        """Cut, find the watermark, store both sides, compare, store the patch."""
        self._directory.mkdir(parents=True)
        with ExitStack() as stack:
            images = ImageStore(self._directory / "images", self._options.capture_memory)
            stack.callback(images.close)
            patch = PatchFile(self._directory / "patch")
            stack.callback(patch.close)
            cuts = self._cuts()
            with self._reporter.step("find the watermark", unit="candidates"):
                chosen = self._search(cuts, images, targets)
            stack.callback(chosen.watermark.close)
            with ThreadPoolExecutor(self._options.jobs + 2, "store") as pool:
                shards = [pool.submit(self._store_shard, spool) for spool in cuts.spools]
                dumps = [
                    pool.submit(self._store_dump, chosen.watermark, dump)
                    for dump in chosen.watermark.dumps()
                ]
                try:
                    authority = self._compare(chosen, cuts, images, patch, targets, dumps)
                    dumped = [one.result() for one in dumps]
                    # Nothing reads the snapshot any more: let the server clean up behind it.
                    chosen.watermark.close()
                    stored = [one.result() for one in shards]
                except BaseException:
                    self._stop.pull()
                    _cancel(shards)
                    _cancel(dumps)
                    raise
            self.record = describe.watermark(chosen, targets, alone=self._store is None)
            self.postgres = describe.postgres(self._pair.records, dumped)
            self.qdrant = describe.qdrant(self._store, stored) if self._store else None
            self._store_comparison(authority, patch)
            self._store_cache()

    # ------------------------------------------------------------ watermark

    def _cuts(self) -> ShardCuts:
        shards = [s for c in self._store.collections for s in c.shards] if self._store else []
        return ShardCuts(self._spool, shards, self._directory / "shards", self._clock)

    def _spool(self, shard: ShardRef, directory: Path) -> ShardSpool:
        if self._pair.points is None:
            raise RuntimeError("a shard without a point store")
        return self._pair.points.spool(shard, directory)

    def _search(self, cuts: ShardCuts, images: ImageStore, targets: Sequence[Target]) -> Chosen:
        options = self._options.watermark
        capturer = Capturer(
            records=self._pair.records,
            points=self._pair.points,
            targets=targets if self._pair.points else [],
            images=images,
            clock=self._clock,
            base=self._pair.records.change_base([target.link for target in targets]),
            settle_lag=options.lead_in,
            max_index_lag=options.max_index_lag,
        )
        search = WatermarkSearch(
            self._pair.records, capturer, cuts, options, self._reporter, self._clock
        )
        chosen = search.run()
        if options.restore_point:
            self._mark(chosen)
        self._reporter.note(
            "watermark",
            lsn=chosen.watermark.lsn,
            at=chosen.watermark.at.isoformat(),
            strategy=chosen.strategy,
            candidates=chosen.candidates,
            lost=chosen.lost,
            captured=images.count(),
            paused_ms=chosen.paused_ms,
        )
        return chosen

    def _mark(self, chosen: Chosen) -> None:
        """Name this moment in the write-ahead log; a backup is as good without it. Recovery
        stops at the first point of a name, so every attempt has its own."""
        name = f"vbackup-{self._writer.id}-{self._directory.name}"
        try:
            lsn = self._pair.records.restore_point(name)
        except (Denied, Failed) as error:
            self._reporter.warn("no restore point was made", reason=error.message)
            return
        chosen.restore_point = name
        chosen.notes = (*chosen.notes, f"restore point {name} at {lsn}")

    # ------------------------------------------------------------ storing

    def _store_shard(self, spool: ShardSpool) -> ShardPart:
        ref = spool.ref
        name = f"qdrant/{ref.collection}/{ref.id}"
        with self._reporter.step(f"store {ref.collection} shard {ref.id}") as step:
            try:
                stream = self._stop.guard(follow(spool))
                # A small shard is here already, and told to be small.
                shape = StreamShape(length=spool.length)
                artifact = self._writer.add(name, stream, step=step, shape=shape)
            except VbackupError as error:
                if spool.error is None:
                    raise
                raise broken(spool.error) from error
        return ShardPart(
            id=ref.id,
            key=ref.key,
            # What was received, whatever storing made of it: Qdrant checks this on the way back.
            artifact=replace(artifact, sha256=spool.sha256),
            requested_at=spool.requested_at,
            cut_at=spool.cut_at or spool.requested_at,
            node=ref.node,
        )

    def _store_dump(self, watermark: CandidateWatermark, dump: DumpStream) -> DumpArtifact:
        total = dump.bytes_estimate or None
        with self._reporter.step(f"dump {dump.table or dump.kind}", total=total) as step:
            stream = self._stop.guard(dump.open())
            try:
                artifact = self._writer.add(
                    f"postgres/{dump.name}", stream, step=step, shape=_shape(dump)
                )
            except Failed as error:
                if not error.retryable or not watermark.waiters():
                    raise
                raise WatermarkBlocked(error.message, hint=error.hint, retryable=True) from error
        return DumpArtifact(dump.kind, artifact, dump.table, dump.rows_estimate)

    def _store_comparison(
        self, authority: Authority | VectorAuthority | None, patch: PatchFile
    ) -> None:
        """What the comparison under the watermark gave: the patch and the row listings."""
        artifact: Artifact | None = None
        if not patch.empty:
            with self._reporter.step("store the patch") as step:
                artifact = self._writer.add("patch", patch.stream(), step=step)
        self.patch = PatchPart(
            artifact=artifact,
            upserts=patch.upserts,
            deletes=patch.deletes,
            reembed=patch.reembeds,
            reasons=dict(patch.reasons),
            rows_digest=authority.digests if authority else {},
        )
        self._warn_of_runaways(patch)
        listings = authority.listings if authority else {}
        with self._reporter.step("store row listings") as step:
            self.rows = tuple(
                RowListing(
                    name,
                    self._writer.add(f"rows/{name}", listed.stream(), step=step),
                    listed.count,
                )
                for name, listed in listings.items()
            )

    def _warn_of_runaways(self, patch: PatchFile) -> None:
        """A restore will refuse such a patch: that has to be known now, not then."""
        points = {c.name: c.points for c in self._store.collections} if self._store else {}
        for text in runaways(patch.removals, points):
            self.warnings.append(f"the patch {text}: a restore will ask for --force")
            self._reporter.warn(self.warnings[-1], reembed=dict(patch.reasons))

    def _store_cache(self) -> None:
        if self._pair.cache:
            with self._reporter.step("store the cache") as step:
                stream = self._stop.guard(self._pair.cache.dump())
                self.redis = self._writer.add("redis", stream, step=step)

    # ------------------------------------------------------------ comparing

    def _compare(
        self,
        chosen: Chosen,
        cuts: ShardCuts,
        images: ImageStore,
        patch: PatchFile,
        targets: Sequence[Target],
        dumps: Sequence[Future[DumpArtifact]],
    ) -> Authority | VectorAuthority | None:
        """The authority: every linked row under the watermark against the shard snapshots."""
        if not targets:
            return None
        if not self._pair.points:
            return self._compare_vectors(chosen, patch, targets)
        for spool in cuts.spools:
            spool.done.wait()
        if (lost := cuts.lost()) and lost.error:
            raise broken(lost.error) from lost.error
        linked = {collection for target in targets for collection in target.collections}
        spools = [spool for spool in cuts.spools if spool.ref.collection in linked]
        with self._pair.points.offline(spools, self._directory / "offline") as offline:
            authority = Authority(
                rows=chosen.watermark,
                offline=offline,
                live=self._pair.points,
                images=images,
                patch=patch,
                workdir=self._directory,
                changed=chosen.changed(self._directory / "changed"),
                aliases={a: name for name, found in self.collection_names().items() for a in found},
            )
            for target in targets:
                with self._reporter.step(f"compare {target.link.name}", unit="items") as step:
                    self.reports.append(authority.run(target, step))
            for dump in dumps:
                dump.exception()
            authority.retry(targets)
        return authority

    def _compare_vectors(
        self, chosen: Chosen, patch: PatchFile, targets: Sequence[Target]
    ) -> VectorAuthority | None:
        """Rows and vectors are in one database: the watermark itself shows both."""
        if not self._pair.vectors:
            return None
        vectors = self._pair.vectors(chosen.watermark, [target.link for target in targets])
        authority = VectorAuthority(chosen.watermark, vectors, patch, self._directory)
        for target in targets:
            with self._reporter.step(f"compare {target.link.name}", unit="items") as step:
                report = authority.run(target, step)
            self.reports.append(report)
            self.warnings += [f"link {report.name!r}: {text}" for text in report.warnings]
        return authority


def _shape(dump: DumpStream) -> StreamShape:
    """What is known of a dump before it begins."""
    rows = dump.rows_estimate
    return StreamShape(dump.bytes_estimate // rows if rows else 0, dump.bytes_estimate)


def _cancel(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
