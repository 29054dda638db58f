"""The state file: private, whole at every instant, and believed only when it is ours."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from vbackup.errors import Failed, Locked
from vbackup.sandbox.ledger import (
    STATE_FILE,
    Ledger,
    State,
    empty,
    locked,
    read_state,
    remove_tree,
    this_process,
)
from vbackup.sandbox.process import Launch, ServerProcess
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

POSTGRES = PostgresServer("127.0.0.1", 5432, "vbackup", "secret word", version="16.14")
QDRANT = QdrantServer(("http://127.0.0.1:6333",), "1.17.0", "an api key")
LAUNCH = Launch("postgres", "PostgreSQL 16", ("postgres", "-D", "/d"), "/", {}, "/log")
S3 = S3Server("http://127.0.0.1:9000", "vbackup", "id", "a secret key")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, State(owner=this_process(), request={"s3": "True"}))
    ledger.started(ServerProcess(LAUNCH, 12, "boot/34"))
    ledger.outside(Path("/var/tmp/x"))
    ledger.complete(POSTGRES, QDRANT, S3)
    assert read_state(tmp_path) == ledger.state
    assert ledger.state.complete


def test_every_step_is_on_disk_at_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, State())
    ledger.started(ServerProcess(LAUNCH, 12, "boot/34"))
    found = read_state(tmp_path)
    assert found is not None
    assert [each.pid for each in found.processes] == [12]
    assert not found.complete


def test_a_second_attempt_takes_the_place_of_the_first(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, State())
    ledger.started(ServerProcess(LAUNCH, 12, "boot/34"))
    ledger.started(ServerProcess(LAUNCH, 13, "boot/35"))
    assert [each.pid for each in ledger.state.processes] == [13]


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    Ledger(tmp_path, State()).complete(POSTGRES, None, None)
    assert stat.S_IMODE((tmp_path / STATE_FILE).stat().st_mode) == 0o600


def test_no_secret_is_in_any_repr() -> None:
    shown = repr(State(postgres=POSTGRES, qdrant=QDRANT, s3=S3))
    assert "secret" not in shown.replace("secret_access_key", "")
    assert "an api key" not in shown


def test_no_state_file_is_no_sandbox(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    assert read_state(tmp_path / "none") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": [{"name": 1}]}'])
def test_a_damaged_state_file_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(Failed, match=r"is not a sandbox state file"):
        read_state(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_state_file_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    Ledger(tmp_path, State(outside=("/precious",)))
    os.chown(tmp_path / STATE_FILE, 12345, 12345)
    with pytest.raises(Failed, match="belongs to another user"):
        read_state(tmp_path)


def test_a_later_version_may_add_fields(tmp_path: Path) -> None:
    Ledger(tmp_path, State())
    state = json.loads((tmp_path / STATE_FILE).read_text())
    (tmp_path / STATE_FILE).write_text(json.dumps(state | {"new": 1}))
    assert read_state(tmp_path) is not None


def test_only_one_works_on_a_directory_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(Locked) as caught, locked(tmp_path):
            pass
        assert caught.value.retryable
    with locked(tmp_path):
        pass


def test_a_directory_that_was_removed_meanwhile_is_busy(tmp_path: Path) -> None:
    with pytest.raises(Locked), locked(tmp_path / "gone"):
        pass


def test_empty_removes_everything_and_follows_no_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    sandbox = tmp_path / "sandbox"
    (sandbox / "deep" / "er").mkdir(parents=True)
    (sandbox / "link").symlink_to(elsewhere)
    Ledger(sandbox, State())
    empty(sandbox)
    assert list(sandbox.iterdir()) == []
    assert (elsewhere / "kept").exists()


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none")


def test_a_dsn_quotes_what_a_url_would_misread() -> None:
    server = PostgresServer("h", 1, "us@er", "p/w:d", version="18.4", query="sslmode=require")
    assert server.dsn("my db") == "postgresql://us%40er:p%2Fw%3Ad@h:1/my%20db?sslmode=require"
    assert server.major == 18
