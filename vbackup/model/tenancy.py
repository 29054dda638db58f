"""One tenant's part of a database."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TenantTable:
    """A table whose rows say whose they are: `tenant` is a column or SQL over its columns."""

    table: str
    tenant: str


@dataclass(frozen=True, slots=True)
class KeptTable:
    """Rows of one table that are a tenant's: `own` say so themselves, `belonging` refer to such
    rows by a foreign key, `referenced` are what rows of both kinds refer to."""

    table: str
    own: int = 0
    belonging: int = 0
    referenced: int = 0

    @property
    def rows(self) -> int:
        return self.own + self.belonging + self.referenced


@dataclass(frozen=True, slots=True)
class MergedTable:
    """Rows of one table that were brought back into the live database: those that were gone,
    and those of the tenant's own that got their old values. `altered`: a trigger made something
    else of so many of the latter two."""

    table: str
    inserted: int = 0
    updated: int = 0
    altered: int = 0
