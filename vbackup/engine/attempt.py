"""One attempt at a backup: one set of cuts, its watermark, and everything stored under it.

An attempt is kept or thrown away as a whole: when a shard stream breaks after the watermark
was chosen, the next attempt cuts again and its watermark moves along. Chunks that are already
stored make that cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbackup.engine import describe
from vbackup.engine.apply import runaways
from vbackup.engine.authority import Authority
from vbackup.engine.capture import Capturer, ImageStore
from vbackup.engine.cuts import ShardCuts
from vbackup.engine.links import Target, by_alias
from vbackup.engine.patchfile import PatchFile
from vbackup.engine.stopping import StopSwitch
from vbackup.engine.storing import Storing
from vbackup.engine.vectors import OpenVectors, VectorAuthority
from vbackup.engine.watermark import Chosen, WatermarkOptions, WatermarkSearch
from vbackup.errors import Denied, Failed
from vbackup.model.finding import LinkReport
from vbackup.model.manifest import (
    Artifact,
    DumpArtifact,
    PatchPart,
    PostgresPart,
    QdrantPart,
    RowListing,
    WatermarkRecord,
)
from vbackup.ports import (
    BackupWriter,
    Cache,
    Clock,
    PointSource,
    PointStoreFacts,
    RecordSource,
    Reporter,
    ShardRef,
    ShardSpool,
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
        self._facts: PointStoreFacts | None = (
            pair.points.facts(options.collections) if pair.points else None
        )
        self._stop = StopSwitch()
        self._storing = Storing(writer, self._stop, reporter)
        self.reports: list[LinkReport] = []
        self.warnings: list[str] = []

    def collection_names(self) -> dict[str, tuple[str, ...]]:
        """The collections of the backup and their aliases."""
        return {c.name: c.aliases for c in self._facts.collections} if self._facts else {}

    def run(self, targets: Sequence[Target]) -> None:
        """Cut, find the watermark, store both sides, compare, store the patch."""
        self._directory.mkdir(parents=True)
        with ExitStack() as stack:
            images = ImageStore(self._directory / "images", self._options.capture_memory)
            stack.callback(images.close)
            patch = PatchFile(self._directory / "patch")
            stack.callback(patch.close)
            cuts = stack.enter_context(closing(self._cuts()))
            with self._reporter.step("find the watermark", unit="candidates"):
                chosen = self._search(cuts, images, targets)
            stack.callback(chosen.watermark.close)
            # Before anything is stored: a missing pg_dump shows here, and shards take hours.
            streams = chosen.watermark.dumps()
            with ThreadPoolExecutor(self._options.jobs + 2, "store") as pool:
                shards = [pool.submit(self._storing.shard, spool) for spool in cuts.spools]
                dumps = [pool.submit(self._storing.dump, chosen.watermark, one) for one in streams]
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
                    cuts.close()
                    raise
            self.record = describe.watermark(chosen, targets, alone=self._facts is None)
            self.postgres = describe.postgres(self._pair.records, dumped)
            self.qdrant = describe.qdrant(self._facts, stored) if self._facts else None
            self.patch = self._storing.patch(patch, authority.digests if authority else {})
            self._warn_of_runaways(patch)
            self.rows = self._storing.listings(authority.listings if authority else {})
            if self._pair.cache:
                self.redis = self._storing.cache(self._pair.cache)

    # ------------------------------------------------------------ watermark

    def _cuts(self) -> ShardCuts:
        shards = [s for c in self._facts.collections for s in c.shards] if self._facts else []
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
            aliases=by_alias(self.collection_names()),
        )
        search = WatermarkSearch(
            self._pair.records, capturer, cuts, options, self._reporter, self._clock
        )
        chosen = search.run()
        # Storing may take hours: a slot would keep the server's log for all that time.
        self._pair.records.stop_following()
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
        cuts.await_whole()
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
                aliases=by_alias(self.collection_names()),
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

    def _warn_of_runaways(self, patch: PatchFile) -> None:
        """A restore will refuse such a patch: that has to be known now, not then."""
        points = {c.name: c.points for c in self._facts.collections} if self._facts else {}
        for text in runaways(patch.removals, points):
            self.warnings.append(f"the patch {text}: a restore will ask for --force")
            self._reporter.warn(self.warnings[-1], reembed=dict(patch.reasons))


def _cancel(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
