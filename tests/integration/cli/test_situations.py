"""What goes wrong at night: one clear error, a hint, the contract's exit code, nothing left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from vbackup.qdrant.source import QdrantSource

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
Run = Callable[..., Any]
PASSWORD = "never-to-be-seen"


@pytest.fixture
def ready(vb: Run, config_file: Path) -> Path:
    """A configuration whose repository exists and is empty."""
    (config_file.parent / "passphrase").write_text("correct horse battery staple")
    assert vb("init").code == 0
    return config_file


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(shown: Any, code: int) -> str:
    """One line, a hint, the code; and the same as one JSON document."""
    assert shown.code == code, shown.err
    errors = [line for line in shown.err.splitlines() if line.startswith("vbackup: ")]
    assert len(errors) == 1, shown.err
    assert "hint: " in shown.err
    assert "Traceback" not in shown.err
    assert PASSWORD not in shown.err + shown.out
    return str(errors[0])


def nothing_left(pair: Any, ready: Path) -> None:
    """No backup, no scratch files, no foreign database or collection, no lease."""
    repository = ready.parent / "repository"
    assert not list(repository.glob("backups/**/manifest"))
    assert not list(repository.glob("leases/**/*"))
    assert pair.count_rows() == 300
    assert pair.count_points() == 300


def test_wrong_password(vb: Run, pair: Any, ready: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("APP_DSN", psycopg.conninfo.make_conninfo(pair.dsn, password=PASSWORD))
    monkeypatch.delenv("PGPASSFILE", raising=False)
    assert "rejected the user" in refused(vb("backup"), 7)
    nothing_left(pair, ready)


def test_unreachable_postgres(vb: Run, pair: Any, ready: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("APP_DSN", f"postgresql://app:{PASSWORD}@127.0.0.1:9/app")
    assert "127.0.0.1" in refused(vb("backup"), 1)
    nothing_left(pair, ready)


def test_no_such_database(vb: Run, pair: Any, ready: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("APP_DSN", psycopg.conninfo.make_conninfo(pair.dsn, dbname="absent"))
    assert "absent" in refused(vb("backup"), 5)
    nothing_left(pair, ready)


def test_unreachable_qdrant(vb: Run, pair: Any, ready: Path) -> None:
    change(ready, pair.qdrant.base_url.netloc.decode(), "127.0.0.1:9")
    assert "127.0.0.1:9" in refused(vb("backup"), 1)
    nothing_left(pair, ready)


def test_unknown_collection(vb: Run, pair: Any, ready: Path) -> None:
    change(ready, f'collections = ["{pair.collection}"]', 'collections = ["absent"]')
    assert "absent" in refused(vb("backup"), 5)
    nothing_left(pair, ready)


def test_unknown_table_of_a_link(vb: Run, pair: Any, ready: Path) -> None:
    change(ready, "public.documents", "public.documnets")
    shown = vb("backup")
    assert shown.code in {2, 5}
    assert "documnets" in shown.err
    nothing_left(pair, ready)


def test_missing_pg_dump(vb: Run, pair: Any, ready: Path, monkeypatch: Any, tmp_path: Path) -> None:
    empty = tmp_path / "no-programs"
    empty.mkdir()
    lines = [line for line in ready.read_text().splitlines() if not line.startswith("bin_dir")]
    ready.write_text("\n".join(lines).replace("[postgres]", f'[postgres]\nbin_dir = "{empty}"'))
    assert "pg_dump" in refused(vb("backup"), 4)
    nothing_left(pair, ready)


def test_older_pg_dump(vb: Run, pair: Any, ready: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-programs"
    old.mkdir()
    for program in ("pg_dump", "pg_restore", "pg_dumpall"):
        path = old / program
        path.write_text(f'#!/bin/sh\necho "{program} (PostgreSQL) 9.6.24"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    lines = [line for line in ready.read_text().splitlines() if not line.startswith("bin_dir")]
    ready.write_text("\n".join(lines).replace("[postgres]", f'[postgres]\nbin_dir = "{old}"'))
    assert "9.6" in refused(vb("backup"), 4)
    nothing_left(pair, ready)


def test_missing_bucket(vb: Run, pair: Any, ready: Path, s3_server: Any) -> None:
    in_s3(ready, s3_server, "no-such-bucket-here")
    assert "no-such-bucket-here" in refused(vb("backup"), 5)
    nothing_left(pair, ready)


def in_s3(ready: Path, server: Any, bucket: str) -> None:
    lines = ready.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith('url = "file:'))
    lines[at] = (
        f'url = "s3://{bucket}/prefix"\nendpoint_url = "{server.endpoint_url}"\n'
        f'region = "{server.region}"\naccess_key_id = "{server.access_key_id}"\n'
        f'secret_access_key = "{server.secret_access_key}"\nretries = 1'
    )
    ready.write_text("\n".join(lines))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(vb: Run, pair: Any, ready: Path) -> None:
    repository = ready.parent / "repository"
    repository.chmod(0o555)
    try:
        refused(vb("backup"), 7)
    finally:
        repository.chmod(0o755)
    nothing_left(pair, ready)


def test_wrong_passphrase(vb: Run, pair: Any, ready: Path) -> None:
    (ready.parent / "passphrase").write_text(PASSWORD)
    assert "passphrase" in refused(vb("backup"), 7)
    nothing_left(pair, ready)


def test_five_mistakes_are_told_in_one_go(vb: Run, pair: Any, ready: Path) -> None:
    text = ready.read_text()
    text = text.replace('lead_in = "0s"', 'lead_in = "soon"\nstrategi = "capture"')
    text = text.replace("[watermark]", "compression_level = 99\n[watermark]")
    text = text.replace('key = "id"', 'kee = "id"')
    text = text.replace("passphrase_file", "pasphrase_file")
    ready.write_text(text)
    shown = vb("backup")
    assert shown.code == 2
    for said in ("lead_in", "strategi", "strategy", "compression_level", "kee", "passphrase_file"):
        assert said in shown.err
    nothing_left(pair, ready)


def command(ready: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "vbackup", "--config", str(ready), *arguments]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_backup_is_not_listed_and_the_next_one_runs(
    vb: Run, pair: Any, ready: Path, number: signal.Signals
) -> None:
    """Stopped in the middle: a writer that holds a table keeps the dump from going on."""
    change(ready, 'lead_in = "0s"', 'lead_in = "60s"')
    stopped = subprocess.Popen(
        command(ready, "backup"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    leases = ready.parent / "repository" / "leases" / "writer"
    tick = threading.Event()
    while not (leases.is_dir() and any(leases.iterdir())):
        assert stopped.poll() is None
        tick.wait(0.02)

    stopped.send_signal(number)
    _, said = stopped.communicate(timeout=60)

    assert stopped.returncode == (-9 if number == signal.SIGKILL else 130), said
    assert vb("list", "--json").json["backups"] == []
    change(ready, 'lead_in = "60s"', 'lead_in = "0s"')
    assert vb("backup").code == 0
    assert len(vb("list", "--json").json["backups"]) == 1
    assert vb("verify").code == 0


def test_everything_comes_back_with_nothing_but_the_repository_and_the_passphrase(
    vb: Run, pair: Any, ready: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    assert vb("backup").code == 0
    empty = tmp_path / "another-machine"
    empty.mkdir()
    dsn, key = os.environ["APP_DSN"], os.environ.get("QDRANT_KEY", "")
    passphrase = ready.parent / "passphrase"
    monkeypatch.chdir(empty)
    monkeypatch.delenv("APP_DSN")
    if key:
        monkeypatch.setenv("QDRANT_API_KEY", key)

    shown = vb(
        "--repository", (ready.parent / "repository").as_uri(),
        "--passphrase-file", str(passphrase),
        "restore", "latest", "--postgres", dsn, "--qdrant", str(pair.qdrant.base_url), "--json",
    )  # fmt: skip

    assert shown.code == 0, shown.err
    found = shown.json
    try:
        assert found["reconcile"]["clean"] is True
        assert found["points"][pair.collection] == 300
    finally:
        pair.sql(f'DROP DATABASE "{found["database"]}" WITH (FORCE)')
        for name in found["collections"].values():
            pair.qdrant.delete(f"/collections/{name}")


def test_a_collection_that_is_dropped_during_a_backup_is_left_out(
    vb: Run, pair: Any, ready: Path, monkeypatch: Any
) -> None:
    """An application that drops a tenant must not cost the backup of all others."""
    gone, path = f"{pair.collection}_tenant", f"/collections/{pair.collection}_tenant"
    change(ready, f'collections = ["{pair.collection}"]', f'collections = ["{pair.collection}*"]')
    ready.write_text(f'ignore = ["{gone}"]\n' + ready.read_text())
    pair.qdrant.put(path, json={"vectors": {"size": 4, "distance": "Dot"}}).raise_for_status()
    spool = QdrantSource.spool

    def dropped(self: QdrantSource, *arguments: Any) -> Any:
        pair.qdrant.delete(path)
        return spool(self, *arguments)

    monkeypatch.setattr(QdrantSource, "spool", dropped)
    shown = vb("backup", "--json")
    assert shown.code == 0, shown.err
    names = [found["name"] for found in shown.json["qdrant"]["collections"]]
    assert names == [pair.collection]
    change(ready, f'collections = ["{pair.collection}*"]', f'collections = ["{gone}"]')
    assert gone in refused(vb("backup"), 5)
