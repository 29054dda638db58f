"""What an attempt puts into the repository: shard streams, dumps, the comparison, the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vbackup.engine.cuts import broken, follow
from vbackup.engine.patchfile import PatchFile
from vbackup.engine.rowlisting import ListedRows
from vbackup.engine.stopping import StopSwitch
from vbackup.errors import Failed, VbackupError
from vbackup.model.manifest import Artifact, DumpArtifact, PatchPart, RowListing, ShardPart
from vbackup.ports import (
    BackupWriter,
    Cache,
    CandidateWatermark,
    DumpStream,
    Reporter,
    ShardSpool,
    StreamShape,
)


class WatermarkBlocked(VbackupError):
    """A dump could not lock a table that a schema change waits for: the watermark has to move."""


@dataclass(frozen=True, slots=True)
class Storing:
    """Each method stores one part, whole, and says where its chunks are. `stop` ends the streams
    that take long."""

    writer: BackupWriter
    stop: StopSwitch
    reporter: Reporter

    def shard(self, spool: ShardSpool) -> ShardPart:
        """Follow a shard's spool to its end. Raises Failed, retryable where the stream broke."""
        ref = spool.ref
        with self.reporter.step(f"store {ref.collection} shard {ref.id}") as step:
            try:
                artifact = self.writer.add(
                    f"qdrant/{ref.collection}/{ref.id}",
                    self.stop.guard(follow(spool)),
                    step=step,
                    # A small shard is here already, and told to be small.
                    shape=StreamShape(length=spool.length),
                )
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

    def dump(self, watermark: CandidateWatermark, dump: DumpStream) -> DumpArtifact:
        """Run a dump under the watermark. Raises WatermarkBlocked where a schema change waits for
        the snapshot and the dump for its lock."""
        total = dump.bytes_estimate or None
        with self.reporter.step(f"dump {dump.table or dump.kind}", total=total) as step:
            stream = self.stop.guard(dump.open())
            try:
                artifact = self.writer.add(
                    f"postgres/{dump.name}", stream, step=step, shape=_shape(dump)
                )
            except Failed as error:
                if not error.retryable or not watermark.waiters():
                    raise
                raise WatermarkBlocked(error.message, hint=error.hint, retryable=True) from error
        return DumpArtifact(dump.kind, artifact, dump.table, dump.rows_estimate)

    def patch(self, patch: PatchFile, digests: Mapping[str, str]) -> PatchPart:
        """The patch, and a digest of each link's rows, by its name."""
        artifact: Artifact | None = None
        if not patch.empty:
            with self.reporter.step("store the patch") as step:
                artifact = self.writer.add("patch", patch.stream(), step=step)
        return PatchPart(
            artifact=artifact,
            upserts=patch.upserts,
            deletes=patch.deletes,
            reembed=patch.reembeds,
            reasons=dict(patch.reasons),
            rows_digest=dict(digests),
        )

    def listings(self, listings: Mapping[str, ListedRows]) -> tuple[RowListing, ...]:
        """The rows that each link had at the watermark, by its name."""
        with self.reporter.step("store row listings") as step:
            return tuple(
                RowListing(
                    name,
                    self.writer.add(f"rows/{name}", listed.stream(), step=step),
                    listed.count,
                )
                for name, listed in listings.items()
            )

    def cache(self, cache: Cache) -> Artifact:
        """The cache's keys."""
        with self.reporter.step("store the cache") as step:
            return self.writer.add("redis", self.stop.guard(cache.dump()), step=step)


def _shape(dump: DumpStream) -> StreamShape:
    """What is known of a dump before it begins."""
    rows = dump.rows_estimate
    return StreamShape(dump.bytes_estimate // rows if rows else 0, dump.bytes_estimate)
