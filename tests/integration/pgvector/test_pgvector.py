"""Rows and vectors of one database: compared, backed up, restored, on real servers."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from vbackup import restoring, wiring
from vbackup.cli.verification import Verification
from vbackup.clock import SystemClock
from vbackup.errors import Refused, Usage
from vbackup.model.patch import Reembed
from vbackup.progress import SilentReporter

pytestmark = pytest.mark.integration


def test_every_kind_of_difference_is_found(documents: Any, apart: bool) -> None:
    for key in range(10):
        documents.row(key)
        documents.vector(key)
    documents.row(20)  # no vector
    documents.row(21, 5)
    documents.vector(21, 4)
    documents.row(22, 1)
    documents.vector(22, 2)
    documents.row(23, live=False)
    documents.vector(23)
    documents.row(24)
    documents.vector(24, value="[1,2]")
    expected: set[tuple[str, str | None]] = {
        ("missing", "20"), ("stale", "21"), ("ahead", "22"), ("not_live", "23"), ("missing", "24"),
    }  # fmt: skip
    if apart:
        documents.vector(99)
        documents.vector(5)
        documents.vector(None)
        expected |= {("orphan", "99"), ("duplicate", "5"), ("no_reference", None)}
    found = documents.findings()
    assert found.keys() == expected
    assert found["stale", "21"].row_version == "5"
    assert found["stale", "21"].point_version == "4"
    [report] = documents.reconcile().reports
    assert report.warnings == ["1 vector has other dimensions than 3: counted as missing"]
    assert report.rows == 15


def test_a_second_look_confirms_drift_and_forgets_what_healed(documents: Any, apart: bool) -> None:
    documents.row(1)
    documents.row(2)
    documents.vector(2, 7)
    if apart:
        documents.vector(None)
    result = documents.reconcile(confirm=True, max_index_lag=0.0)
    [report] = result.reports
    assert (report.missing, report.ahead, report.no_reference) == (1, 1, int(apart))


def test_a_backup_knows_its_drift_and_a_restore_expects_it(documents: Any, apart: bool) -> None:
    for key in range(50):
        documents.row(key)
        documents.vector(key)
    documents.row(60)
    documents.row(61, 2)
    documents.vector(61, 1)
    backup = documents.backup()
    manifest = backup.manifest
    assert manifest.watermark.exactness == "exact"
    assert manifest.qdrant is None
    assert manifest.patch.reasons == {"unindexed": 2}
    assert [listing.rows for listing in manifest.rows] == [52]
    documents.run("DELETE FROM documents")
    restored = documents.restore(backup)
    assert restored.clean
    assert {line.key for line in restored.applied.reembed} == {"60", "61"}
    assert all(isinstance(line, Reembed) for line in restored.applied.reembed)
    assert restored.reconcile is not None
    [report] = restored.reconcile.reports
    assert (report.rows, report.expected_reembed, report.drift) == (52, 2, 0)


def test_an_orphan_comes_back_as_drift(documents: Any, apart: bool) -> None:
    if not apart:
        pytest.skip("a column of the row itself has no orphans")
    documents.row(1)
    documents.vector(1)
    documents.vector(2)
    restored = documents.restore(documents.backup())
    assert not restored.clean
    assert restored.reconcile is not None
    assert restored.reconcile.reports[0].orphans == 1


def test_under_writers_rows_and_vectors_are_seen_in_one_snapshot(
    documents: Any, apart: bool
) -> None:
    """Row and vector change in one transaction: any difference would be one of snapshots."""
    for key in range(200):
        documents.row(key)
        documents.vector(key)
    stop, rounds = threading.Event(), threading.Semaphore(0)

    def write() -> None:
        with psycopg.connect(documents.dsn, autocommit=True) as connection:
            version = 1
            while not stop.is_set():
                version += 1
                with connection.transaction():
                    connection.execute("UPDATE documents SET version = %s", (version,))
                    if apart:
                        connection.execute("UPDATE embeddings SET version = %s", (version,))
                    else:
                        connection.execute("UPDATE documents SET embedded = %s", (version,))
                rounds.release()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            assert rounds.acquire(timeout=30)
            assert documents.reconcile().clean
        backup = documents.backup()
    finally:
        stop.set()
        writer.join()
    assert backup.manifest.patch.reembed == 0
    assert backup.reports[0].clean


def test_a_column_without_vectors_is_refused(documents: Any) -> None:
    vectors = {"column": "version"}
    documents.links = [documents.link(vectors=vectors)]
    with pytest.raises(Usage, match="holds no vectors"):
        documents.reconcile()


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("halfvec", "[1,2,3]"),
        ("vector(3)", "[1,2,3]"),
        ("sparsevec", "{1:1,3:2}/3"),
        ("bit varying", "101"),
    ],
)
def test_all_types_of_vectors(documents: Any, apart: bool, type_: str, value: str) -> None:
    if apart:
        pytest.skip("the type is the same wherever it is")
    documents.run("ALTER TABLE documents DROP COLUMN embedding")
    documents.run(f"ALTER TABLE documents ADD COLUMN embedding {type_}")
    documents.row(1)
    documents.row(2)
    documents.run(f"UPDATE documents SET embedding = '{value}'::{type_}, embedded = 1 WHERE id = 1")
    [report] = documents.reconcile().reports
    assert (report.points, report.missing, report.warnings) == (1, 1, [])


def test_composite_text_keys_and_several_vectors_a_row(documents: Any, apart: bool) -> None:
    if not apart:
        pytest.skip("one column holds one vector")
    documents.run("CREATE TABLE pages (site text, path text, n int, PRIMARY KEY (site, path))")
    documents.run("CREATE TABLE parts (site text, path text, v vector(3))")
    documents.run("INSERT INTO pages VALUES ('a', '/', 2), ('a', '\t\\', 1), ('b', '/', 2)")
    documents.run("INSERT INTO parts VALUES ('a', '/', '[1,2,3]'), ('a', '/', '[1,2,3]')")
    documents.run("INSERT INTO parts VALUES ('a', '\t\\', '[1,2,3]'), ('b', '/', '[1,2,3]')")
    documents.run("INSERT INTO parts VALUES ('c', '/', '[1,2,3]')")
    rows = {"table": "pages", "key": ["site", "path"], "count": "n"}
    vectors = {"table": "parts", "key": ["site", "path"], "column": "v"}
    point = {"cardinality": "many"}
    documents.links = [{"name": "pages", "rows": [rows], "vectors": vectors, "point": point}]
    found = documents.findings()
    assert found.keys() == {("wrong_count", '["b","/"]'), ("orphan", '["c","/"]')}
    assert documents.reconcile(confirm=True, max_index_lag=0.0).reports[0].drift == 2


def test_check_shows_where_vectors_are_and_what_is_wrong(documents: Any, apart: bool) -> None:
    documents.row(1)
    documents.vector(1)
    found = documents.check()
    where = "public.embeddings" if apart else "public.documents"
    vectors = found["vectors of documents"]
    assert vectors.status == "warning"
    assert vectors.found.startswith(f"{where}.embedding, vector, index: none, pgvector 0.")
    assert "every search reads all vectors" in vectors.advice
    assert found["link documents"].found == "1 of 1 sampled references have their row"
    assert found["link documents"].status == "ok"

    documents.run(f"ALTER TABLE {where} ALTER COLUMN embedding TYPE vector(3)")
    documents.run(f"CREATE INDEX ON {where} USING hnsw ((embedding::halfvec(3)) halfvec_l2_ops)")
    vectors = documents.check()["vectors of documents"]
    assert vectors.status == "ok"
    assert vectors.found.startswith(f"{where}.embedding, vector(3), index: hnsw")

    documents.links = [documents.link(vectors={**documents.link()["vectors"], "dimensions": 4})]
    assert "says 4: every vector would" in documents.check()["vectors of documents"].advice


def test_indexes_come_back(documents: Any, apart: bool) -> None:
    where = "embeddings" if apart else "documents"
    documents.run(f"ALTER TABLE {where} ALTER COLUMN embedding TYPE vector(3)")
    documents.run(f"CREATE INDEX nearest ON {where} USING hnsw (embedding vector_l2_ops)")
    documents.run(f"ALTER TABLE {where} SET (parallel_workers = 2)")
    for key in range(20):
        documents.row(key)
        documents.vector(key, value=f"[{key},0,1]")
    assert documents.restore(documents.backup()).clean
    with psycopg.connect(documents.server.dsn(documents.restored)) as connection:
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'nearest'::regclass"
        ).fetchone()
        nearest = connection.execute(
            f"SELECT embedding FROM {where} ORDER BY embedding <-> '[7,0,1]' LIMIT 1"
        ).fetchone()
    assert row == (True,)
    assert nearest == ("[7,0,1]",)


def test_a_drill_proves_rows_and_vectors(documents: Any, apart: bool) -> None:
    for key in range(5):
        documents.row(key)
        documents.vector(key)
    documents.row(6)
    result = documents.drill(documents.backup().manifest.id)
    assert result.proven, [check for check in result.checks if not check.ok]
    assert "link documents" in {check.name for check in result.checks}
    assert result.restored.reconcile.reports[0].expected_reembed == 1


def test_offline_verification_reads_everything(documents: Any, apart: bool) -> None:
    documents.row(1)
    documents.vector(1)
    backup = documents.backup()
    repository = wiring.open_repository(documents.config.repository)
    verification = Verification(repository, SilentReporter(), SystemClock())
    verification.run(backup.manifest.id, "offline", None)
    assert verification.ok
    assert {"offline", "streams"} <= {check.name for check in verification.checks}


def test_commands_say_no_clearly(documents: Any, apart: bool) -> None:
    documents.row(1)
    with pytest.raises(Refused, match="never changes rows"):
        documents.repair()
    with (
        pytest.raises(Usage, match="nothing to restore"),
        restoring.restorer(documents.config, SilentReporter(), SystemClock(), only="qdrant"),
    ):
        pass


def test_a_server_with_an_older_extension_is_refused(documents: Any, apart: bool) -> None:
    manifest = documents.backup().manifest
    newer = replace(
        manifest.postgres,
        facts=replace(
            manifest.postgres.facts,
            extensions=tuple(
                replace(each, version="99.0") if each.name == "vector" else each
                for each in manifest.postgres.facts.extensions
            ),
        ),
    )
    target = wiring.record_target(documents.config)
    [problem] = target.preflight(newer, documents.restored)
    assert problem.startswith("extension vector is 0.")
    assert "the backup has 99.0" in problem


def test_a_restore_in_place_takes_the_live_name(documents: Any, apart: bool) -> None:
    documents.row(1)
    documents.vector(1)
    documents.row(2)
    backup = documents.backup()
    documents.run("DELETE FROM documents")
    assert documents.findings().keys() == ({("orphan", "1")} if apart else set())
    done = documents.restore_in_place(backup)
    assert done.restored.clean
    assert done.restored.applied.reembed
    assert documents.findings().keys() == {("missing", "2")}
