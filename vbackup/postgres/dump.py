"""What to dump under a snapshot: one main archive, one a large table, and the globals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from vbackup.config import PostgresConfig
from vbackup.errors import VbackupError
from vbackup.ports import DumpStream
from vbackup.postgres.client_tools import ClientTools
from vbackup.postgres.connection import Connection, one, reached
from vbackup.postgres.locks import DUMPED
from vbackup.postgres.process import (
    connection_argument,
    dump_failure,
    environment,
    output,
    streamed,
)

# pg_dump takes its own lock behind a schema change that waits for the watermark's lock, which
# waits for pg_dump. The server cannot see that circle; this ends it.
LOCK_WAIT_MS = 15_000

_SIZES: LiteralString = f"""
SELECT t.name, pg_catalog.pg_table_size(t.oid::pg_catalog.oid),
       greatest(c.reltuples, 0)::bigint
FROM ({DUMPED}) t(oid, name) JOIN pg_catalog.pg_class c ON c.oid = t.oid::pg_catalog.oid
WHERE c.relkind = 'r'
"""  # noqa: S608 - both halves are constants


@dataclass(frozen=True, slots=True)
class TableSize:
    """One table with data: its quoted name, its bytes with TOAST, its rows as last estimated."""

    name: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class DumpPlan:
    """Everything needed to start the dumps of one snapshot."""

    tools: ClientTools
    params: Mapping[str, str]
    snapshot: str
    standby: bool
    small: Sequence[TableSize]
    large: Sequence[TableSize]
    large_objects: int

    def streams(self) -> list[DumpStream]:
        """The main archive and one archive a large table, largest first."""
        return [self._main(), *(self._table(table) for table in self.large)]

    def _main(self) -> DumpStream:
        excluded = [f"--exclude-table-data={table.name}" for table in self.large]
        return DumpStream(
            kind="main",
            name="main",
            open=lambda: self._archive(*excluded),
            rows_estimate=sum(table.rows for table in self.small),
            bytes_estimate=sum(table.bytes for table in self.small) + self.large_objects,
        )

    def _table(self, table: TableSize) -> DumpStream:
        return DumpStream(
            kind="table",
            name=table.name,
            open=lambda: self._archive("--data-only", f"--table={table.name}"),
            table=table.name,
            rows_estimate=table.rows,
            bytes_estimate=table.bytes,
        )

    def _archive(self, *options: str) -> Iterator[bytes]:
        command = [
            self.tools.path("pg_dump"),
            "--format=custom",
            # Our own compression is faster, and only plain bytes deduplicate.
            "--compress=0",
            "--no-password",
            f"--snapshot={self.snapshot}",
            f"--lock-wait-timeout={LOCK_WAIT_MS}",
            *(["--no-unlogged-table-data"] if self.standby else []),
            *options,
            connection_argument(self.params),
        ]
        return streamed(command, environment(self.params), dump_failure)


def plan_dumps(
    connection: Connection, snapshot: str, config: PostgresConfig, tools: ClientTools
) -> DumpPlan:
    """Measure the tables, and split the large ones off."""
    tables = [
        TableSize(str(name), int(str(size)), int(str(rows)))
        for name, size, rows in connection.execute(_SIZES)
    ]
    tables.sort(key=lambda table: (-table.bytes, table.name))
    (standby, large_objects) = one(
        connection,
        "SELECT pg_catalog.pg_is_in_recovery(),"
        " pg_catalog.pg_table_size('pg_catalog.pg_largeobject')",
    )
    return DumpPlan(
        tools=tools,
        params=reached(connection),
        snapshot=snapshot,
        standby=bool(standby),
        small=[table for table in tables if table.bytes <= config.large_table],
        large=[table for table in tables if table.bytes > config.large_table],
        large_objects=int(str(large_objects)),
    )


def globals_stream(
    connection: Connection, config: PostgresConfig, tools: ClientTools, warn: Callable[[str], None]
) -> DumpStream | None:
    """Roles and tablespaces as SQL, or None when they are not wanted or, with "auto", not to be
    had; `warn` is told what is left out."""
    if config.include_globals == "never":
        return None
    params = reached(connection)
    (superuser,) = one(
        connection,
        "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    command = [
        tools.path("pg_dumpall"),
        "--globals-only",
        "--no-password",
        f"--database={params['dbname']}",
        *([] if superuser else ["--no-role-passwords"]),
        connection_argument(params),
    ]
    try:
        data = output(command, environment(params))
    except VbackupError as error:
        if config.include_globals == "always":
            raise
        warn(f"roles and tablespaces are not in this backup: {error.message}")
        return None
    if not superuser:
        warn("roles are backed up without their passwords: only a superuser may read those")
    return DumpStream(
        kind="globals", name="globals", open=lambda: iter([data]), bytes_estimate=len(data)
    )
