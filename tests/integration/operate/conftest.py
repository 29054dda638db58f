"""A small pair on real servers, a configuration for it, and the daemon as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import psycopg
import pytest

from vbackup.sandbox.servers import PostgresServer, QdrantServer

ROWS = 200
WAIT = 120.0


class Operated:
    """A configuration on disk; commands and daemons that use it, as a person starts them."""

    def __init__(self, directory: Path, base: str, dsn: str) -> None:
        self.directory = directory
        self.dsn = dsn
        self.config = directory / "vbackup.toml"
        self._base = base
        self.port = _free_port()
        self.daemons: list[subprocess.Popen[bytes]] = []

    def configure(self, schedule: str = "", more: str = "") -> None:
        """`schedule` are further lines of that section, `more` are further sections."""
        self.config.write_text(
            f'{self._base}\n[schedule]\nlisten = "127.0.0.1:{self.port}"\n'
            f'state_dir = "{self.directory}/state"\n{schedule}\n{more}\n'
        )

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """One command; its exit code and document."""
        ended = subprocess.run(self.line("--json", *arguments), capture_output=True, check=False)
        return ended.returncode, json.loads(ended.stdout)

    def line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "vbackup", "--config", str(self.config), *arguments]

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that this directory's end stops at the latest."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                self.line(*arguments),
                stdout=log,
                stderr=log,
                env=dict(os.environ),
            )
        self.daemons.append(process)
        return process

    def daemon(self) -> subprocess.Popen[bytes]:
        """Start the daemon; returns once it serves."""
        process = self.begin("schedule")
        self.until(lambda: process.poll() is None and self.get("/healthz") != "")
        return process

    def get(self, path: str) -> str:
        """A page's text, empty while nobody answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def history(self) -> list[tuple[str, int | None]]:
        """Job and code of every ended run."""
        path = self.directory / "state/history.sqlite"
        with closing(sqlite3.connect(path, timeout=30)) as db:
            return db.execute(
                "SELECT job, code FROM run WHERE ended IS NOT NULL ORDER BY id"
            ).fetchall()

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline, tick = time.monotonic() + WAIT, threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"it did not happen\n{self.log()[-3000:]}")
            tick.wait(0.05)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def operated(
    database: str,
    postgres_server: PostgresServer,
    qdrant_server: QdrantServer,
    collection_prefix: str,
    tmp_path: Path,
) -> Iterator[Operated]:
    collection = f"{collection_prefix}documents"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE documents (id bigint PRIMARY KEY, body text)")
        connection.execute(
            "INSERT INTO documents SELECT n, repeat(md5(n::text), 200)"
            f" FROM generate_series(1, {ROWS}) n"
        )
    headers = {"api-key": qdrant_server.api_key} if qdrant_server.api_key else {}
    with httpx.Client(base_url=qdrant_server.url, headers=headers, timeout=30) as client:
        vectors = {"vectors": {"size": 4, "distance": "Dot"}}
        client.put(f"/collections/{collection}", json=vectors).raise_for_status()
        points = [{"id": n, "vector": [n, 1, 2, 3]} for n in range(1, ROWS + 1)]
        client.put(
            f"/collections/{collection}/points", params={"wait": "true"}, json={"points": points}
        ).raise_for_status()
    bin_dir = f'bin_dir = "{postgres_server.bin_dir}"' if postgres_server.bin_dir else ""
    api_key = f'api_key = "{qdrant_server.api_key}"' if qdrant_server.api_key else ""
    base = f"""
[postgres]
dsn = "{database}"
{bin_dir}
[qdrant]
url = "{qdrant_server.url}"
collections = ["{collection}"]
{api_key}
[repository]
url = "{(tmp_path / "repository").as_uri()}"
encryption = "none"
[watermark]
lead_in = "0s"
max_index_lag = "0s"
[[link]]
name = "documents"
collection = "{collection}"
rows = [{{ table = "public.documents", key = "id" }}]
point = {{ ref = "id" }}
"""
    found = Operated(tmp_path, base, database)
    found.configure()
    code, said = found.run("init")
    assert code == 0, said
    yield found
    for process in found.daemons:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
