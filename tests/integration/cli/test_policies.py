"""Every command runs under exactly the S3 policy that docs/storage.md gives it, and no more.

On moto with IAM, which checks actions and resources of every request but no conditions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.contract.servers import BUCKET, Endpoint, moto_with_auth, new_user
from tests.contract.test_policies import for_moto, policy

pytestmark = pytest.mark.integration

Run = Callable[..., Any]
As = Callable[[str], Run]
ROLES = ("writer", "pruner", "reader", "verifier")


@pytest.fixture(scope="module")
def iam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with moto_with_auth(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture
def as_role(
    iam: Endpoint, vb: Run, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> As:
    """`as_role("writer")("backup")` runs a command with that role's key."""
    prefix = f"p-{secrets.token_hex(6)}"
    users = {
        role: new_user(iam, f"{role}-{prefix}", for_moto(policy(role, prefix))) for role in ROLES
    }
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(
        text.replace(
            f'url = "{(tmp_path / "repository").as_uri()}"',
            f'url = "s3://{BUCKET}/{prefix}"\nendpoint_url = "{iam.url}"\nregion = "us-east-1"\n'
            'access_key_id = "${env:ROLE_KEY}"\nsecret_access_key = "${env:ROLE_SECRET}"',
        ),
        encoding="utf-8",
    )

    def chosen(role: str) -> Run:
        monkeypatch.setenv("ROLE_KEY", users[role].access_key_id)
        monkeypatch.setenv("ROLE_SECRET", users[role].secret_access_key)
        return vb

    return chosen


@pytest.fixture
def backups(as_role: As, config_file: Path) -> tuple[str, str]:
    """Two backups of the whole pair, older first."""
    made = as_role("pruner")("init")
    assert made.code == 0, made.err
    taken = [as_role("writer")("backup", "--json") for _ in range(2)]
    assert [one.code for one in taken] == [0, 0], taken[0].err
    return taken[0].json["id"], taken[1].json["id"]


def works(run: Run, *command: str) -> Any:
    done = run(*command)
    assert done.code == 0, (command, done.err)
    assert "cannot be told" not in done.err, command
    return done


def test_the_writers_key(as_role: As, backups: tuple[str, str]) -> None:
    writer = as_role("writer")
    for command in (("check",), ("list",), ("show",), ("pin", backups[0])):
        works(writer, *command)
    for command in (("prune",), ("unpin", backups[0])):
        assert writer(*command).code == 7, command
    works(writer, "backup")


def test_the_readers_key(as_role: As, pair: Any, backups: tuple[str, str]) -> None:
    reader, old = as_role("reader"), backups[0]
    for command in (
        ("list",),
        ("show", old),
        ("show", old, "--reembed", "rows.jsonl"),
        ("restore", old, "--plan"),
        ("reconcile", "--backup", old),
        ("report", "--html", "report.html"),
    ):
        works(reader, *command)
    pair.remove([7])
    works(reader, "reconcile", "--repair", "missing", "--from-backup", old, "--yes")
    assert set(pair.vectors([7])) == {7}
    restored = works(reader, "restore", old, "--json").json
    with psycopg.connect(pair.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(restored["database"])))
    for name in restored["collections"].values():
        pair.qdrant.delete(f"/collections/{name}").raise_for_status()
    switched = works(reader, "restore", old, "--in-place", "--yes", "--json")
    assert "nothing keeps others" not in switched.err
    works(reader, *switched.json["switch"]["drop_old"].split()[1:])
    for command in (("backup",), ("prune",), ("pin", old), ("key", "remove", "x")):
        assert reader(*command).code == 7, command


def test_the_verifiers_key(as_role: As, backups: tuple[str, str]) -> None:
    verifier = as_role("verifier")
    for level in ("manifest", "chunks", "offline"):
        works(verifier, "verify", "--level", level)
        newest = as_role("reader")("list", "--json").json["backups"][0]
        assert newest["verified"]["level"] == level
        as_role("verifier")
    works(verifier, "verify", "--sample", "1/2")
    for command in (("backup",), ("prune",), ("verify", "--repair-index")):
        assert verifier(*command).code == 7, command


def test_a_reader_verifies_too_but_cannot_record_it(as_role: As, backups: tuple[str, str]) -> None:
    works(as_role("reader"), "verify", "--level", "chunks")
    assert as_role("reader")("list", "--json").json["backups"][0]["verified"] is None


def test_the_pruners_key(
    as_role: As, config_file: Path, tmp_path: Path, backups: tuple[str, str]
) -> None:
    old, new = backups
    pruner = as_role("pruner")
    config_file.write_text(
        config_file.read_text(encoding="utf-8")
        + "[retention]\nkeep_last = 1\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n"
    )
    (tmp_path / "second").write_text("another passphrase")
    works(pruner, "pin", old)
    works(pruner, "prune", "--dry-run")
    assert works(pruner, "prune", "--json").json["removed"] == []
    works(pruner, "unpin", old)
    assert works(pruner, "prune", "--now", "--json").json["removed"] == [old]
    works(pruner, "unlock", "--yes")
    works(pruner, "key", "add", "--passphrase-file", "second")
    slots = works(pruner, "key", "list", "--json").json["keys"]
    works(pruner, "key", "remove", next(s["id"] for s in slots if not s["in_use"]))
    works(pruner, "verify", "--repair-index", new)
