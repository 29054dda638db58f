"""What a restore will do, before it does anything: names, steps, sizes (`restore --plan`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vbackup.errors import NotFound, Usage
from vbackup.model.manifest import CollectionPart, Manifest
from vbackup.model.names import collection_copy, database_copy, restored_suffix

Side = Literal["postgres", "qdrant"]


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What a restore is told. None means the default: new names beside the live pair."""

    database: str | None = None
    collection_suffix: str | None = None
    collections: tuple[str, ...] = ()
    only: Side | None = None
    in_place: bool = False
    force: bool = False
    keep_failed: bool = False


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step for people; `bytes` is what it reads from the repository."""

    action: str
    target: str
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The names that a restore creates. `database` None or empty `names`: that side is left out."""

    manifest: Manifest
    database: str | None
    names: dict[str, str]
    in_place: bool
    steps: tuple[PlanStep, ...]

    @property
    def takes_live_names(self) -> bool:
        """Whether everything it restores gets the name that it had when it was backed up."""
        live = self.manifest.postgres.facts.database
        return self.database in (None, live) and all(old == new for old, new in self.names.items())

    @property
    def parts(self) -> list[CollectionPart]:
        """The collections to restore."""
        found = self.manifest.qdrant.collections if self.manifest.qdrant else ()
        return [part for part in found if part.name in self.names]


def plan_restore(manifest: Manifest, options: RestoreOptions, number: int = 1) -> RestorePlan:
    """Decide names and steps; `number` tells restores of one backup apart. Raises NotFound for
    an unknown collection, Usage for a request that contradicts itself."""
    beside = restored_suffix(manifest.id, number)
    if options.in_place and (options.database or options.collection_suffix is not None):
        raise Usage(
            "--in-place restores to the live names; --database and --collection-suffix name others",
            hint="leave out one or the other",
        )
    database: str | None = None
    if options.only != "qdrant":
        database = options.database or database_copy(manifest.postgres.facts.database, beside)
    names = _names(manifest, options, beside)
    if options.only == "postgres":
        names = {}
    plan = RestorePlan(manifest, database, names, options.in_place, ())
    return RestorePlan(manifest, database, names, options.in_place, tuple(_steps(plan)))


def _names(manifest: Manifest, options: RestoreOptions, beside: str) -> dict[str, str]:
    known = [part.name for part in manifest.qdrant.collections] if manifest.qdrant else []
    unknown = [name for name in options.collections if name not in known]
    if unknown:
        raise NotFound(
            f"backup {manifest.id} has no collection {unknown[0]!r}",
            hint=f"it has: {', '.join(known) or 'none'}",
        )
    wanted, suffix = options.collections or known, options.collection_suffix
    if suffix is not None:
        return {name: name + suffix for name in wanted}
    return {name: collection_copy(name, beside) for name in wanted}


def _steps(plan: RestorePlan) -> list[PlanStep]:
    steps: list[PlanStep] = []
    manifest = plan.manifest
    if plan.database is not None:
        steps.append(PlanStep("create database", plan.database))
        for dump in manifest.postgres.dumps:
            if dump.kind != "globals":
                what = f"load {dump.table}" if dump.table else "load schema and data"
                steps.append(PlanStep(what, plan.database, dump.artifact.length))
    for part in plan.parts:
        name = plan.names[part.name]
        steps.append(PlanStep(f"create collection ({part.points} points)", name))
        steps += [
            PlanStep(f"recover shard {shard.id}", name, shard.artifact.length)
            for shard in part.shards
        ]
    patch = manifest.patch
    if plan.names and patch.artifact:
        what = f"apply patch ({patch.deletes} deletes, {patch.upserts} upserts)"
        steps.append(PlanStep(what, "restored collections", patch.artifact.length))
    if plan.database is not None and plan.names:
        steps.append(PlanStep("reconcile", f"{plan.database} and its collections"))
    if plan.database is not None and any(link.vectors for link in manifest.links):
        steps.append(PlanStep("reconcile", f"{plan.database} and its vectors"))
    if plan.in_place:
        live = manifest.postgres.facts.database
        steps.append(PlanStep("keep the live pair under other names", live))
        steps.append(PlanStep("switch to the restored pair", live))
        steps.append(PlanStep("reconcile", live))
    return steps
