"""What a backup would ask first: reaches both databases, the repository and the disk.

Changes nothing that lasts: the repository is proven writable by a lease that is released again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vbackup import wiring
from vbackup.cli.linkcheck import (
    Attention,
    changes_described,
    described,
    matched,
    seen,
    vectors_described,
)
from vbackup.cli.settingscheck import guarded, scheduled
from vbackup.errors import Refused, VbackupError
from vbackup.quantity import size

if TYPE_CHECKING:
    from vbackup.engine.lag import LagReport
    from vbackup.engine.links import Target
    from vbackup.model.link import Link
    from vbackup.model.manifest import DatabaseFacts
    from vbackup.ports import CandidateWatermark, Clock, PointReader, PointSource, PointStoreFacts
    from vbackup.postgres.source import PostgresSource
    from vbackup.settings import Settings

Status = Literal["ok", "warning", "failed", "skipped"]
LITTLE_SPACE = 1024**3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried, what was found, and what to do about it."""

    name: str
    status: Status
    found: str
    advice: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Preflight:
    """Runs once; then `checks` says how it went."""

    settings: Settings
    clock: Clock
    checks: list[Check] = field(default_factory=list)
    database: DatabaseFacts | None = None
    store: PointStoreFacts | None = None
    measure: float = 0.0

    @property
    def failures(self) -> int:
        return sum(check.status == "failed" for check in self.checks)

    @property
    def ok(self) -> bool:
        """Whether a backup would be taken; warnings do not stop it."""
        return self.failures == 0

    def run(self) -> None:
        with ExitStack() as stack:
            candidate = self._check_postgres(stack)
            points = self._check_qdrant(stack)
            targets = self._targets()
            for target in targets:
                self._check_link(target, candidate, points)
            if self.measure and points and candidate and targets:
                self._measure(stack, points, targets)
        self._probe("repository", self._repository)
        self._probe("work folder", self._work_folder)
        if self.settings.config.redis:
            self._probe("redis", self._redis)
        if self.settings.config.schedule.model_fields_set:
            self._probe("schedule", partial(scheduled, self.settings.config.schedule))
        self._probe("secrets", partial(guarded, self.settings))

    def _redis(self) -> str:
        cache, settings = wiring.redis_cache(self.settings.config), self.settings.config.redis
        if cache is None or settings is None:
            return "not configured"
        with closing(cache):
            return f"version {cache.check()}, on restore: {settings.on_restore}"

    def document(self) -> dict[str, object]:
        """As scripts read it."""
        return {
            "config": self.settings.path,
            "checks": self.checks,
            "origins": self.settings.origins,
        }

    def inventory(self) -> list[dict[str, str]]:
        """What a backup would hold."""
        rows: list[dict[str, str]] = []
        if self.database:
            name, total = self.database.database, size(self.database.size_bytes)
            rows.append({"kind": "database", "name": name, "size": total})
        collections = self.store.collections if self.store else ()
        return rows + [
            {"kind": "collection", "name": found.name, "size": f"{found.points:,} points"}
            for found in collections
        ]

    # ------------------------------------------------------------ PostgreSQL

    def _check_postgres(self, stack: ExitStack) -> CandidateWatermark | None:
        """Reach it, find its client tools, and open what a backup dumps from."""
        config = self.settings.config
        source = wiring.record_source(config, self.clock)
        stack.callback(source.close)

        def reach() -> str:
            self.database = facts = source.facts()
            return f"{facts.database}, {size(facts.size_bytes)}, version {facts.server_version}"

        if not self._probe("postgres", reach):
            self._skip("client tools", "privileges", "tables")
            return None
        self._probe("client tools", lambda: f"pg_dump {source.client_version}")
        if not self._probe("privileges", partial(_privileges, source)):
            self._skip("tables")
            return None
        for link in wiring.links(config):
            self._probe(f"rows of {link.name}", partial(_rows, source, link))
            if config.qdrant:
                self._probe(f"changes of {link.name}", partial(self._changes, source, link))
            if link.vectors:
                self._probe(f"vectors of {link.name}", partial(_vectors, source, link))
        opened: list[CandidateWatermark] = []

        def tables() -> str:
            opened.append(source.candidate(wiring.links(config)))
            return f"all readable in one snapshot, at {opened[0].lsn}"

        self._probe("tables", tables)
        for candidate in opened:
            stack.callback(candidate.close)
        return opened[0] if opened else None

    def _changes(self, source: PostgresSource, link: Link) -> str:
        asked = self.settings.config.watermark
        return changes_described(source.feed_costs(link), asked.feed, asked.tick)

    # ------------------------------------------------------------ Qdrant

    def _check_qdrant(self, stack: ExitStack) -> PointSource | None:
        """Reach every node; every shard must have an Active replica."""
        qdrant = self.settings.config.qdrant
        if qdrant is None:
            return None
        source = wiring.point_source(self.settings.config, self.clock)
        stack.callback(source.close)

        def reach() -> str:
            self.store = facts = source.facts(qdrant.patterns)
            shards = sum(len(found.shards) for found in facts.collections)
            total = sum(found.points for found in facts.collections)
            found = (
                f"version {facts.server_version}, {len(facts.nodes)} of {len(qdrant.urls)} nodes,"
                f" {len(facts.collections)} collections, {shards} shards, {total:,} points"
            )
            if len(facts.nodes) < len(qdrant.urls):
                raise Attention(found, "the shards are read from the nodes that answer")
            if not facts.collections:
                raise Attention(found, "no collection matches qdrant.collections")
            return found

        return source if self._probe("qdrant", reach) else None

    # ------------------------------------------------------------ links

    def _targets(self) -> Sequence[Target]:
        """Links and the collections they match; what belongs to no link is a warning."""
        from vbackup.engine.links import resolve, vector_collections

        config = self.settings.config
        links = wiring.links(config)
        if config.qdrant is None:
            names = vector_collections(links)
        elif self.store is None:
            return ()
        else:
            names = {found.name: found.aliases for found in self.store.collections}
        resolution = resolve(links, config.ignore, names)
        for text in resolution.warnings:
            self._add(Check("links", "warning", text, "add a [[link]], or list it in `ignore`"))
        return resolution.targets

    def _check_link(
        self, target: Target, rows: CandidateWatermark | None, points: PointReader | None
    ) -> None:
        name = f"link {target.link.name}"
        if rows and target.link.vectors:
            points = wiring.vectors()(rows, [target.link])
        if rows is None or points is None:
            self._skip(name)
            return
        self._probe(name, lambda: matched(target, rows, points))

    def _measure(self, stack: ExitStack, points: PointSource, targets: Sequence[Target]) -> None:
        """How late points follow their rows, and which strategy fits."""
        from vbackup.engine.lag import LagWatch

        config = self.settings.config
        # A column's slack would show rows as new that changed minutes ago.
        watermark = config.watermark.model_copy(update={"feed": "xmin"})
        config = config.model_copy(update={"watermark": watermark})
        source = wiring.record_source(config, self.clock, row_identity=True)
        stack.callback(source.close)
        watch = LagWatch(source, points, targets, self.clock)
        try:
            reports = watch.run(self.measure)
        except VbackupError as error:
            self._add(Check("index lag", "warning", error.message, error.hint))
            return
        for report in reports:
            self._probe(f"lag of {report.link}", partial(self._lag, report))

    def _lag(self, report: LagReport) -> str:
        from vbackup.engine.lag import advice

        found = seen(report, self.measure)
        asked = self.settings.config.watermark
        said = advice(report, asked.max_index_lag, asked.lead_in)
        if said:
            raise Attention(found, said)
        return found

    # ------------------------------------------------------------ repository, disk

    def _repository(self) -> str:
        repository = wiring.open_repository(self.settings.config.repository, self.clock)
        with repository.lease("check"):
            found = repository.backups()
        secured = "encrypted" if repository.encrypted else "not encrypted"
        text = f"{repository.store.location}, writable, {secured}, {len(found)} backups"
        if not repository.store.conditional:
            raise Attention(
                f"{text}, no conditional writes",
                "do not let two machines back up into it at the same time",
            )
        return text

    def _work_folder(self) -> str:
        folder = self.settings.config.watermark.work_dir or Path(tempfile.gettempdir())
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise Refused(
                f"{folder} cannot be written", hint="set watermark.work_dir to a folder of yours"
            )
        free = shutil.disk_usage(existing).free
        found = f"{folder}, {size(free)} free"
        if free < LITTLE_SPACE:
            raise Attention(
                found, "it holds all shard snapshots of a backup: set watermark.work_dir"
            )
        return found

    # ------------------------------------------------------------ bookkeeping

    def _probe(self, name: str, ask: Callable[[], str]) -> bool:
        """Whether it went well enough to go on."""
        started = self.clock.monotonic()
        status: Status = "ok"
        advice = ""
        try:
            found = ask()
        except Attention as attention:
            status, found, advice = "warning", str(attention), attention.advice
        except VbackupError as error:
            status, found, advice = "failed", error.message, error.hint
        seconds = round(self.clock.monotonic() - started, 3)
        self._add(Check(name, status, found, advice, seconds))
        return status != "failed"

    def _skip(self, *names: str) -> None:
        for name in names:
            self._add(Check(name, "skipped", "needs what failed above"))

    def _add(self, check: Check) -> None:
        self.checks.append(check)


def _privileges(source: PostgresSource) -> str:
    problems = source.problems()
    if problems:
        raise Refused("; ".join(problems))
    return "enough for a backup"


def _vectors(source: PostgresSource, link: Link) -> str:
    return vectors_described(source.vector_probe(link))


def _rows(source: PostgresSource, link: Link) -> str:
    return described(source.probe(link))
