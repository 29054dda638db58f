"""What a person types, from an empty folder to a restored pair, on real servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from vbackup.engine import apply
from vbackup.errors import Failed
from vbackup.postgres.target import PostgresTarget

pytestmark = pytest.mark.integration

Run = Callable[..., Any]
ROWS = 300


@pytest.fixture
def backed_up(vb: Run, config_file: Path) -> str:
    """The id of a backup of the whole pair."""
    assert vb("init").code == 0
    shown = vb("backup", "--tag", "env=test", "--json")
    assert shown.code == 0, shown.err
    return str(shown.json["id"])


@contextmanager
def dropped_afterwards(pair: Any, database: str) -> Iterator[None]:
    try:
        yield
    finally:
        with psycopg.connect(pair.dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
            )


# ---------------------------------------------------------------- check


def test_check_is_green_and_writes_nothing_that_lasts(
    vb: Run, pair: Any, config_file: Path, tmp_path: Path
) -> None:
    vb("init")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    shown = vb("check", "--json")
    assert (shown.code, shown.json["ok"]) == (0, True), shown.err
    assert {check["status"] for check in shown.json["checks"]} == {"ok"}
    names = [check["name"] for check in shown.json["checks"]]
    assert {"postgres", "client tools", "privileges", "tables", "qdrant", "repository"} <= set(
        names
    )
    sampled = next(c for c in shown.json["checks"] if c["name"] == "link documents")
    assert sampled["found"] == f"{ROWS} of {ROWS} sampled references have their row"
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    origins = {origin["key"]: origin for origin in shown.json["origins"]}
    assert origins["postgres.dsn"]["source"] == "env APP_DSN"
    password = psycopg.conninfo.conninfo_to_dict(pair.dsn).get("password")
    assert not password or str(password) not in shown.out


def test_check_says_everything_that_is_wrong_at_once(
    vb: Run, pair: Any, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(
        text.replace(pair.qdrant.base_url.netloc.decode(), "127.0.0.1:9"), encoding="utf-8"
    )
    monkeypatch.setenv("APP_DSN", "postgresql://nobody:sesame-open@127.0.0.1:9/app")
    (config_file.parent / "passphrase").write_text("a passphrase for nothing", encoding="utf-8")
    shown = vb("check", "--json")
    failed = {c["name"]: c for c in shown.json["checks"] if c["status"] == "failed"}
    assert shown.code == 4
    assert failed.keys() == {"postgres", "qdrant", "repository"}
    assert "vbackup init" in failed["repository"]["advice"]
    assert "sesame-open" not in shown.out + shown.err


def test_a_link_to_the_wrong_column_is_a_warning(vb: Run, pair: Any, config_file: Path) -> None:
    vb("init")
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(text.replace('key = "id"', 'key = "body"'), encoding="utf-8")
    shown = vb("check", "--json")
    warned = {c["name"]: c["found"] for c in shown.json["checks"] if c["status"] == "warning"}
    assert shown.code == 0
    assert warned["link documents"].startswith("0 of ")
    assert "rows of documents" in warned  # no index begins with the key


def test_a_role_that_may_not_read_is_told_so(vb: Run, pair: Any, config_file: Path) -> None:
    vb("init")
    pair.sql("ALTER TABLE documents ENABLE ROW LEVEL SECURITY")
    shown = vb("check", "--json")
    assert shown.code == 0  # a superuser sees all rows


# ---------------------------------------------------------------- backup


def test_a_backup_document_has_what_scripts_rely_on(vb: Run, pair: Any, config_file: Path) -> None:
    vb("init")
    found = vb("backup", "--tag", "env=test", "--json").json
    assert found["watermark"].keys() >= {"lsn", "snapshot", "at", "strategy"}
    assert found["postgres"].keys() >= {"database", "server_version", "bytes"}
    (collection,) = found["qdrant"]["collections"]
    assert (collection["name"], collection["shards"]) == (pair.collection, 2)
    assert collection["points"] == ROWS
    assert found["patch"].keys() >= {"upserts", "deletes", "reembed"}
    for key in ("writers_paused_ms", "bytes_read", "bytes_uploaded", "chunks_new", "chunks_reused"):
        assert isinstance(found[key], int), key
    assert found["tags"] == {"env": "test"}
    assert found["links"][0]["rows"] == ROWS


def test_a_dry_run_stores_nothing(vb: Run, pair: Any, config_file: Path) -> None:
    vb("init")
    shown = vb("backup", "--dry-run", "--json")
    assert (shown.code, shown.json["dry_run"]) == (0, True)
    assert {row["kind"] for row in shown.json["would_store"]} == {"database", "collection"}
    assert vb("list", "--json").json["backups"] == []


def test_a_backup_that_is_refused_says_why(vb: Run, pair: Any, config_file: Path) -> None:
    vb("init")
    pair.qdrant.delete(f"/collections/{pair.collection}")
    shown = vb("backup", "--json")
    assert (shown.code, shown.json["error"]["name"]) == (5, "not-found")
    assert vb("backup", "--dry-run").code == 4


def test_a_patch_that_a_restore_would_refuse_is_told_by_the_backup(
    vb: Run, pair: Any, config_file: Path, monkeypatch: Any
) -> None:
    """A link that claims too much, found out now and not in the night of the restore."""
    monkeypatch.setattr(apply, "RUNAWAY_FLOOR", 30)
    vb("init")
    assert vb("--json", "backup").json["warnings"] == []

    right = 'version = "version" }'
    wrong = 'version = "version", where = "id <= 100" }'
    config_file.write_text(config_file.read_text().replace(right, wrong, 1))
    told = vb("--json", "backup")
    refused = vb("restore")

    text = f"the patch deletes 200 of 300 points of {pair.collection!r}"
    assert told.code == 0
    assert told.json["warnings"] == [f"{text}: a restore will ask for --force"]
    assert refused.code == 4
    assert "deletes 200 of 300 points" in refused.err


@pytest.mark.parametrize("tag", ["env", "=x"])
def test_a_tag_has_a_name_and_a_value(vb: Run, config_file: Path, tag: str) -> None:
    assert vb("backup", "--tag", tag).code == 2


# ---------------------------------------------------------------- restore


def test_the_plan_changes_nothing(vb: Run, pair: Any, backed_up: str) -> None:
    before = pair.collections()
    shown = vb("restore", "--plan", "--json")
    assert (shown.code, shown.json["plan"], shown.json["id"]) == (0, True, backed_up)
    assert shown.json["steps"][0]["action"] == "create database"
    assert shown.json["bytes"] > 0
    assert pair.collections() == before
    assert "nothing was changed yet" in vb("restore", "--plan").out


def test_a_restore_lands_beside_the_live_pair_and_agrees(
    vb: Run, pair: Any, backed_up: str
) -> None:
    pair.sql("DELETE FROM documents WHERE id <= 100")
    shown = vb("restore", "--json")
    found = shown.json
    with dropped_afterwards(pair, found["database"]):
        assert (shown.code, found["ok"], found["reconcile"]["clean"]) == (0, True, True), shown.err
        assert found["reconcile"]["links"][0]["rows"] == ROWS
        new = found["collections"][pair.collection]
        assert pair.count_points(new) == ROWS
        assert pair.count_rows() == ROWS - 100
        assert found["rto_seconds"] > 0
        assert vb("restore").code == 4  # the names are taken now


def test_a_restored_database_has_statistics(vb: Run, pair: Any, backed_up: str) -> None:
    """A dump has none: until autovacuum came by, every query would be planned blindly."""
    name = vb("restore", "--json").json["database"]
    with dropped_afterwards(pair, name):
        dsn = psycopg.conninfo.make_conninfo(pair.dsn, dbname=name)
        with psycopg.connect(dsn) as connection:
            known = connection.execute("SELECT 1 FROM pg_stats WHERE tablename = 'documents'")
            assert known.fetchone()


def test_a_restore_whose_statistics_fail_leaves_nothing(
    vb: Run,
    pair: Any,
    backed_up: str,
    databases: Callable[[], set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are gathered while the pair is compared, which goes well."""

    def failing(target: PostgresTarget, database: str, report: Any) -> None:
        raise Failed("no space left on device")

    monkeypatch.setattr(PostgresTarget, "analyze", failing)
    before = databases(), pair.collections()
    shown = vb("restore")
    assert shown.code == 1
    assert "no space left on device" in shown.err
    assert (databases(), pair.collections()) == before


def test_a_side_alone(vb: Run, pair: Any, backed_up: str) -> None:
    name = f"{pair.collection}_alone"
    shown = vb("restore", "--only", "qdrant", "--collection-suffix", "_alone", "--json")
    assert (shown.code, shown.json["database"]) == (0, None)
    assert shown.json["reconcile"] is None
    assert pair.count_points(name) == ROWS


def test_rows_without_points_are_listed_and_strict_says_3(
    vb: Run, pair: Any, config_file: Path, tmp_path: Path
) -> None:
    vb("init")
    pair.sql("INSERT INTO documents VALUES (1000, 'new', 7)")
    assert vb("backup", "--json").json["patch"]["reembed"] == 1
    shown = vb("restore", "--strict", "--reembed", "again.jsonl", "--json")
    with dropped_afterwards(pair, shown.json["database"]):
        assert (shown.code, shown.json["reembed"]["count"]) == (3, 1)
        assert shown.json["reconcile"]["clean"]
        line = json.loads((tmp_path / "again.jsonl").read_text(encoding="utf-8"))
        assert (line["key"], line["version"]) == ("1000", "7")


def test_in_place_there_and_back(vb: Run, pair: Any, backed_up: str) -> None:
    pair.sql("DELETE FROM documents WHERE id <= 100")
    assert vb("restore", "--in-place").code == 4  # nobody said yes
    contradiction = vb("restore", "--in-place", "--yes", "--database", "other")
    assert (contradiction.code, "leave out one" in contradiction.err) == (2, True)
    assert pair.count_rows() == ROWS - 100
    shown = vb("restore", "--in-place", "--yes", "--json")
    assert shown.code == 0, shown.err
    switch = shown.json["switch"]
    with dropped_afterwards(pair, switch["kept_database"]):
        assert (pair.count_rows(), pair.count_points()) == (ROWS, ROWS)
        state = switch["go_back"].split()[3]
        assert vb("restore", "--go-back", state, "--drop-old", state).code == 2
        assert vb("restore", "--drop-old", state).code == 4
        assert vb("restore", "--drop-old", state, "--yes").code == 0
        assert switch["kept_collections"][pair.collection] not in pair.collections()
        assert not Path(state).exists()
    assert vb("restore", "--go-back", state, "--yes").code == 5


def test_a_switch_can_be_undone(vb: Run, pair: Any, backed_up: str) -> None:
    pair.sql("DELETE FROM documents WHERE id <= 100")
    switch = vb("restore", "--in-place", "--yes", "--json").json["switch"]
    restored = vb("list", "--json").json["backups"][0]["id"].rpartition("-")[2]
    database = psycopg.conninfo.conninfo_to_dict(pair.dsn)["dbname"]
    with dropped_afterwards(pair, f"{database}_restored_{restored}"):
        assert pair.count_rows() == ROWS
        assert vb(*switch["go_back"].split()[1:]).code == 0
        assert pair.count_rows() == ROWS - 100


def test_no_such_backup(vb: Run, backed_up: str) -> None:
    assert vb("restore", "nonsense", "--plan").code == 5
    assert vb("restore", "--at", "2001-01-01", "--plan").code == 5
    assert vb("restore", "--at", "yesterday", "--plan").code == 2


# ---------------------------------------------------------------- reconcile


def test_reconcile_finds_what_was_broken_and_nothing_else(
    vb: Run, pair: Any, config_file: Path, tmp_path: Path
) -> None:
    assert vb("reconcile", "--json").json["clean"]
    pair.sql("DELETE FROM documents WHERE id <= 2")
    pair.sql("UPDATE documents SET version = 2 WHERE id = 3")
    shown = vb("reconcile", "--output", "found.jsonl", "--junit", "found.xml", "--json")
    (link,) = shown.json["links"]
    assert (shown.code, shown.json["clean"]) == (3, False)
    assert (link["orphans"], link["stale"], link["missing"]) == (2, 1, 0)
    lines = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == ["1", "2", "3"]
    assert 'failures="1"' in (tmp_path / "found.xml").read_text(encoding="utf-8")
    assert "DRIFT 3" in vb("reconcile").out
    limited = vb("reconcile", "--limit", "1", "--output", "one.jsonl", "--json").json
    assert (limited["findings_written"], limited["truncated"]) == (1, True)


def test_reconcile_repairs_what_it_is_told_to(vb: Run, pair: Any, config_file: Path) -> None:
    pair.sql("DELETE FROM documents WHERE id <= 2")
    pair.sql("UPDATE documents SET version = 2 WHERE id = 3")
    assert vb("reconcile", "--repair", "orphans").code == 4
    assert pair.count_points() == ROWS
    first = vb("reconcile", "--repair", "orphans", "--yes", "--json")
    assert (first.code, first.json["repaired"]["deleted"]) == (3, {"orphans": 2})
    assert Path(first.json["repaired"]["removed_file"]).exists()
    assert pair.count_points() == ROWS - 2
    second = vb("reconcile", "--repair", "all", "--yes", "--reembed", "again.jsonl", "--json")
    assert (second.code, second.json["repaired"]["reembed"]) == (0, 1)
    line = json.loads(Path("again.jsonl").read_text(encoding="utf-8"))
    assert (line["key"], line["version"]) == ("3", "2")


def test_vectors_come_back_from_a_backup(
    vb: Run, pair: Any, config_file: Path, backed_up: str
) -> None:
    before = pair.vectors([1, 2, 3, 4, 5])
    pair.sql("UPDATE documents SET version = 2 WHERE id IN (4, 5)")
    pair.remove([1, 2, 3, 4])
    repaired = vb(
        "reconcile", "--repair", "missing,stale", "--from-backup", backed_up,
        "--reembed", "again.jsonl", "--json",
    )  # fmt: skip
    assert (repaired.code, repaired.json["repaired"]["revived"]) == (0, 3), repaired.err
    lines = Path("again.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == ["4", "5"]
    # 4 stays away: the backup has it in a version that its row no longer has.
    assert pair.vectors([1, 2, 3, 4, 5]) == {n: before[n] for n in (1, 2, 3, 5)}
    again = vb("reconcile", "--repair", "missing,stale", "--from-backup", "latest", "--json")
    assert (again.code, again.json["repaired"]["revived"]) == (0, 0)


def test_a_repair_of_nothing_does_nothing(vb: Run, pair: Any, config_file: Path) -> None:
    shown = vb("reconcile", "--repair", "all", "--json")
    assert (shown.code, shown.json["repaired"]["deleted"]) == (0, {})
    assert not list(config_file.parent.glob("vbackup-re*.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--repair", "everything"], 2),
        (["--repair", "orphans", "--backup", "latest"], 2),
        (["--from-backup", "latest"], 2),
        (["--link", "nonsense"], 5),
        (["--output", "no/such/folder/f.jsonl"], 2),
    ],
)
def test_what_reconcile_does_not_do(
    vb: Run, config_file: Path, arguments: list[str], code: int
) -> None:
    assert vb("reconcile", *arguments).code == code


# ---------------------------------------------------------------- verify, offline


def test_a_backup_is_proven_without_servers(
    vb: Run, pair: Any, backed_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APP_DSN")
    shown = vb("verify", "--level", "offline", "--json")
    assert (shown.code, shown.json["ok"]) == (0, True), shown.err
    names = [check["name"] for check in shown.json["checks"]]
    assert "link documents" in names
    compared = vb("reconcile", "--backup", backed_up[:12], "--json")
    assert (compared.code, compared.json["links"][0]["points"]) == (0, ROWS)
