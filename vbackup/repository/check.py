"""Checks: is a backup whole? Damage is reported by backup, artifact and byte range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Literal

from vbackup.errors import Damaged, Denied, Refused
from vbackup.model.manifest import Artifact, Manifest
from vbackup.ports import Reporter, Step
from vbackup.repository import manifest as manifests
from vbackup.repository import quarantine, sample
from vbackup.repository.catalog import Catalog
from vbackup.repository.packcheck import PackCheck, check_pack
from vbackup.repository.packs import pack_key
from vbackup.repository.repository import Repository
from vbackup.repository.sample import Sample

Level = Literal["manifest", "chunks"]

_JOBS = 4


@dataclass(frozen=True, slots=True)
class Damage:
    """Artifact bytes `start` to `stop` that cannot be restored; `artifact` is empty when it is
    the backup's own objects."""

    backup: str
    artifact: str
    start: int
    stop: int
    detail: str

    def __str__(self) -> str:
        where = f"{self.artifact}: bytes {self.start}-{self.stop}" if self.artifact else ""
        return ": ".join(part for part in (self.backup, where, self.detail) if part)


@dataclass(slots=True)
class Check:
    """One line of a verification's result (contract: `verify` checks)."""

    name: str
    ok: bool = True
    detail: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class VerifyReport:
    """What a verification found. `bytes_read` are stored bytes."""

    id: str
    level: Level
    checks: list[Check] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    packs: int = 0
    bytes_read: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing at all was found wrong."""
        return all(check.ok for check in self.checks)


def verify(
    repository: Repository,
    backup_id: str,
    *,
    level: Level = "manifest",
    part: Sample | None = None,
    report: Reporter | None = None,
) -> VerifyReport:
    """Check one backup. Damaged packs are recorded, so that the next backup stores anew what it
    would have reused of them. Raises NotFound; damage is in the result, never raised."""
    return _Verification(repository, backup_id, level, report).run(part)


class _Verification:
    def __init__(
        self, repository: Repository, backup_id: str, level: Level, report: Reporter | None
    ) -> None:
        self._repository = repository
        self._store = repository.store
        self._result = VerifyReport(backup_id, level)
        self._reporter = report

    def run(self, part: Sample | None) -> VerifyReport:
        """The checks in their order; without a manifest there is nothing to go on with."""
        manifest = self._manifest()
        if manifest is None:
            return self._result
        self._records()
        catalog = self._repository.load_catalog()
        self._index(catalog)
        packs = self._contents(manifest, catalog)
        if self._result.level == "chunks":
            self._packs(manifest, catalog, packs, part)
            if part is None:
                self._streams(manifest)
        return self._result

    @contextmanager
    def _check(self, name: str) -> Iterator[Check]:
        check = Check(name)
        start = self._repository.clock.monotonic()
        self._result.checks.append(check)
        yield check
        check.seconds = round(self._repository.clock.monotonic() - start, 3)

    def _damaged(self, check: Check, damage: Damage) -> None:
        check.ok = False
        check.detail = check.detail or str(damage)
        self._result.damage.append(damage)

    # ------------------------------------------------------------ manifest level

    def _manifest(self) -> Manifest | None:
        with self._check("manifest") as check:
            try:
                return self._repository.load(self._result.id)
            except (Damaged, Refused) as error:
                self._damaged(check, Damage(self._result.id, "", 0, 0, str(error)))
        return None

    def _records(self) -> None:
        with self._check("records") as check:
            for key, problem in manifests.bad_records(
                self._store, self._repository.seal, self._result.id
            ):
                self._damaged(check, Damage(self._result.id, "", 0, 0, f"{key}: {problem}"))

    def _index(self, catalog: Catalog) -> None:
        with self._check("index") as check:
            for key, problem in catalog.unreadable.items():
                check.ok = False
                check.detail = check.detail or f"{key}: {problem} (vbackup verify --repair-index)"
            check.detail = (
                check.detail or f"{len(catalog.index)} chunks in {len(catalog.stored)} packs"
            )

    def _contents(self, manifest: Manifest, catalog: Catalog) -> set[bytes]:
        """Every chunk is in a pack that is stored; the packs that the backup needs."""
        used: set[bytes] = set()
        with self._check("contents") as check:
            for artifact in manifest.artifacts():
                for damage in self._artifact(artifact, catalog, used):
                    self._damaged(check, damage)
        return used

    def _artifact(self, artifact: Artifact, catalog: Catalog, used: set[bytes]) -> Iterator[Damage]:
        def place(chunk: bytes, span: int | None) -> str:
            """Note the chunk's pack; what is wrong with it otherwise."""
            found = [at for at in catalog.index.find_all(chunk) if at.pack not in catalog.missing]
            if not found:
                return f"chunk {chunk.hex()[:16]} is in no stored pack"
            used.add(found[0].pack)
            return "" if span in {None, found[0].length} else "a chunk has another length"

        def recipe_chunk(chunk: bytes) -> None:
            place(chunk, None)

        for piece in self._repository.reader.pieces(artifact, recipe_chunk):
            problem = str(piece.problem or "") or place(piece.chunk, piece.span)
            if problem:
                yield self._range(artifact, piece.start, piece.span, problem)

    def _range(self, artifact: Artifact, start: int, span: int, detail: str) -> Damage:
        return Damage(self._result.id, artifact.name, start, start + span, detail)

    # ------------------------------------------------------------ chunks level

    def _packs(
        self, manifest: Manifest, catalog: Catalog, packs: set[bytes], part: Sample | None
    ) -> None:
        """Read the packs, or a sample of them, back and verify every byte."""
        seal = self._repository.seal
        sizes = {pack: catalog.stored[pack].size for pack in packs if pack in catalog.stored}
        cursor = sample.read_cursor(self._store, seal) if part else b""
        chosen = sample.choose(sizes, part or Sample(), cursor)
        with (
            self._check("packs") as check,
            self._step("verify", sum(map(sizes.__getitem__, chosen))) as step,
        ):
            bad = [found for found in self._read(chosen, sizes, step) if found.problem]
            check.detail = f"{len(chosen)} of {len(packs)} packs read back"
            for found in bad:
                check.ok = False
                check.detail = f"{pack_key(found.pack)}: {found.problem}"
            for damage in self._lost(manifest, catalog, bad):
                self._damaged(check, damage)
        if part and chosen:
            sample.write_cursor(self._store, seal, chosen[-1])
        self._quarantine(catalog, chosen, bad)

    def _step(self, name: str, total: int) -> AbstractContextManager[Step | None]:
        return nullcontext() if self._reporter is None else self._reporter.step(name, total=total)

    def _read(
        self, packs: Sequence[bytes], sizes: Mapping[bytes, int], step: Step | None
    ) -> Iterator[PackCheck]:
        with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-verify") as pool:
            for found in pool.map(lambda pack: check_pack(self._repository, pack), packs):
                self._result.packs += 1
                self._result.bytes_read += sizes[found.pack]
                if step is not None:
                    step.advance(sizes[found.pack])
                yield found

    def _lost(
        self, manifest: Manifest, catalog: Catalog, bad: Sequence[PackCheck]
    ) -> Iterator[Damage]:
        """Where the backup needs a chunk that no pack holds in good condition."""
        packs = {found.pack for found in bad} | catalog.missing
        chunks = {
            chunk: found
            for found in bad
            for chunk in found.bad
            if all(at.pack in packs for at in catalog.index.find_all(chunk))
        }
        if not chunks:
            return
        for artifact in manifest.artifacts():
            for piece in self._repository.reader.pieces(artifact):
                if piece.chunk in chunks:
                    found = chunks[piece.chunk]
                    detail = f"{pack_key(found.pack)}: {found.problem}"
                    yield self._range(artifact, piece.start, piece.span, detail)

    def _quarantine(
        self, catalog: Catalog, read: Sequence[bytes], bad: Sequence[PackCheck]
    ) -> None:
        """Record what was found, where writing is allowed: a verification may be read-only."""
        seal, now = self._repository.seal, self._repository.clock.now()
        with suppress(Denied, Refused):
            for found in bad:
                quarantine.report_damaged(self._store, seal, found.pack, now, found.problem)
            healthy = set(read) - {found.pack for found in bad}
            quarantine.forget_damaged(self._store, healthy & catalog.damaged)

    def _streams(self, manifest: Manifest) -> None:
        """Every artifact from its first byte to its last, against its SHA-256."""
        with self._check("streams") as check, self._step("restore check", 0):
            for artifact in manifest.artifacts():
                for start, stop, why in self._repository.reader.damage(artifact):
                    self._damaged(check, self._range(artifact, start, stop - start, why))
            check.detail = check.detail or f"{len(manifest.artifacts())} artifacts"
