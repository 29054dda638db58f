"""What extracting one tenant will do, before it does anything: tables, names, steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vbackup.engine.links import Target
from vbackup.engine.restoreplan import PlanStep, RestoreOptions, RestorePlan
from vbackup.errors import Refused, Usage
from vbackup.model.link import Link
from vbackup.model.manifest import Manifest
from vbackup.model.tenancy import TenantTable


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What will be made: `whole` is the ordinary restore, `names` the collections (original to
    new) that stay; an empty dict where no points come."""

    whole: RestorePlan
    tenant: str
    tables: tuple[TenantTable, ...]
    targets: tuple[Target, ...]
    names: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        return self.whole.manifest

    @property
    def database(self) -> str:
        """The new database."""
        return self.whole.database or ""

    @property
    def steps(self) -> tuple[PlanStep, ...]:
        """For people; what is read is the same as for a whole restore."""
        own = ", ".join(table.table for table in self.tables)
        kept = [PlanStep(f"remove what is not tenant {self.tenant}'s (by {own})", self.database)]
        copied = "copy the points of the kept rows"
        kept += [PlanStep(copied, name) for name in self.names.values()]
        kept += [PlanStep("drop", name) for name in self.whole.names.values()]
        proof = [step for step in self.whole.steps if step.action == "reconcile"]
        return (*(step for step in self.whole.steps if step not in proof), *kept, *proof)


def tenant_tables(links: Sequence[Link], named: Sequence[TenantTable]) -> tuple[TenantTable, ...]:
    """The tables that say whose their rows are: those of the links, and those that are named.

    Raises Refused when there is none, or when a link reads its rows by a query and nobody names
    the tables that it reads."""
    found = [
        TenantTable(source.table, source.tenant)
        for link in links
        for source in link.rows
        if source.table and source.tenant
    ]
    queries = [link.name for link in links if any(source.sql for source in link.rows)]
    if queries and not named:
        raise Refused(
            f"link {queries[0]!r} reads its rows by a query: which tables hold a tenant's rows is"
            " not known",
            hint="name each with --tenant-table 'TABLE=COLUMN'",
        )
    tables = tuple(dict.fromkeys([*found, *named]))
    if not tables:
        raise Refused(
            "no link names a tenant: which rows are whose is not known",
            hint="name tables with --tenant-table 'TABLE=COLUMN', or set rows.tenant of a link",
        )
    return tables


def warnings_of(links: Sequence[Link], tables: Sequence[TenantTable]) -> Iterator[str]:
    named = {table.table for table in tables}
    for link in links:
        for source in link.rows:
            if source.table and source.table not in named:
                yield (
                    f"table {source.table} of link {link.name!r} says no tenant: only rows that"
                    " refer to the tenant's by a foreign key, or that these refer to, come"
                )


def linked(targets: Sequence[Target], options: RestoreOptions) -> tuple[str, ...]:
    """The collections that points may come of: those that links match, and were asked for."""
    if options.only == "postgres":
        return ()
    found = {name for target in targets for name in target.collections}
    if unknown := set(options.collections) - found:
        raise Usage(f"no link has points in collection {min(unknown)!r}")
    return tuple(sorted(options.collections or found))
