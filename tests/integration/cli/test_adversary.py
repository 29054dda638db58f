"""Bad luck around a switch: what is gone, what stopped half way, what is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from vbackup.cli.main import run
from vbackup.engine.restore import Restore
from vbackup.engine.switch import Switch
from vbackup.errors import Unreachable
from vbackup.postgres.target import PostgresTarget
from vbackup.qdrant.target import QdrantTarget
from vbackup.repository.repository import Repository

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Run = Callable[..., Any]
ROWS = 300


class Server:
    """The databases of the pair's server, seen from outside of the pair."""

    def __init__(self, dsn: str) -> None:
        self.live = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
        self._dsn = psycopg.conninfo.make_conninfo(dsn, dbname="postgres")

    def databases(self) -> dict[str, bool]:
        """Those of the pair, and whether they take sessions."""
        with psycopg.connect(self._dsn) as connection:
            rows = connection.execute("SELECT datname, datallowconn FROM pg_database").fetchall()
        return {name: opened for name, opened in rows if name.startswith(self.live[:30])}

    def drop(self, name: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def close(self, name: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name))
            )

    def rename(self, name: str, new: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(name), sql.Identifier(new)
                )
            )


@pytest.fixture
def server(pair: Any) -> Iterator[Server]:
    found = Server(pair.dsn)
    yield found
    for name in found.databases():
        if name != found.live:
            found.drop(name)


@pytest.fixture
def backed_up(vb: Run, config_file: Path) -> str:
    assert vb("init").code == 0
    shown = vb("backup", "--json")
    assert shown.code == 0, shown.err
    return str(shown.json["id"])


def copies(pair: Any) -> set[str]:
    """Collections of this pair beside the live one."""
    return {name for name in pair.collections() if name.startswith(f"{pair.collection}_")}


def states(config_file: Path) -> list[Path]:
    return sorted(config_file.parent.glob("vbackup-switch-*.json"))


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def fail(*_: object, **__: object) -> None:
    raise Unreachable("the server is gone")


def test_in_place_of_a_dropped_database_and_back(
    vb: Run, pair: Any, server: Server, backed_up: str
) -> None:
    server.drop(server.live)
    shown = vb("restore", "--in-place", "--yes", "--json")
    assert shown.code == 0, shown.err
    assert pair.count_rows() == ROWS
    switch = shown.json["switch"]
    assert switch["kept_database"] is None
    assert vb(*switch["go_back"].split()[1:]).code == 0
    assert server.live not in server.databases()
    assert vb(*switch["drop_old"].split()[1:]).code == 0
    assert server.databases() == {}
    assert copies(pair) == set()
    assert vb("restore", "--in-place", "--yes").code == 0
    assert pair.count_rows() == ROWS


def test_in_place_of_a_lost_collection(vb: Run, pair: Any, server: Server, backed_up: str) -> None:
    pair.qdrant.delete(f"/collections/{pair.collection}")
    shown = vb("restore", "--in-place", "--yes", "--json")
    assert shown.code == 0, shown.err
    assert shown.json["switch"]["kept_collections"] == {pair.collection: None}
    assert pair.count_points() == ROWS


@pytest.mark.parametrize(("mishap", "code"), [(stop, 130), (fail, 1)])
@pytest.mark.parametrize("where", ["keep", "swap"])
def test_a_switch_that_changed_nothing_leaves_nothing(
    vb: Run, pair: Any, server: Server, backed_up: str, config_file: Path,
    monkeypatch: pytest.MonkeyPatch, where: str, mishap: Any, code: int,
) -> None:  # fmt: skip
    with monkeypatch.context() as broken:
        if where == "keep":
            broken.setattr("vbackup.engine.switch.Switch.copy", mishap)
        else:
            broken.setattr(PostgresTarget, "swap", mishap)
        shown = vb("restore", "--in-place", "--yes", "--json")
    assert (shown.code, shown.json["ok"]) == (code, False)
    assert server.databases() == {server.live: True}
    assert copies(pair) == set()
    assert states(config_file) == []
    assert vb("restore", "--in-place", "--yes").code == 0


def test_what_could_not_be_dropped_can_be_later(
    vb: Run, pair: Any, server: Server, backed_up: str, config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Qdrant died while live collections were copied: nobody can drop the copies."""
    with monkeypatch.context() as broken:
        broken.setattr(PostgresTarget, "swap", fail)
        broken.setattr(QdrantTarget, "drop", fail)
        shown = vb("restore", "--in-place", "--yes")
    (state,) = states(config_file)
    assert (shown.code, f"vbackup restore --drop-old {state} --yes" in shown.err) == (1, True)
    again = vb("restore")
    assert (again.code, f"vbackup restore --drop-old {state}" in again.err) == (4, True)
    assert vb("restore", "--drop-old", str(state), "--yes").code == 0
    assert (server.databases(), copies(pair)) == ({server.live: True}, set())
    assert vb("restore", "--in-place", "--yes").code == 0


@pytest.mark.parametrize(
    ("mishap", "code"),
    [(stop, 130), (fail, 1), (lambda *_, **__: Path("/proc/none").write_text(""), 1)],
)
def test_a_switch_that_stopped_half_way_says_the_way_back(
    vb: Run, pair: Any, server: Server, backed_up: str, config_file: Path,
    monkeypatch: pytest.MonkeyPatch, mishap: Any, code: int,
) -> None:  # fmt: skip
    pair.sql("DELETE FROM documents WHERE id <= 100")
    with monkeypatch.context() as broken:
        finish = Restore.finish

        def once_live(self: Restore, plan: Any, result: Any) -> None:
            if plan.database == server.live:
                mishap()
            finish(self, plan, result)

        broken.setattr(Restore, "finish", once_live)
        shown = vb("restore", "--in-place", "--yes", "--json")
    assert shown.code == code
    (state,) = states(config_file)
    assert shown.json["error"]["hint"] == f"go back with: vbackup restore --go-back {state} --yes"
    # The way back fails in its middle as well, and is taken again.
    with monkeypatch.context() as broken:
        broken.setattr("vbackup.engine.switch.Switch.copy", mishap)
        assert vb("restore", "--go-back", str(state), "--yes").code == code
    assert pair.count_rows() == ROWS - 100
    assert vb("restore", "--go-back", str(state), "--yes").code == 0
    assert (pair.count_rows(), pair.count_points()) == (ROWS - 100, ROWS)
    assert vb("restore", "--go-back", str(state), "--yes").code == 4
    assert vb("restore", "--drop-old", str(state), "--yes").code == 0
    assert (set(server.databases()), copies(pair)) == ({server.live}, set())
    assert vb("restore", "--in-place", "--yes").code == 0


def test_the_way_back_opens_a_database_that_a_crash_left_closed(
    vb: Run, pair: Any, server: Server, backed_up: str, config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """PostgreSQL died in the middle of the rename, and nobody could ask it what is true."""
    with monkeypatch.context() as broken:

        def crash(self: PostgresTarget, live: str, restored: str, keep_as: str) -> None:
            server.close(live)
            broken.setattr(PostgresTarget, "exists", fail)
            fail()

        broken.setattr(PostgresTarget, "swap", crash)
        shown = vb("restore", "--in-place", "--yes", "--json")
    (state,) = states(config_file)
    assert str(state) in shown.json["error"]["hint"]
    assert server.databases()[server.live] is False
    assert vb("restore", "--go-back", str(state), "--yes").code == 0
    assert (pair.count_rows(), pair.count_points()) == (ROWS, ROWS)
    assert vb("restore", "--drop-old", str(state), "--yes").code == 0
    assert (server.databases(), copies(pair)) == ({server.live: True}, set())


def test_two_at_once_are_one(vb: Run, pair: Any, server: Server, backed_up: str) -> None:
    """The second would keep copies of what the first has half filled."""
    codes: list[int] = []
    keep = Switch.keep

    def meanwhile(switch: Switch, state: Any) -> None:
        codes.append(run(["restore", "--in-place", "--yes"]))
        keep(switch, state)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Switch, "keep", meanwhile)
        shown = vb("restore", "--in-place", "--yes")
    assert (shown.code, codes) == (0, [6])
    assert "switch lease" in shown.err
    assert len(copies(pair)) == len(server.databases()) - 1 == 1


def test_who_may_not_hold_a_lease_may_restore_in_place(
    vb: Run, pair: Any, server: Server, backed_up: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Repository, "lease", fail)
    shown = vb("restore", "--in-place", "--yes")
    assert shown.code == 0
    assert "nothing keeps others from a restore in place" in shown.err


def test_twice_in_a_row_keeps_both(vb: Run, pair: Any, server: Server, backed_up: str) -> None:
    first = vb("restore", "--in-place", "--yes", "--json").json["switch"]
    second = vb("restore", "--in-place", "--yes", "--json").json["switch"]
    assert first["state"] != second["state"]
    assert {first["kept_database"], second["kept_database"], server.live} == set(server.databases())


def test_a_long_database_name_comes_back_whole(
    vb: Run, pair: Any, server: Server, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL cuts names after 63 bytes: then a copy would not be found under its own."""
    long = (server.live + "_" + "x" * 63)[:63]
    server.rename(server.live, long)
    try:
        monkeypatch.setenv("APP_DSN", psycopg.conninfo.make_conninfo(pair.dsn, dbname=long))
        assert vb("init").code == 0
        assert vb("backup").code == 0
        switch = vb("restore", "--in-place", "--yes", "--json").json["switch"]
        assert set(server.databases()) == {long, switch["kept_database"]}
        assert vb(*switch["go_back"].split()[1:]).code == 0
        assert vb(*switch["drop_old"].split()[1:]).code == 0
        assert set(server.databases()) == {long}
    finally:
        server.rename(long, server.live)


def test_an_alias_that_is_right_is_no_warning(
    vb: Run, pair: Any, server: Server, config_file: Path
) -> None:
    alias = {"collection_name": pair.collection, "alias_name": f"alias_{pair.collection}"}
    pair.qdrant.post("/collections/aliases", json={"actions": [{"create_alias": alias}]})
    assert vb("init").code == 0
    assert vb("backup").code == 0
    shown = vb("restore", "--in-place", "--yes", "--json")
    assert (shown.code, shown.json["warnings"]) == (0, []), shown.err
    gone = {"alias_name": alias["alias_name"]}
    pair.qdrant.post("/collections/aliases", json={"actions": [{"delete_alias": gone}]})


@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "stopped half way"])
def test_a_collection_of_another_shape_keeps_its_alias_there_and_back(
    vb: Run, pair: Any, server: Server, backed_up: str, config_file: Path, monkeypatch: Any,
    stopped: bool,
) -> None:  # fmt: skip
    """It was made anew with other vectors since the backup, and has to be made anew both ways."""
    path, alias = f"/collections/{pair.collection}", f"alias_{pair.collection}"
    pair.qdrant.delete(path)
    pair.qdrant.put(path, json={"vectors": {"size": 7, "distance": "Dot"}}).raise_for_status()
    point = {"id": 1, "vector": [1.0] * 7, "payload": {"version": 9}}
    pair.qdrant.put(f"{path}/points", params={"wait": "true"}, json={"points": [point]})
    action = {"create_alias": {"collection_name": pair.collection, "alias_name": alias}}
    pair.qdrant.post("/collections/aliases", json={"actions": [action]}).raise_for_status()

    def aliased() -> int:
        answer = pair.qdrant.post(f"/collections/{alias}/points/count", json={"exact": True})
        return int(answer.raise_for_status().json()["result"]["count"])

    with monkeypatch.context() as broken:
        if stopped:
            broken.setattr(Switch, "alias_again", fail)
        shown = vb("restore", "--in-place", "--yes")
    assert shown.code == (1 if stopped else 0), shown.err
    if not stopped:
        assert aliased() == ROWS
    (state,) = states(config_file)
    assert vb("restore", "--go-back", str(state), "--yes").code == 0
    assert aliased() == 1
    assert pair.vectors([1]) == {1: [1.0] * 7}
    assert vb("restore", "--drop-old", str(state), "--yes").code == 0


def test_the_live_names_are_not_taken_while_they_live(
    vb: Run, pair: Any, server: Server, backed_up: str
) -> None:
    before = pair.collections()
    names = ("--database", server.live, "--collection-suffix", "")
    shown = vb("restore", *names, "--json")
    assert (shown.code, shown.json["error"]["name"]) == (4, "refused")
    assert (pair.count_rows(), pair.count_points()) == (ROWS, ROWS)
    assert pair.collections() == before


@pytest.mark.parametrize(
    "step",
    ["vbackup.qdrant.target.await_replicas", "vbackup.qdrant.collections.create_indexes"],
    ids=["never active", "no index"],
)
def test_a_collection_that_did_not_become_whole_is_dropped_again(
    vb: Run, pair: Any, server: Server, backed_up: str, monkeypatch: Any, step: str
) -> None:
    """It is there, and its creation has failed: a lost member never gets its share."""
    with monkeypatch.context() as broken:
        broken.setattr(step, fail)
        assert vb("restore").code == 1
    assert (set(server.databases()), copies(pair)) == ({server.live}, set())
    assert vb("restore").code == 0


def test_a_restore_that_one_side_fails_leaves_nothing(
    vb: Run, pair: Any, server: Server, backed_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(QdrantTarget, "recover", fail)
        assert vb("restore").code == 1
    assert (set(server.databases()), copies(pair)) == ({server.live}, set())
    assert vb("restore").code == 0
