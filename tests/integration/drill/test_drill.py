"""`vbackup verify --level drill` on real servers: what passes, what fails, what is not provable."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from vbackup.config import RepositoryConfig
from vbackup.model.manifest import Artifact, Extension
from vbackup.repository.packs import pack_key
from vbackup.wiring import object_store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# `drills` of conftest.py; a conftest cannot be imported by name among tests.
Drills = Any
Origin = Any


def check(name: str, **keys: object) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": name, **keys}.items()]
    return "\n".join(["[[drill.check]]", *lines, ""])


# ---------------------------------------------------------------- throwaway servers


def test_the_pair_is_restored_proven_and_gone(drills: Drills, tmp_path: Path) -> None:
    drills.configure("", check("rows", sql="SELECT count(*) FROM chunks", expect_min=100))
    # CI keeps this file: the drill of vbackup's own pipeline.
    junit = Path(os.environ.get("VBACKUP_DRILL_JUNIT") or tmp_path / "drill.xml").absolute()
    junit.parent.mkdir(parents=True, exist_ok=True)

    done = drills.run("--junit", str(junit), "--max-age", "26h")

    assert done.code == 0, done.err
    assert done.document["ok"]
    assert 0 < done.document["rto_seconds"] < done.document["seconds"]
    assert done.document["servers"]["PostgreSQL"].startswith(f"{drills.origin.postgres.major}.")
    assert done.document["servers"]["Qdrant"] == drills.origin.qdrant.version
    assert done.document["reconcile"]["clean"]
    assert {"servers", "servers fit", "restore", "link chunks", "rows", "drill age"} <= set(
        done.checks
    )
    # The role that owns a grant is in the globals of the backup, and was created.
    assert done.document["warnings"] == []
    assert JUnitXml.fromfile(str(junit)).failures == 0
    assert drills.opened().backups()[0].verified.level == "drill"


def test_ctrl_c_leaves_no_server(drills: Drills, tmp_path: Path) -> None:
    drills.configure("", check("slow", command=f"touch {tmp_path}/there; exec sleep 600"))
    interrupted(drills, until=lambda _: (tmp_path / "there").exists())


def test_ctrl_c_during_the_restore_leaves_no_server(drills: Drills) -> None:
    drills.configure("")
    interrupted(drills, until=lambda said: "analyze" in said or "upload" in said)


def test_roles_that_the_server_lacks_are_told_apart(drills: Drills) -> None:
    part = drills.origin.manifest.postgres
    dumps = tuple(dump for dump in part.dumps if dump.kind != "globals")
    backup = drills.republish(postgres=replace(part, dumps=dumps))
    drills.configure("")

    done = drills.run(backup)

    assert done.code == 0, done.err
    told = done.checks["owners, privileges, locale"]
    assert (told["ok"], told["state"]) == (True, "not provable here")
    assert drills.origin.role in told["detail"]


def test_a_backup_without_links_says_that_nothing_was_compared(drills: Drills) -> None:
    backup = drills.republish(links=())
    drills.configure(drills.targets)

    done = drills.run(backup)

    assert done.code == 0, done.err
    assert (done.checks["links"]["ok"], done.states("links")) == (True, {"not provable here"})


# ---------------------------------------------------------------- the user's own checks


def test_every_kind_of_check_can_pass(drills: Drills) -> None:
    point, *others = drills.origin.stable
    known = {each["id"] for each in others}
    name = drills.origin.app.name
    nearest = drills.origin.app.store.search(point["vector"], 100)
    near = next(each["id"] for each in nearest if each["id"] in known)
    drills.configure(
        drills.targets,
        "".join(
            [
                check("number", sql="SELECT 40 + 2.0", expect=42),
                check("text", sql="SELECT name FROM users ORDER BY id LIMIT 1", expect="ada"),
                check("truth", sql="SELECT count(*) > 0 FROM chunks", expect=True),
                check("enough", sql="SELECT count(*) FROM chunks", expect_min=100),
                check("vector", collection=name, vector=point["vector"], expect_ids=[point["id"]]),
                check("like", collection=name, like=point["id"], limit=100, expect_ids=[near]),
                check("command", command=_ASKS_BOTH.format(point=point["id"])),
            ]
        ),
    )

    done = drills.run()

    assert done.code == 0, done.err
    assert done.document["points"] == {name: done.document["reconcile"]["links"][0]["points"]}
    assert {done.checks[n]["state"] for n in ("number", "vector", "like", "command")} == {"passed"}


_ASKS_BOTH = """
set -e
python3 - <<'END'
import json, os, urllib.request
(name,) = json.loads(os.environ["VBACKUP_DRILL_COLLECTIONS"]).values()
url = os.environ["VBACKUP_DRILL_QDRANT_URL"] + "/collections/" + name + "/points/{point}"
key = os.environ["VBACKUP_DRILL_QDRANT_API_KEY"]
request = urllib.request.Request(url, headers={{"api-key": key}} if key else {{}})
assert json.load(urllib.request.urlopen(request))["result"]["payload"]
END
case "$VBACKUP_DRILL_DSN" in *"$VBACKUP_DRILL_DATABASE"*) ;; *) exit 5 ;; esac
"""


def test_every_kind_of_check_can_fail(drills: Drills) -> None:
    name = drills.origin.app.name
    size = drills.origin.app.scenario.dimensions
    wrong = {
        "number": check("number", sql="SELECT 41", expect=42),
        "text": check("text", sql="SELECT NULL", expect="ada"),
        "truth": check("truth", sql="SELECT 1", expect=True),
        "enough": check("enough", sql="SELECT count(*) FROM chunks", expect_min=10**9),
        "table": check("table", sql="SELECT count(*) FROM nowhere", expect=1),
        "write": check("write", sql="DELETE FROM chunks RETURNING 1", expect=1),
        "rows": check("rows", sql="SELECT generate_series(1, 2)", expect=1),
        "slow": check("slow", sql="SELECT pg_sleep(60)", expect="", timeout="100ms"),
        "vector": check("vector", collection=name, vector=[0.5] * size, expect_ids=[12345678]),
        "size": check("size", collection=name, vector=[0.5], expect_ids=[1]),
        "like": check("like", collection=name, like=12345678, expect_ids=[1]),
        "collection": check("collection", collection="nothing", like=1, expect_ids=[1]),
        "command": check("command", command="echo it is broken; exit 9"),
        "late": check("late", command="sleep 60", timeout="100ms"),
    }
    drills.configure(
        drills.targets, "".join([*wrong.values(), check("good", sql="SELECT 1", expect=1)])
    )

    done = drills.run()

    assert done.code == 3
    assert {name for name, found in done.checks.items() if not found["ok"]} == wrong.keys()
    assert done.states(*wrong) == {"failed"}
    assert done.checks["good"]["ok"]
    assert done.checks["command"]["detail"] == "exit code 9: it is broken"
    assert not drills.opened().backups()[0].verified.ok


def test_a_command_that_is_not_there_proves_nothing(drills: Drills) -> None:
    drills.configure(drills.targets, check("tool", command="no-such-program-here"))

    done = drills.run()

    assert done.code == 4, done.err
    assert done.states("tool") == {"not provable here"}
    assert drills.opened().backups()[0].verified is None


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("main", "restore"),
        ("globals", "restore"),
        ("shard", "restore"),
        ("rows", "everything else"),
    ],
)
def test_damage_is_found_and_named(drills: Drills, part: str, name: str) -> None:
    manifest = drills.origin.manifest
    artifacts = {dump.kind: dump.artifact for dump in manifest.postgres.dumps}
    artifacts["shard"] = manifest.qdrant.collections[0].shards[0].artifact
    artifacts["rows"] = manifest.rows[0].artifact
    damage(drills, artifacts[part])
    drills.configure(drills.targets)

    done = drills.run()

    assert done.code == 3, done.err
    assert done.states(name) == {"failed"}
    # Shards share chunks: the other one may have met it first.
    assert artifacts[part].name.rpartition("/")[0] in done.checks[name]["detail"]
    assert "damaged" in done.checks[name]["detail"]
    assert not drills.opened().backups()[0].verified.ok


def test_shards_carry_the_hash_that_qdrant_checks(drills: Drills) -> None:
    manifest, repository = drills.origin.manifest, drills.opened()
    for shard in manifest.qdrant.collections[0].shards:
        stored = b"".join(repository.read(shard.artifact))
        assert shard.artifact.sha256 == hashlib.sha256(stored).hexdigest()
    assert {dump.artifact.sha256 for dump in manifest.postgres.dumps} == {""}


def test_a_missing_pack_needs_no_servers_to_be_found(drills: Drills) -> None:
    for pack in (drills.repository / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()
    drills.configure("")

    done = drills.run()

    assert done.code == 3
    assert done.document["damage"]
    assert "servers" not in done.checks


def damage(drills: Drills, artifact: Artifact) -> None:
    """Flip a byte in the middle of what holds the middle of the artifact."""
    repository = drills.opened()
    pieces = list(repository.reader.pieces(artifact))
    (at, *_) = repository.load_catalog().index.find_all(pieces[len(pieces) // 2].chunk)
    store = object_store(RepositoryConfig(url=drills.repository.as_uri(), encryption="none"))
    data = bytearray(store.get(pack_key(at.pack)))
    data[at.offset + at.stored // 2] ^= 0xFF
    store.put(pack_key(at.pack), bytes(data))


# ---------------------------------------------------------------- not provable here


def test_a_missing_extension_is_not_a_damaged_backup(drills: Drills, tmp_path: Path) -> None:
    part = drills.origin.manifest.postgres
    wanted = (*part.facts.extensions, Extension("no_such_extension", "3.4.0", "public"))
    backup = drills.republish(postgres=replace(part, facts=replace(part.facts, extensions=wanted)))
    drills.configure(drills.targets)
    junit = tmp_path / "drill.xml"

    done = drills.run(backup, "--junit", str(junit))

    assert done.code == 4, done.err
    found = done.checks["servers fit"]
    assert (found["ok"], found["state"]) == (False, "not provable here")
    assert "no_such_extension 3.4.0" in found["detail"]
    assert "[drill] postgres" in found["hint"]
    assert "[drill] postgres" in done.err
    suites = JUnitXml.fromfile(str(junit))
    assert (suites.failures, suites.errors) == (0, 1)
    assert drills.opened().load(backup)
    assert all(each.verified is None for each in drills.opened().backups())


def test_a_newer_server_than_any_here_is_not_provable(drills: Drills) -> None:
    part = drills.origin.manifest.postgres
    backup = drills.republish(
        postgres=replace(part, facts=replace(part.facts, server_version_num=990001))
    )
    drills.configure("")

    done = drills.run(backup)

    assert done.code == 4
    assert "no PostgreSQL 99 or newer" in done.checks["servers"]["detail"]


def test_a_target_that_does_not_answer_is_not_provable(drills: Drills) -> None:
    drills.configure('postgres = "postgresql://nobody@127.0.0.1:1/postgres"\n')
    done = drills.run()
    assert done.code == 4
    assert done.states("servers") == {"not provable here"}


def test_the_newest_passed_drill_must_be_young_enough(drills: Drills) -> None:
    drills.configure(drills.targets, check("tool", command="no-such-program-here"))

    never = drills.run("--max-age", "26h")

    assert never.code == 3
    assert never.checks["age"]["ok"]
    assert never.checks["drill age"]["detail"] == "no drill has passed yet"
    drills.configure(drills.targets)
    assert drills.run("--max-age", "26h").code == 0
    drills.configure(drills.targets, check("tool", command="no-such-program-here"))
    assert drills.run("--max-age", "26h").code == 4
    late = drills.run("--max-age", "1ms")
    assert late.code == 3
    assert not late.checks["drill age"]["ok"]


# ---------------------------------------------------------------- interrupted on given servers


def test_ctrl_c_removes_what_is_on_a_given_server(drills: Drills, tmp_path: Path) -> None:
    drills.configure(
        drills.targets, check("slow", command=f"touch {tmp_path}/there; exec sleep 600")
    )
    interrupted(drills, until=lambda _: (tmp_path / "there").exists())


def interrupted(drills: Drills, until: Callable[[str], bool]) -> None:
    """Ctrl-C once it is true of what the drill has said so far; it must end with 130."""
    log = drills.folder / "stderr"
    with log.open("w") as sink, subprocess.Popen(drills.command(), stderr=sink) as running:
        pulse, deadline = threading.Event(), time.monotonic() + 120
        while not until(log.read_text()):
            assert running.poll() is None, log.read_text()
            if time.monotonic() > deadline:
                running.kill()
                pytest.fail(f"it never came there: {log.read_text()}")
            pulse.wait(0.05)
        running.send_signal(signal.SIGINT)
        code = running.wait(timeout=120)
    assert code == 130, log.read_text()
