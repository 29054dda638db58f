"""Memory when everything differs: a million rows whose collection is empty.

    python benchmarks/lost_collection.py --rows 1000000

Backs the pair up (every row goes on the re-embed list), restores it, and compares its halves
without a server; prints the peak memory of each command and what it said of the list.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg

from vbackup.sandbox.sandbox import Options, Sandbox, throwaway

NAME = "lost"
CONFIG = """
[postgres]
dsn = "{dsn}"
bin_dir = "{bin_dir}"
[qdrant]
url = "{url}"
collections = ["lost"]
[repository]
url = "{repository}"
encryption = "none"
[watermark]
work_dir = "{work_dir}"
[[link]]
name = "lost"
collection = "lost"
rows = [{{ table = "public.lost", key = "id", version = "version" }}]
point = {{ ref = "{ref}", version = "payload:version" }}
"""


def fill(sandbox: Sandbox, rows: int) -> None:
    with psycopg.connect(sandbox.postgres.admin_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
    with psycopg.connect(sandbox.postgres.dsn(NAME), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {NAME} (id uuid PRIMARY KEY, version bigint, body text)")
        connection.execute(
            f"INSERT INTO {NAME} SELECT md5(n::text)::uuid, n, repeat('x', 200)"
            f" FROM generate_series(1, {rows}) n"
        )
        connection.execute("ANALYZE")
    body = {"vectors": {"size": 4, "distance": "Dot"}}
    httpx.put(f"{sandbox.qdrant.url}/collections/{NAME}", json=body).raise_for_status()


def run(config: Path, *arguments: str) -> tuple[dict[str, Any], int, float]:
    """A command's document, its peak memory in MiB, and its seconds."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        command = [sys.executable, "-m", "vbackup", "--config", str(config), "--json", *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        output.seek(0)
        document: dict[str, Any] = json.load(output)
    return document, usage.ru_maxrss // 1024, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ref", default="id")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vbackup-bench-") as directory,
        throwaway(Options(s3=False)) as sandbox,
    ):
        fill(sandbox, asked.rows)
        config = Path(directory) / "vbackup.toml"
        config.write_text(
            CONFIG.format(
                dsn=sandbox.postgres.dsn(NAME),
                bin_dir=sandbox.postgres.bin_dir,
                url=sandbox.qdrant.url,
                repository=(Path(directory) / "repository").as_uri(),
                work_dir=Path(directory) / "work",
                ref=asked.ref,
            )
        )
        listed = str(Path(directory) / "reembed.jsonl")
        run(config, "init")
        for command in (
            ("backup",),
            ("restore", "latest", "--database", f"{NAME}_back", "--reembed", listed),
            ("reconcile", "--backup", "latest"),
        ):
            document, peak, seconds = run(config, *command)
            found = document.get("patch") or document.get("links") or document.get("error")
            print(
                f"{command[0]:10} {peak:5} MiB {seconds:6.1f} s", document["ok"], found, flush=True
            )


if __name__ == "__main__":
    main()
