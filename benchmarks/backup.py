"""Back up and restore one pair side by side with what people do without vbackup.

    python benchmarks/backup.py --dir /var/tmp/bench --s3-program rclone --scale 0.1

Starts PostgreSQL and Qdrant from the sandbox and one S3 server, fills both stores, and lets every
contender back up to that server: `plain` (pg_dump -Fc, a Qdrant snapshot, `aws s3 cp`, one after
the other), `expert` (uncompressed dump and shard stream through `zstd -1 -T2`, both at once),
`restic` (`backup --stdin`, both at once) and `vbackup`. Then the data changes step by step, and
those that deduplicate back up again. Then `plain`, `plain-jobs` (the same, with two jobs of
pg_restore) and `vbackup` restore.

Phases (`--phases`): fill, first, again, restore. The servers stay up in `--dir` between calls, so
that phases can be run apart; `--phases down` ends them and removes what they held. Each line of
output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx
import psycopg
from corpus import COLLECTION, Corpus, steps

from vbackup.sandbox import sandbox as sandboxes
from vbackup.sandbox.loopback import free_ports
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.sandbox import Options, Sandbox

KEY, SECRET, BUCKET = "benchmark", "benchmark-secret", "benchmark"
DATABASE = "bench"
SHARE = 0.01
MEMORY = "4GB"

CONTENDERS = {
    "plain": """
pg_dump -Fc -d "$DSN" -f "$TMP/dump"
aws s3 cp --only-show-errors "$TMP/dump" "$TARGET/dump"
name=$(curl -sS --fail -X POST "$QDRANT/snapshots" | sed 's/.*"name":"\\([^"]*\\)".*/\\1/')
curl -sS --fail -o "$TMP/points" "$QDRANT/snapshots/$name"
aws s3 cp --only-show-errors "$TMP/points" "$TARGET/points"
curl -sS --fail -X DELETE "$QDRANT/snapshots/$name" >/dev/null
""",
    "expert": """
pg_dump -Fc -Z0 -d "$DSN" | zstd -q -1 -T2 | aws s3 cp --only-show-errors - "$TARGET/dump" & a=$!
curl -sS --fail "$QDRANT/shards/0/snapshot" | zstd -q -1 -T2 \\
  | aws s3 cp --only-show-errors - "$TARGET/points" & b=$!
wait $a; wait $b
""",
    "restic": """
pg_dump -Fc -Z0 -d "$DSN" | restic -q backup --stdin --stdin-filename dump & a=$!
curl -sS --fail "$QDRANT/shards/0/snapshot" \\
  | restic -q backup --stdin --stdin-filename points & b=$!
wait $a; wait $b
""",
    "vbackup": 'vbackup -q --config "$CONFIG" backup',
}
PREPARE = {
    "restic": "restic -q init",
    "vbackup": 'vbackup -q --config "$CONFIG" init --output "$CONFIG" >/dev/null',
}
_PLAIN_RESTORE = """
aws s3 cp --only-show-errors "${TARGET%-jobs}/dump" "$TMP/dump"
createdb --maintenance-db "$ADMIN" restored
pg_restore JOBS -d "$RESTORED" "$TMP/dump"
aws s3 cp --only-show-errors "${TARGET%-jobs}/points" "$TMP/points"
curl -sS --fail -o /dev/null -F "snapshot=@$TMP/points" \\
  "${QDRANT}_restored/snapshots/upload?wait=true&priority=snapshot"
"""
RESTORES = {
    "plain": _PLAIN_RESTORE.replace("JOBS ", ""),
    "plain-jobs": _PLAIN_RESTORE.replace("JOBS", "-j2"),
    "restic": """
createdb --maintenance-db "$ADMIN" restored
restic -q dump latest --path /dump dump > "$TMP/dump"
pg_restore -j2 -d "$RESTORED" "$TMP/dump"
""",
    "vbackup": 'vbackup -q --config "$CONFIG" restore latest --database restored'
    " --collection-suffix _restored",
}
DEDUPLICATE = ("restic", "vbackup")


@dataclass(frozen=True, slots=True)
class Ground:
    """The servers, and where the benchmark keeps its things."""

    sandbox: Sandbox
    endpoint: str
    home: Path
    scale: float

    @property
    def dsn(self) -> str:
        """The source database."""
        return self.sandbox.postgres.dsn(DATABASE)

    def s3(self) -> Any:
        """A client of the S3 server."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def stored(self, prefix: str) -> int:
        """Bytes of the objects under a prefix."""
        pages = self.s3().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return sum(item["Size"] for page in found for item in page.get("Contents", ()))

    def clear(self, prefix: str) -> None:
        """Delete all objects under a prefix."""
        client = self.s3()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=BUCKET, Key=item["Key"])

    def environment(self, contender: str) -> dict[str, str]:
        """What the contenders' scripts refer to."""
        postgres, config = self.sandbox.postgres, self.home / "vbackup.toml"
        if not config.exists():
            config.write_text(self._config())
        path = f"{postgres.bin_dir}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "DSN": self.dsn,
            "ADMIN": postgres.admin_dsn,
            "RESTORED": postgres.dsn("restored"),
            "QDRANT": f"{self.sandbox.qdrant.url}/collections/{COLLECTION}",
            "TARGET": f"s3://{BUCKET}/{contender}",
            "TMP": str(self.home / "tmp"),
            "CONFIG": str(config),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "RESTIC_REPOSITORY": f"s3:{self.endpoint}/{BUCKET}/restic",
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(self.home / "restic-cache"),
        }

    def _config(self) -> str:
        return f"""
[postgres]
dsn = "{self.dsn}"
bin_dir = "{self.sandbox.postgres.bin_dir}"
[qdrant]
url = "{self.sandbox.qdrant.url}"
[repository]
url = "s3://{BUCKET}/vbackup"
endpoint_url = "{self.endpoint}"
access_key_id = "{KEY}"
secret_access_key = "{SECRET}"
region = "us-east-1"
passphrase = "benchmark"
[watermark]
work_dir = "{self.home / "tmp"}"
[[link]]
name = "documents"
collection = "{COLLECTION}"
rows = [{{ table = "public.documents", key = "id", version = "version" }}]
point = {{ ref = "id", version = "payload:version" }}
"""


# ------------------------------------------------------------ servers


@contextmanager
def ground(arguments: argparse.Namespace) -> Iterator[Ground]:
    """The sandbox in `--dir`, started unless it is up, and an S3 server while this runs."""
    home = Path(arguments.dir).absolute()
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    settings = {"shared_buffers": "512MB", "max_wal_size": MEMORY, "maintenance_work_mem": "256MB"}
    options = Options(postgres=PostgresOptions(settings=settings), s3=False)
    sandbox = sandboxes.up(home / "sandbox", options)
    objects = home / "objects"
    (objects / BUCKET).mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    server = subprocess.Popen(
        [
            *(arguments.s3_program, "serve", "s3", "--addr", address),
            *("--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", str(objects)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=(home / "s3.log").open("wb"),
    )
    try:
        _answers(f"http://{address}")
        (home / "vbackup.toml").unlink(missing_ok=True)
        yield Ground(sandbox, f"http://{address}", home, arguments.scale)
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> None:
    for _ in range(100):
        with suppress(httpx.TransportError):
            httpx.get(url)
            return
        time.sleep(0.1)
    raise SystemExit(f"no S3 server at {url}")


# ------------------------------------------------------------ measuring


class Sampler:
    """The largest sum of proportional set sizes of a process and all below it, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.peak = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            self.peak = max(self.peak, sum(map(_memory, _family(self._pid))))


def _family(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
    found, size = {pid}, 0
    while size != len(found):
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found


def _memory(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def run(script: str, environment: Mapping[str, str]) -> dict[str, float]:
    """Run a script: wall seconds, CPU seconds of all its processes, peak memory."""
    before = os.times()
    started = time.perf_counter()
    process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], env=dict(environment))
    with Sampler(process.pid) as sampler:
        status = process.wait()
    seconds = time.perf_counter() - started
    after = os.times()
    if status:
        raise SystemExit(f"exit status {status} of:\n{script}")
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {
        "seconds": round(seconds, 1),
        "cpu": round(cpu, 1),
        "peak_mib": sampler.peak // 2**20,
    }


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


# ------------------------------------------------------------ phases


class Phases:
    """What `--phases` names."""

    def __init__(self, ground: Ground, arguments: argparse.Namespace) -> None:
        self._ground = ground
        self._contenders: list[str] = arguments.contenders.split(",")
        self._steps: list[str] = arguments.steps.split(",")
        self._runs: int = arguments.runs
        self._seed: int = arguments.seed

    def fill(self) -> None:
        """Both stores, from nothing."""
        started = time.perf_counter()
        with psycopg.connect(self._ground.sandbox.postgres.admin_dsn, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {DATABASE}")
        self._corpus().fill()
        say(phase="fill", seconds=round(time.perf_counter() - started, 1), **self._sizes())

    def first(self) -> None:
        """A first backup into an empty repository, round after round."""
        for number in range(self._runs):
            for contender in filter(CONTENDERS.__contains__, self._contenders):
                self._fresh(contender)
                self._back_up("first", contender, number)

    def again(self) -> None:
        """Nothing changed; then each change in turn. Wants what `first` left."""
        corpus = self._corpus()
        corpus.resume()
        for step in self._steps:
            if step != "unchanged":
                getattr(corpus, step)(SHARE)
            for contender in self._contenders:
                if contender in DEDUPLICATE:
                    self._back_up(step, contender, 0)

    def restore(self) -> None:
        """The newest backup beside the source. Wants what `first` left."""
        for number in range(self._runs):
            for contender in self._contenders:
                if contender in RESTORES:
                    self._tidy()
                    values = run(RESTORES[contender], self._ground.environment(contender))
                    say(phase="restore", contender=contender, run=number, **values)
        self._tidy()

    def _corpus(self) -> Corpus:
        url = self._ground.sandbox.qdrant.url
        return Corpus(self._ground.dsn, url, self._ground.scale, self._seed)

    def _fresh(self, contender: str) -> None:
        self._ground.clear(contender)
        self._tidy()
        if contender in PREPARE:
            run(PREPARE[contender], self._ground.environment(contender))

    def _back_up(self, phase: str, contender: str, number: int) -> None:
        before = self._ground.stored(contender)
        values = run(CONTENDERS[contender], self._ground.environment(contender))
        stored = self._ground.stored(contender) - before
        say(phase=phase, contender=contender, run=number, uploaded=stored, **values)

    def _tidy(self) -> None:
        for path in (self._ground.home / "tmp").iterdir():
            if path.is_file():
                path.unlink()
        sandbox = self._ground.sandbox
        with psycopg.connect(sandbox.postgres.admin_dsn, autocommit=True) as admin:
            admin.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")
        httpx.delete(f"{sandbox.qdrant.url}/collections/{quote(COLLECTION)}_restored", timeout=600)

    def _sizes(self) -> dict[str, int]:
        with psycopg.connect(self._ground.dsn) as connection:
            found = connection.execute(
                "SELECT pg_database_size(current_database()), (SELECT count(*) FROM documents),"
                " (SELECT count(*) FROM messages)"
            ).fetchone()
        database, documents, messages = found or (0, 0, 0)
        return {"database": database, "documents": documents, "messages": messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", required=True, help="where servers and objects live")
    parser.add_argument("--s3-program", default="rclone", help="an rclone that can `serve s3`")
    parser.add_argument("--scale", type=float, default=1.0, help="1: about 2 GB of rows")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--contenders", default=",".join(dict.fromkeys([*CONTENDERS, *RESTORES])))
    parser.add_argument("--steps", default="unchanged," + ",".join(steps()), help="of `again`")
    parser.add_argument("--phases", default="fill,first,again,restore")
    arguments = parser.parse_args()
    if arguments.phases == "down":
        sandboxes.down(Path(arguments.dir).absolute() / "sandbox")
        return
    with ground(arguments) as found:
        phases = Phases(found, arguments)
        for name in arguments.phases.split(","):
            phase: Callable[[], None] = getattr(phases, name)
            phase()


if __name__ == "__main__":
    main()
