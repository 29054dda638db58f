"""Which pg_dump is taken, and what is said when none fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vbackup.config import PostgresConfig
from vbackup.errors import Refused
from vbackup.postgres import client_tools

Config = Callable[..., PostgresConfig]


def config(bin_dir: Path | None = None) -> PostgresConfig:
    return PostgresConfig.model_validate({"dsn": "host=h", "bin_dir": bin_dir})


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`install("16.2")` makes a directory with that version's programs; PATH has all of them."""
    made: list[Path] = []

    def make(version: str) -> Path:
        directory = tmp_path / version.split()[0]
        directory.mkdir()
        for program in ("pg_dump", "pg_restore"):
            path = directory / program
            path.write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")
            path.chmod(0o755)
        made.append(directory)
        monkeypatch.setenv("PATH", ":".join(map(str, made)))
        return directory

    def nowhere(_name: str) -> None:
        return None

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", nowhere)
    monkeypatch.setattr(client_tools, "INSTALLED", ())
    return make


def test_the_servers_own_major_wins_then_the_next_newer(install: Callable[[str], Path]) -> None:
    for version in ("18.4", "15.9 (Debian 15.9-1)", "17beta1", "16.2"):
        install(version)
    assert client_tools.for_dump(config(), 16).version == "16.2"
    assert client_tools.for_dump(config(), 17).version == "17beta1"
    assert client_tools.for_dump(config(), 14).version == "15.9"
    assert client_tools.for_restore(config(), 18).major == 18


def test_an_older_one_is_never_taken(install: Callable[[str], Path]) -> None:
    install("15.9")
    install("16.2")
    with pytest.raises(Refused, match=r"pg_dump is too old for PostgreSQL 18: found 15.9, 16.2"):
        client_tools.for_dump(config(), 18)
    with pytest.raises(Refused, match="too old for an archive of pg_dump 17"):
        client_tools.for_restore(config(), 17)


def test_none_at_all(install: Callable[[str], Path]) -> None:
    with pytest.raises(Refused, match="no pg_dump found; PostgreSQL 16") as caught:
        client_tools.for_dump(config(), 16)
    assert "postgresql-client-16" in caught.value.hint


def test_a_configured_directory_is_the_only_one(install: Callable[[str], Path]) -> None:
    install("16.2")
    newer = install("18.1")
    assert client_tools.for_dump(config(newer), 16).version == "18.1"
    with pytest.raises(Refused, match="no pg_dump found in /nowhere"):
        client_tools.for_dump(config(Path("/nowhere")), 16)


def test_what_does_not_run_does_not_count(install: Callable[[str], Path]) -> None:
    broken = install("18.1")
    (broken / "pg_dump").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(Refused):
        client_tools.for_dump(config(), 16)
    install("16.2")
    assert client_tools.for_dump(config(), 16).version == "16.2"
    with pytest.raises(Refused, match="pg_dumpall is not in"):
        client_tools.for_dump(config(), 16).path("pg_dumpall")


@pytest.mark.parametrize(
    ("version", "major"), [("16.2", 16), ("17beta1", 17), ("9.6.1", 9), ("devel", 0)]
)
def test_majors(version: str, major: int) -> None:
    assert client_tools.major_of(version) == major
