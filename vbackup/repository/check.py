"""Checks: is a backup whole? Damage is reported by backup, artifact and byte range."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from vbackup.errors import Damaged, Denied, Refused
from vbackup.model.manifest import Artifact, Manifest
from vbackup.ports import Reporter, Step
from vbackup.repository import manifest as manifests
from vbackup.repository import quarantine, sample
from vbackup.repository.catalog import Catalog
from vbackup.repository.packcheck import PackCheck, check_pack
from vbackup.repository.packs import pack_key
from vbackup.repository.reader import ChunkReader
from vbackup.repository.repository import Repository
from vbackup.repository.sample import Sample
from vbackup.repository.shelf import Shelf

Level = Literal["manifest", "chunks"]

MOST_RANGES = 10_000

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
        self._counting = threading.Lock()

    def run(self, part: Sample | None) -> VerifyReport:
        """The checks in their order; without a manifest there is nothing to go on with."""
        manifest = self._manifest()
        if manifest is None:
            return self._result
        self._records()
        catalog = self._repository.load_catalog()
        self._index(catalog)
        packs = self._contents(manifest, catalog)
        if self._result.level == "chunks" and part is None:
            self._everything(manifest, catalog, packs)
        elif self._result.level == "chunks" and part is not None:
            self._sample(manifest, catalog, packs, part)
        return self._result

    @contextmanager
    def _check(self, name: str) -> Iterator[Check]:
        check = Check(name)
        start = self._repository.clock.monotonic()
        self._result.checks.append(check)
        yield check
        check.seconds = round(self._repository.clock.monotonic() - start, 3)

    def _damaged(self, check: Check, damage: Damage) -> None:
        """Note it. A large backup may have lost millions of chunks: from some number on the ranges
        of an artifact become one."""
        check.ok = False
        check.detail = check.detail or str(damage)
        noted = self._result.damage
        if len(noted) < MOST_RANGES or noted[-1].artifact != damage.artifact:
            noted.append(damage)
        else:
            stop = max(noted[-1].stop, damage.stop)
            noted[-1] = replace(noted[-1], stop=stop, detail=f"in parts; last: {damage.detail}")

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

    def _everything(self, manifest: Manifest, catalog: Catalog, packs: set[bytes]) -> None:
        """Every byte of every pack, and every artifact against its SHA-256, reading once."""
        repository = self._repository
        sizes = {pack: catalog.stored[pack].size for pack in packs if pack in catalog.stored}
        shelf = Shelf(self._store, repository.seal, sizes, self._examined(sizes))
        reader = ChunkReader(shelf, repository.seal, repository.hasher, repository.index)
        with (
            self._check("packs") as check,
            self._step("verify", sum(sizes.values())) as step,
        ):
            shelf.fetched = partial(self._count, sizes, step)
            self._streams(manifest, reader)
            with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-verify") as pool:
                list(pool.map(lambda pack: shelf.check(pack, pack_key(pack)), sizes))
            bad = [found for found in shelf.checked.values() if found.problem]
            self._judge(check, bad, len(sizes), len(packs))
        self._quarantine(catalog, list(shelf.checked), bad)

    def _streams(self, manifest: Manifest, reader: ChunkReader) -> None:
        with self._check("streams") as check:
            for artifact in manifest.artifacts():
                for start, stop, why in reader.damage(artifact):
                    self._damaged(check, self._range(artifact, start, stop - start, why))
            check.detail = check.detail or f"{len(manifest.artifacts())} artifacts"

    def _sample(
        self, manifest: Manifest, catalog: Catalog, packs: set[bytes], part: Sample
    ) -> None:
        """Read some packs back and verify every byte and every chunk of them."""
        seal = self._repository.seal
        sizes = {pack: catalog.stored[pack].size for pack in packs if pack in catalog.stored}
        chosen = sample.choose(sizes, part, sample.read_cursor(self._store, seal))
        with (
            self._check("packs") as check,
            self._step("verify", sum(map(sizes.__getitem__, chosen))) as step,
        ):
            bad = [found for found in self._read(chosen, sizes, step) if found.problem]
            self._judge(check, bad, len(chosen), len(packs))
            for damage in self._lost(manifest, catalog, bad):
                self._damaged(check, damage)
        if chosen:
            sample.write_cursor(self._store, seal, chosen[-1])
        self._quarantine(catalog, chosen, bad)

    def _examined(self, sizes: Mapping[bytes, int]) -> Callable[[bytes], PackCheck]:
        return lambda pack: check_pack(self._repository, pack, sizes[pack])

    def _judge(self, check: Check, bad: Sequence[PackCheck], read: int, needed: int) -> None:
        check.detail = f"{read} of {needed} packs read back"
        for found in bad:
            check.ok = False
            check.detail = f"{pack_key(found.pack)}: {found.problem}"

    def _count(self, sizes: Mapping[bytes, int], step: Step | None, pack: bytes) -> None:
        with self._counting:
            self._result.packs += 1
            self._result.bytes_read += sizes.get(pack, 0)
        if step is not None:
            step.advance(sizes.get(pack, 0))

    def _step(self, name: str, total: int) -> AbstractContextManager[Step | None]:
        return nullcontext() if self._reporter is None else self._reporter.step(name, total=total)

    def _read(
        self, packs: Sequence[bytes], sizes: Mapping[bytes, int], step: Step | None
    ) -> Iterator[PackCheck]:
        with ThreadPoolExecutor(_JOBS, thread_name_prefix="vbackup-verify") as pool:
            for found in pool.map(self._examined(sizes), packs):
                self._count(sizes, step, found.pack)
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
