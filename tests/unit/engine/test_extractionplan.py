"""Which tables tell whose a row is, and what is said when none does."""

from __future__ import annotations

from typing import Any

import pytest

from vbackup.cli.extracting import named_tables
from vbackup.engine.extractionplan import linked, tenant_tables, warnings_of
from vbackup.engine.links import Target
from vbackup.engine.restoreplan import RestoreOptions
from vbackup.errors import Refused, Usage
from vbackup.model.link import Link, RowSource
from vbackup.model.tenancy import TenantTable


def link(name: str, **source: Any) -> Link:
    return Link(name=name, collection=name, rows=(RowSource(key=("id",), **source),))


DOCUMENTS = link("documents", table="documents", tenant="owner")
CHUNKS = link("chunks", table="chunks")
QUERY = link("notes", sql="SELECT id AS key FROM notes")


def test_the_links_tell_and_so_do_the_options() -> None:
    named = [TenantTable("orders", "customer"), TenantTable("documents", "owner")]
    found = tenant_tables([DOCUMENTS, CHUNKS], named)
    assert found == (TenantTable("documents", "owner"), TenantTable("orders", "customer"))
    assert list(warnings_of([DOCUMENTS, CHUNKS], found)) == [
        "table chunks of link 'chunks' says no tenant: only rows that refer to the tenant's by a"
        " foreign key, or that these refer to, come"
    ]


def test_nothing_tells() -> None:
    with pytest.raises(Refused, match="no link names a tenant"):
        tenant_tables([CHUNKS], [])
    with pytest.raises(Refused, match="reads its rows by a query"):
        tenant_tables([DOCUMENTS, QUERY], [])
    assert tenant_tables([DOCUMENTS, QUERY], [TenantTable("notes", "owner")])


def test_points_come_of_linked_collections_only() -> None:
    targets = [Target(DOCUMENTS, ("a", "b")), Target(CHUNKS, ("b", "c"))]
    assert linked(targets, RestoreOptions()) == ("a", "b", "c")
    assert linked(targets, RestoreOptions(collections=("c",))) == ("c",)
    assert linked(targets, RestoreOptions(only="postgres")) == ()
    with pytest.raises(Usage, match="'z'"):
        linked(targets, RestoreOptions(collections=("a", "z")))


def test_tables_on_the_command_line() -> None:
    given = ("orders = customer_id", "public.mails=data->>'owner' = 'x'")
    assert named_tables(given) == [
        TenantTable("orders", "customer_id"),
        TenantTable("public.mails", "data->>'owner' = 'x'"),
    ]
    for wrong in ("orders", "=x", "orders="):
        with pytest.raises(Usage, match="names no table"):
            named_tables((wrong,))
