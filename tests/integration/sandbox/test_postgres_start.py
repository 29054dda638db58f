"""PostgreSQL starts for root and for others, from wherever its programs are."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from vbackup.errors import Failed, NotFound
from vbackup.sandbox.account import Account, reaches
from vbackup.sandbox.postgres import PostgresOptions
from vbackup.sandbox.postgres_binaries import find_binaries
from vbackup.sandbox.qdrant_binary import find_qdrant
from vbackup.sandbox.sandbox import Options, down, throwaway, up

pytestmark = pytest.mark.integration

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about what root must do differently")


def _only(options: PostgresOptions) -> Options:
    return Options(postgres=options, qdrant=None, s3=False)


def _setting(dsn: str, name: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        assert row is not None
        return str(row[0])


def test_settings_reach_the_server_and_win(tmp_path: Path) -> None:
    options = PostgresOptions(
        logical=True, settings={"max_connections": "33", "application_name": "a b'c"}
    )
    with throwaway(_only(options), tmp_path / "s") as sandbox:
        dsn = sandbox.postgres.admin_dsn
        assert _setting(dsn, "max_connections") == "33"
        assert _setting(dsn, "application_name") == "a b'c"
        assert _setting(dsn, "wal_level") == "logical"
        assert _setting(dsn, "fsync") == "off"
        assert _setting(dsn, "listen_addresses") == "127.0.0.1"


def test_the_users_own_variables_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "xx_XX.nonsense")
    with throwaway(_only(PostgresOptions()), tmp_path / "s") as sandbox:
        assert _setting(sandbox.postgres.admin_dsn, "port") == str(sandbox.postgres.port)


def test_a_setting_it_refuses_is_in_the_error(tmp_path: Path) -> None:
    options = PostgresOptions(settings={"shared_buffers": "no size"})
    with pytest.raises(Failed, match="PostgreSQL 16 did not start") as caught:
        up(tmp_path / "s", _only(options))
    assert "shared_buffers" in caught.value.hint
    down(tmp_path / "s")


def test_initdb_that_fails_says_why(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    shutil.copytree(find_binaries(16).directory, programs, symlinks=True)
    (programs / "initdb").unlink()
    (programs / "initdb").write_text("#!/bin/sh\necho the disk is cheese >&2; exit 1\n")
    (programs / "initdb").chmod(0o755)
    with pytest.raises(Failed, match=r"initdb of PostgreSQL 16\.\d+ failed: the disk is cheese"):
        up(tmp_path / "s", _only(PostgresOptions(bin_dir=programs)))
    down(tmp_path / "s")


@pytest.mark.parametrize("kind", ["empty", "not a server", "absent"])
def test_a_directory_without_a_server_is_named(tmp_path: Path, kind: str) -> None:
    programs = tmp_path / "bin"
    if kind != "absent":
        programs.mkdir()
    if kind == "not a server":
        for name in ("postgres", "initdb"):
            (programs / name).symlink_to("/bin/false")
    with pytest.raises(NotFound, match=f"in {programs}"):
        up(tmp_path / "s", _only(PostgresOptions(bin_dir=programs)))
    down(tmp_path / "s")


def test_binaries_are_found_by_major_version() -> None:
    assert find_binaries(18).major == 18
    assert find_binaries(16).major == 16
    assert find_binaries(None).directory.is_dir()


@as_root
def test_root_starts_it_in_a_directory_that_only_root_can_enter(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with throwaway(_only(PostgresOptions()), private / "s") as sandbox:
        data_dir = Path(sandbox.postgres.data_dir or "")
        assert not data_dir.is_relative_to(private)
        assert data_dir.stat().st_uid != 0
        assert _setting(sandbox.postgres.admin_dsn, "port") == str(sandbox.postgres.port)
    assert not data_dir.parent.exists()
    assert list(private.iterdir()) == []


@as_root
def test_root_starts_programs_that_only_root_can_reach(tmp_path: Path) -> None:
    """A virtualenv under /root, as in most containers."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = find_binaries(16).directory.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    if not libraries.is_dir():
        pytest.skip("the programs here are not those of the wheel, which can be moved")
    shutil.copytree(libraries, private / libraries.name)
    shutil.copytree(package, private / package.name, symlinks=True)
    options = PostgresOptions(bin_dir=private / package.name / "pginstall" / "bin")
    with throwaway(_only(options)) as sandbox:
        assert sandbox.postgres.bin_dir != str(options.bin_dir)
        assert _setting(sandbox.postgres.admin_dsn, "port") == str(sandbox.postgres.port)


@as_root
def test_reaches_looks_at_every_directory_on_the_way(tmp_path: Path) -> None:
    nobody = Account("nobody", 65534, 65534)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert not reaches(deep, nobody), "pytest's own directory is closed"
    assert reaches(Path("/usr/bin/env"), nobody)


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    entry = pwd.getpwnam("nobody")
    home = Path(tempfile.mkdtemp(prefix="vbackup-test-", dir="/var/tmp"))
    os.chown(home, entry.pw_uid, entry.pw_gid)
    yield home
    shutil.rmtree(home)


AS_USER = """
import os, sys
from pathlib import Path
import psycopg
from vbackup.sandbox.sandbox import *
assert os.geteuid() != 0
with throwaway(Options(), Path.home() / "sandbox") as sandbox:
    with psycopg.connect(sandbox.postgres.admin_dsn) as connection:
        print(connection.execute("SHOW data_directory").fetchone()[0])
    print(sandbox.qdrant.version, len(sandbox.state.processes))
"""


@as_root
def test_an_ordinary_user_starts_everything(home_of_nobody: Path) -> None:
    entry = pwd.getpwnam("nobody")
    if not reaches(Path(sys.executable), Account("nobody", entry.pw_uid, entry.pw_gid)):
        pytest.skip("this virtualenv is closed to other users")
    program = home_of_nobody / "qdrant"
    shutil.copy(find_qdrant().path, program)
    done = subprocess.run(
        [sys.executable, "-c", AS_USER],
        user="nobody",
        group=entry.pw_gid,
        extra_groups=[],
        cwd=home_of_nobody,
        env={
            "HOME": str(home_of_nobody),
            "PATH": "/usr/bin:/bin",
            "VBACKUP_QDRANT_BIN": str(program),
            "TMPDIR": str(home_of_nobody),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(home_of_nobody / "sandbox/postgres/data")
    assert done.stdout.split()[2] == "3"
    assert not (home_of_nobody / "sandbox").exists()
