"""list, show, pin, unpin, unlock, key, prune and verify, over a real repository in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import pytest

from vbackup import wiring
from vbackup.config import DrillConfig
from vbackup.errors import Refused
from vbackup.model.manifest import Manifest
from vbackup.model.patch import Reembed
from vbackup.ports import Clock, LeaseName
from vbackup.repository.repository import Repository
from vbackup.settings import load_repository

Run = Callable[..., Any]
Store = Callable[..., Manifest]

OLD, NEW = "20261122T110000Z-aaaaaa", "20261123T110000Z-bbbbbb"


@pytest.fixture
def two(stored: Store) -> tuple[Manifest, Manifest]:
    """An old backup and one of an hour ago."""
    new = stored(NEW, tags={"env": "prod"})
    old = stored(OLD, at=new.created_at - timedelta(days=1))
    return old, new


# ---------------------------------------------------------------- list


def test_list_is_newest_first(vb: Run, two: object) -> None:
    found = vb("list", "--json").json["backups"]
    assert [backup["id"] for backup in found] == [NEW, OLD]
    assert found[0] == {
        "id": NEW,
        "at": "2026-11-23T11:00:00Z",
        "watermark_at": "2026-11-23T11:00:00Z",
        "tags": {"env": "prod"},
        "pinned": False,
        "encrypted": False,
        "bytes_logical": 11_000,
        "bytes_unique": found[0]["bytes_unique"],
        "verified": None,
    }
    assert found[0]["bytes_unique"] > 0


def test_list_for_people(vb: Run, two: object) -> None:
    lines = vb("list").out.splitlines()
    assert lines[0].split() == ["ID", "TAKEN", "SIZE", "OWN", "VERIFIED", "TAGS"]
    assert NEW in lines[1]
    assert "(1 h ago)" in lines[1]
    assert "never" in lines[1]
    assert lines[1].endswith("env=prod")
    assert "(1 d ago)" in lines[2]


def test_list_of_none_says_what_to_do(vb: Run, config_file: Path) -> None:
    assert "vbackup backup" in vb("list").out


def test_list_can_be_limited(vb: Run, two: object) -> None:
    shown = vb("list", "--limit", "1", "--json").json
    assert ([b["id"] for b in shown["backups"]], shown["total"]) == ([NEW], 2)
    assert "1 older ones not shown" in vb("list", "--limit", "1").out


def test_list_shows_what_cannot_be_read(vb: Run, two: object, tmp_path: Path) -> None:
    manifest = tmp_path / "repository/backups" / OLD / "manifest"
    manifest.chmod(0o600)
    manifest.write_bytes(b"garbage")
    shown = vb("list", "--json")
    broken = next(b for b in shown.json["backups"] if b["id"] == OLD)
    assert (shown.code, bool(broken["unreadable"])) == (0, True)
    assert "unreadable: " in vb("list").out


def test_list_needs_no_database_settings(vb: Run, two: object, config_file: Path) -> None:
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(
        text.replace("postgresql://app:sesame-open@db.example/app", "${env:GONE}")
    )
    assert vb("list").code == 0
    assert vb("check").code == 2


# ---------------------------------------------------------------- show


def test_show_is_the_whole_backup(vb: Run, two: object) -> None:
    shown = vb("show", "--json").json
    assert (shown["schema"], shown["id"]) == ("vbackup.show/1", NEW)
    assert shown["watermark"]["lsn"] == "0/16B3748"
    assert shown["qdrant"]["collections"][0]["aliases"] == ["docs"]
    assert [a["name"] for a in shown["artifacts"]] == ["postgres/main", "qdrant/documents/0"]
    plain = vb("show", OLD[:9]).out
    assert f"backup {OLD}" in plain
    assert "0/16B3748" in plain


def test_show_of_nothing_is_not_found(vb: Run, two: object) -> None:
    assert vb("show", "2025").code == 5
    assert vb("show", "2026").code == 5


def test_show_writes_the_rows_to_re_embed(vb: Run, stored: Store, tmp_path: Path) -> None:
    stored(reembed=(Reembed("documents", "7", "3", "acme", "overtaken"),))
    assert vb("show", "--reembed", "rows.jsonl").code == 0
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"link": "documents", "key": "7", "version": "3", "tenant": "acme", "reason": "overtaken"}
    ]


# ---------------------------------------------------------------- pin, prune


def test_a_pinned_backup_outlives_the_policy(vb: Run, two: object, config_file: Path) -> None:
    config_file.write_text(
        config_file.read_text(encoding="utf-8") + "[retention]\nkeep_last = 1\nkeep_daily = 0\n"
        "keep_weekly = 0\nkeep_monthly = 0\n",
        encoding="utf-8",
    )
    assert vb("pin", OLD, "--json").json == {
        "schema": "vbackup.pin/1", "ok": True, "id": OLD, "pinned": True
    }  # fmt: skip
    kept = {b["id"]: b["keep"] for b in vb("prune", "--dry-run", "--json").json["backups"]}
    assert kept[OLD]
    assert vb("unpin", OLD).code == 0
    assert not vb("list", "--json").json["backups"][1]["pinned"]


def test_prune_says_what_goes_and_why(vb: Run, stored: Store, config_file: Path) -> None:
    for number in range(3):
        at = datetime.fromisoformat("2026-11-23T10:00:00Z") - timedelta(minutes=number)
        stored(f"20261123T10000{number}Z-00000{number}", at=at)
    config_file.write_text(
        config_file.read_text(encoding="utf-8")
        + "[retention]\nkeep_last = 1\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n",
        encoding="utf-8",
    )
    planned = vb("prune", "--dry-run", "--json").json
    assert (planned["dry_run"], len(planned["removed"])) == (True, 2)
    assert len(vb("list", "--json").json["backups"]) == 3
    assert "no rule keeps it" in vb("prune").out
    assert len(vb("list", "--json").json["backups"]) == 1


# ---------------------------------------------------------------- verify


@pytest.mark.parametrize("level", ["manifest", "chunks"])
def test_a_good_backup_passes(vb: Run, two: object, level: str) -> None:
    shown = vb("verify", "--level", level, "--json")
    assert (shown.code, shown.json["ok"], shown.json["id"]) == (0, True, NEW)
    assert {"name", "ok", "detail", "seconds"} <= shown.json["checks"][0].keys()
    verified = vb("list", "--json").json["backups"][0]["verified"]
    assert verified == {"level": level, "at": "2026-11-23T12:00:00Z", "ok": True}


def damage_packs(folder: Path) -> None:
    for pack in (folder / "repository/packs").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            data = bytearray(pack.read_bytes())
            data[len(data) // 3] ^= 0xFF
            pack.write_bytes(data)


def test_a_damaged_backup_is_a_finding(vb: Run, two: object, tmp_path: Path) -> None:
    damage_packs(tmp_path)
    shown = vb("verify", "--json", "--junit", "v.xml")
    assert (shown.code, shown.json["ok"]) == (3, False)
    assert shown.json["damage"]
    assert f"vbackup: {shown.json['error']['message']}" in shown.err
    suite = ET.parse(tmp_path / "v.xml").getroot()[0]
    assert int(suite.attrib["failures"]) > 0
    assert vb("list", "--json").json["backups"][0]["verified"]["ok"] is False


def test_an_old_backup_fails_but_is_not_called_bad(vb: Run, two: object) -> None:
    assert vb("verify", "--max-age", "26h").code == 0
    shown = vb("verify", "--max-age", "30m", "--level", "manifest")
    assert shown.code == 3
    assert "age" in shown.err
    assert vb("list", "--json").json["backups"][0]["verified"]["ok"] is True


def test_a_sample_goes_with_chunks_only(vb: Run, two: object) -> None:
    assert vb("verify", "--sample", "50%").code == 0
    assert vb("verify", "--sample", "50%", "--level", "manifest").code == 2
    assert vb("verify", "--sample", "lots").code == 2


def test_a_lost_index_is_rebuilt(vb: Run, two: object, tmp_path: Path) -> None:
    for entry in (tmp_path / "repository/index").iterdir():
        entry.unlink()
    shown = vb("verify", "--repair-index", "--json")
    assert shown.code == 0
    assert shown.json["checks"][0]["name"] == "repair index"
    assert list((tmp_path / "repository/index").iterdir())


# ---------------------------------------------------------------- unlock


def test_a_misspelt_lease_is_not_taken_for_a_free_one(vb: Run, config_file: Path) -> None:
    told = vb("unlock", "wrtier")
    assert told.code == 2
    assert "no lease is called 'wrtier'" in told.err
    assert "writer, pruner" in told.err


def test_the_help_of_unlock_names_every_lease(vb: Run) -> None:
    told = vb("unlock", "--help").out
    assert [name for name in get_args(LeaseName) if name not in told] == []


def test_unlock_of_nothing(vb: Run, config_file: Path) -> None:
    assert vb("unlock", "--json").json == {
        "schema": "vbackup.unlock/1", "ok": True, "removed": [], "kept": []
    }  # fmt: skip


def test_a_living_holder_keeps_its_lease_unless_forced(
    vb: Run, config_file: Path, clock: Clock
) -> None:
    repository = wiring.open_repository(load_repository(config_file), clock)
    with repository.lease("writer"):
        shown = vb("unlock", "--yes")
        assert shown.code == 6
        assert "writer lease held by pid" in shown.err
        assert vb("unlock", "--force").code == 4
        assert len(vb("unlock", "--force", "--yes", "--json").json["removed"]) == 1
        assert repository.holders() == []


# ---------------------------------------------------------------- key


@pytest.fixture
def encrypted(vb: Run, tmp_path: Path) -> None:
    vb("init", "--postgres", "dbname=app")
    (tmp_path / "other").write_text("another long passphrase\n", encoding="utf-8")


def keys(vb: Run) -> dict[str, dict[str, Any]]:
    return {key["id"]: key for key in vb("key", "list", "--json").json["keys"]}


def test_passphrases_come_and_go(vb: Run, encrypted: None) -> None:
    added = vb("key", "add", "--passphrase-file", "other", "--label", "the vault", "--json").json
    assert added["key"]["label"] == "the vault"
    assert len(keys(vb)) == 2
    assert [key["in_use"] for key in keys(vb).values()].count(True) == 1
    assert vb("key", "remove", added["key"]["id"]).code == 0
    assert len(keys(vb)) == 1
    assert "in use" in vb("key", "list").out


def test_the_added_passphrase_opens_the_repository(
    vb: Run, encrypted: None, tmp_path: Path
) -> None:
    vb("key", "add", "--passphrase-file", "other")
    (tmp_path / "vbackup.passphrase").write_text("another long passphrase", encoding="utf-8")
    assert vb("list").code == 0
    (tmp_path / "vbackup.passphrase").write_text("a wrong passphrase", encoding="utf-8")
    assert vb("list").code == 7


def test_removing_the_passphrase_in_use_needs_a_yes(vb: Run, encrypted: None) -> None:
    used = next(id_ for id_, key in keys(vb).items() if key["in_use"])
    assert vb("key", "remove", used).code == 4
    shown = vb("key", "remove", used, "--yes")
    assert (shown.code, "last passphrase" in shown.err) == (4, True)


def test_a_passphrase_is_never_asked_for_without_a_terminal(vb: Run, encrypted: None) -> None:
    shown = vb("key", "add")
    assert shown.code == 4
    assert "--passphrase-file" in shown.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--passphrase-command", "echo a long passphrase"], 0),
        (["--passphrase-command", "echo short"], 4),
        (["--passphrase-command", "false"], 7),
        (["--passphrase-command", "no-such-program-here"], 7),
        (["--passphrase-command", "echo x", "--passphrase-file", "other"], 2),
        (["--passphrase-file", "missing"], 2),
    ],
)
def test_where_a_passphrase_comes_from(
    vb: Run, encrypted: None, arguments: list[str], code: int
) -> None:
    assert vb("key", "add", *arguments).code == code


def test_an_open_repository_has_no_passphrases(vb: Run, config_file: Path) -> None:
    assert "not encrypted" in vb("key", "list").out
    (config_file.parent / "other").write_text("another long passphrase\n", encoding="utf-8")
    assert vb("key", "add", "--passphrase-file", "other").code == 4


# ---------------------------------------------------------------- what is wrong


def test_no_repository_is_not_found(vb: Run, config_file: Path, tmp_path: Path) -> None:
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(text.replace("/repository", "/elsewhere"), encoding="utf-8")
    for command in (["list"], ["show"], ["verify"], ["prune"], ["unlock"], ["pin", "x"]):
        shown = vb(*command)
        assert shown.code == 5, command
        assert "hint: vbackup init" in shown.err


# ---------------------------------------------------------------- reading beside a prune


@pytest.fixture
def old_one_goes(stored: Store, config_file: Path) -> None:
    """Two backups and a policy that keeps the newer one."""
    new = stored(NEW)
    alone = (Reembed("documents", "7", "3", "acme", "overtaken"),)
    stored(OLD, at=new.created_at - timedelta(days=1), reembed=alone)
    config_file.write_text(
        config_file.read_text(encoding="utf-8")
        + "[retention]\nkeep_last = 1\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n",
        encoding="utf-8",
    )


@pytest.mark.usefixtures("old_one_goes")
def test_prune_deletes_at_once_unless_told_to_wait(vb: Run) -> None:
    at_once = vb("prune", "--json").json
    assert at_once["removed"] == [OLD]
    assert (at_once["packs_deleted"] > 0, at_once["packs_waiting"]) == (True, 0)


@pytest.mark.usefixtures("old_one_goes")
def test_prune_waits_before_it_deletes_and_says_so(vb: Run, config_file: Path) -> None:
    with config_file.open("a", encoding="utf-8") as file:
        file.write('delete_after = "1d"\n')
    waiting = vb("prune", "--json").json
    assert (waiting["removed"], waiting["packs_deleted"]) == ([OLD], 0)
    assert waiting["packs_waiting"] > 0
    assert waiting["bytes_waiting"] > 0
    assert "prune --now" in vb("prune").out
    at_once = vb("prune", "--now", "--json").json
    assert (at_once["packs_deleted"] > 0, at_once["packs_waiting"]) == (True, 0)


@pytest.mark.usefixtures("old_one_goes")
def test_a_backup_that_is_read_is_shown_by_prune_and_unlock(
    vb: Run, config_file: Path, clock: Clock
) -> None:
    repository = wiring.open_repository(load_repository(config_file), clock)
    with repository.reading(OLD):
        shown = vb("prune", "--now", "--json").json
        (stays,) = [backup for backup in shown["backups"] if backup["id"] == OLD]
        assert stays["keep"]
        assert "being read by pid" in stays["reasons"][0]
        assert vb("unlock", "pruner", "--yes").code == 0
        held = vb("unlock", "--yes")
        assert held.code == 6
        assert f"reader lease of backup {OLD}" in held.err
        forced = vb("unlock", "reader", "--force", "--yes", "--json").json
        assert [entry["backup"] for entry in forced["removed"]] == [OLD]
        assert vb("prune", "--now", "--json").json["removed"] == [OLD]


def test_a_drill_needs_only_the_repository(
    vb: Run, stored: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a configuration it restores into throwaway servers."""
    stored(NEW)
    asked: list[Any] = []

    def drill(config: Any, *_: object) -> Any:
        asked.append(config)
        raise Refused("no servers here")

    monkeypatch.setattr("vbackup.drilling.drill", drill)
    line = ("verify", "--level", "drill", "--repository", f"file://{tmp_path}/repository")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert vb(*line).code == 4
    assert asked == [DrillConfig()]
    assert vb(*line, "--config", "gone.toml").code == 2


@pytest.mark.parametrize(
    "command",
    [("verify", NEW), ("verify", NEW, "--level", "manifest"), ("show", NEW, "--reembed", "r")],
)
def test_commands_that_read_a_backup_hold_its_lease(
    vb: Run, stored: Store, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    stored(NEW, reembed=(Reembed("documents", "7", "3", "acme", "overtaken"),))
    read: list[str] = []
    reading = Repository.reading

    def watched(self: Repository, backup_id: str) -> Any:
        read.append(backup_id)
        return reading(self, backup_id)

    monkeypatch.setattr(Repository, "reading", watched)
    assert vb(*command).code == 0
    assert read == [NEW]
