"""What most people run at night: pg_dump, and a Qdrant snapshot a moment later. For comparison.

Each half is a good backup of its own store. The pair they make never existed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vbackup.demo.application import Application
from vbackup.demo.oracle import Comparison, compare
from vbackup.demo.vector_store import VectorStore
from vbackup.errors import Failed

_VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}

ScriptOrder = Literal["dump-first", "snapshot-first"]


@dataclass(frozen=True, slots=True)
class UsualScript:
    """Backs one application up while it runs, and restores the halves beside it.

    `bin_dir` holds pg_dump and pg_restore (None: from PATH); `directory` takes both files.
    Raises Failed.
    """

    application: Application
    server: str
    bin_dir: str | None
    directory: Path
    order: ScriptOrder = "dump-first"

    def back_up(self) -> None:
        """Both halves, one right after the other."""
        self.directory.mkdir(parents=True, exist_ok=True)
        halves: list[Callable[[], None]] = [self._dump, self._snapshot]
        for half in halves if self.order == "dump-first" else reversed(halves):
            half()

    def restore_and_compare(self) -> Comparison:
        """Restore the halves under other names, compare them, and remove them again."""
        name = f"{self.application.name}_usual_script"
        with psycopg.connect(self.server, autocommit=True) as connection:
            identifier = sql.Identifier(name)
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier)
            connection.execute(drop)
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(identifier))
            try:
                return self._restore(name)
            finally:
                connection.execute(drop)

    def _restore(self, name: str) -> Comparison:
        dsn = make_conninfo(self.server, dbname=name)
        self._run("pg_restore", "--no-owner", "--dbname", name, str(self._dump_file))
        with self._qdrant.sibling(name) as store:
            store.drop()
            try:
                store.upload_snapshot(self._snapshot_file)
                return compare(dsn, store, self.application.scenario)
            finally:
                store.drop()

    def _dump(self) -> None:
        self._run("pg_dump", "-Fc", "--file", str(self._dump_file), self.application.name)

    def _snapshot(self) -> None:
        self._qdrant.download_snapshot(self._snapshot_file)

    @property
    def _qdrant(self) -> VectorStore:
        store = self.application.store
        if not isinstance(store, VectorStore):
            raise Failed("only a pair of two stores can be backed up one after the other")
        return store

    @property
    def _dump_file(self) -> Path:
        return self.directory / "usual.dump"

    @property
    def _snapshot_file(self) -> Path:
        return self.directory / "usual.snapshot"

    def _run(self, tool: str, *arguments: str) -> None:
        """The password goes through the environment: arguments are seen by every user."""
        given = conninfo_to_dict(self.server)
        environment = os.environ | {
            variable: str(given[key]) for key, variable in _VARIABLES.items() if given.get(key)
        }
        program = str(Path(self.bin_dir) / tool) if self.bin_dir else tool
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise Failed(f"{tool} ended with {done.returncode}: {lines[-1]}")
