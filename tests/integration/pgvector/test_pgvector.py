"""Rows and vectors of one database: compared, backed up, restored, on real servers."""

from __future__ import annotations

import threading

import psycopg
import pytest

from vbackup.model.patch import Reembed

pytestmark = pytest.mark.integration


def test_every_kind_of_difference_is_found(documents, apart: bool) -> None:
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
    expected = {
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


def test_a_second_look_confirms_drift_and_forgets_what_healed(documents, apart: bool) -> None:
    documents.row(1)
    documents.row(2)
    documents.vector(2, 7)
    if apart:
        documents.vector(None)
    result = documents.reconcile(confirm=True, max_index_lag=0.0)
    [report] = result.reports
    assert (report.missing, report.ahead, report.no_reference) == (1, 1, int(apart))


def test_a_backup_knows_its_drift_and_a_restore_expects_it(documents, apart: bool) -> None:
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


def test_an_orphan_comes_back_as_drift(documents, apart: bool) -> None:
    if not apart:
        pytest.skip("a column of the row itself has no orphans")
    documents.row(1)
    documents.vector(1)
    documents.vector(2)
    restored = documents.restore(documents.backup())
    assert not restored.clean
    assert restored.reconcile is not None
    assert restored.reconcile.reports[0].orphans == 1


def test_under_writers_rows_and_vectors_are_seen_in_one_snapshot(documents, apart: bool) -> None:
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


def test_a_column_without_vectors_is_refused(documents) -> None:
    from vbackup.errors import Usage

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
def test_all_types_of_vectors(documents, apart: bool, type_: str, value: str) -> None:
    if apart:
        pytest.skip("the type is the same wherever it is")
    documents.run("ALTER TABLE documents DROP COLUMN embedding")
    documents.run(f"ALTER TABLE documents ADD COLUMN embedding {type_}")
    documents.row(1)
    documents.row(2)
    documents.run(
        f"UPDATE documents SET embedding = '{value}'::{type_}, embedded = 1 WHERE id = 1"
    )
    [report] = documents.reconcile().reports
    assert (report.points, report.missing, report.warnings) == (1, 1, [])



def test_composite_text_keys_and_several_vectors_a_row(documents, apart: bool) -> None:
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
