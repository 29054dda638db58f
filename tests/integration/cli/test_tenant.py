"""`restore --tenant`: one customer's rows and points come back beside the pair, nobody else's."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import httpx
import psycopg
import pytest

from vbackup.sandbox.servers import PostgresServer, QdrantServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
Run = Callable[..., Any]

SCHEMA = """
CREATE TABLE countries (code text PRIMARY KEY);
CREATE TABLE tenants (
    id text PRIMARY KEY, country text REFERENCES countries, plan text DEFAULT 'free'
);
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
    tenant text NOT NULL REFERENCES tenants ON DELETE CASCADE
);
CREATE TABLE folders (id int PRIMARY KEY, parent int REFERENCES folders, name text);
CREATE TABLE documents (
    id bigint PRIMARY KEY, owner text NOT NULL REFERENCES tenants, version int NOT NULL,
    folder int REFERENCES folders, body text, length int GENERATED ALWAYS AS (length(body)) STORED,
    touched int NOT NULL DEFAULT 0
);
CREATE TABLE chunks (
    id uuid PRIMARY KEY, document bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
    version int NOT NULL
);
CREATE TABLE likes (
    document bigint REFERENCES documents ON DELETE CASCADE, "user" bigint REFERENCES users,
    PRIMARY KEY (document, "user")
);
CREATE TABLE notes (id int PRIMARY KEY, document bigint REFERENCES documents ON DELETE SET NULL);
CREATE TABLE orders (id int, customer text, region text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE orders_eu PARTITION OF orders FOR VALUES IN ('eu');
CREATE TABLE orders_us PARTITION OF orders FOR VALUES IN ('us');
CREATE TABLE audit (id int PRIMARY KEY, secret text);
CREATE TABLE "Odd ""Name" (id int PRIMARY KEY, "For" text);
CREATE MATERIALIZED VIEW owners AS SELECT owner, count(*) FROM documents GROUP BY owner;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END';
CREATE TRIGGER touching BEFORE INSERT OR UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE ring_a (id int PRIMARY KEY, b int, tenant text);
CREATE TABLE ring_b (id int PRIMARY KEY, a int REFERENCES ring_a);
ALTER TABLE ring_a ADD FOREIGN KEY (b) REFERENCES ring_b;
"""
DATA = """
INSERT INTO countries VALUES ('de'), ('fr'), ('us');
INSERT INTO tenants VALUES ('acme', 'de'), ('globex', 'fr'), ('empty', 'us');
INSERT INTO users (name, tenant) VALUES
    ('ann', 'acme'), ('bob', 'acme'), ('gus', 'globex'), ('guy', 'globex');
INSERT INTO folders VALUES (1, NULL, 'root'), (2, 1, 'shared'), (3, 1, 'unused');
INSERT INTO documents (id, owner, version, folder, body)
    SELECT n, CASE WHEN n % 3 = 0 THEN 'acme' ELSE 'globex' END, 1,
           CASE WHEN n % 2 = 0 THEN 2 END, repeat('x', n)
    FROM generate_series(1, 30) n;
INSERT INTO likes VALUES (3, 1), (3, 3), (6, 4), (2, 3);
INSERT INTO notes VALUES (1, 3), (2, 1);
INSERT INTO orders SELECT n, CASE WHEN n % 2 = 0 THEN 'acme' ELSE 'globex' END,
    CASE WHEN n % 4 < 2 THEN 'eu' ELSE 'us' END FROM generate_series(1, 20) n;
INSERT INTO audit SELECT n, 'of everybody' FROM generate_series(1, 50) n;
INSERT INTO "Odd ""Name" VALUES (1, 'acme'), (2, 'globex');
INSERT INTO ring_b VALUES (1, NULL), (2, NULL);
INSERT INTO ring_a VALUES (1, 1, 'acme'), (2, 2, 'globex');
UPDATE ring_b SET a = id;
SELECT lo_from_bytea(0, 'picture');
REFRESH MATERIALIZED VIEW owners;
"""


def uid(document: int, chunk: int) -> str:
    return str(uuid5(NAMESPACE_URL, f"{document}/{chunk}"))


@dataclass(frozen=True)
class App:
    """An application with several customers in one database and two collections."""

    dsn: str
    http: httpx.Client
    prefix: str
    config: Path
    server: PostgresServer

    def sql(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        dsn = psycopg.conninfo.make_conninfo(self.dsn, **({"dbname": database} if database else {}))
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def fill(self) -> None:
        self.sql(SCHEMA)
        self.sql(DATA)
        for name in ("documents", "chunks"):
            body = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 2}
            self.call("PUT", f"/collections/{self.prefix}{name}", body)
        self.call("PUT", f"/collections/{self.prefix}chunks/index",
                  {"field_name": "document", "field_schema": "integer"})  # fmt: skip
        for number in range(1, 31):
            owner = "acme" if number % 3 == 0 else "globex"
            self.put("documents", number, [number, 1], {"version": 1, "owner": owner})
            for chunk in range(2):
                self.sql(f"INSERT INTO chunks VALUES ('{uid(number, chunk)}', {number}, 1)")
                self.put("chunks", uid(number, chunk), [number, chunk],
                         {"version": 1, "document": number})  # fmt: skip

    def put(self, name: str, point: Any, vector: list[float], payload: dict[str, Any]) -> None:
        points = [{"id": point, "vector": vector, "payload": payload}]
        path = f"/collections/{self.prefix}{name}/points?wait=true"
        self.call("PUT", path, {"points": points})

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = self.http.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def points(self, name: str) -> dict[Any, Any]:
        body = {"limit": 1000, "with_payload": True, "with_vector": True}
        page = self.call("POST", f"/collections/{name}/points/scroll", body)
        return {point["id"]: (point["vector"], point["payload"]) for point in page["points"]}

    def everything(self) -> tuple[Any, ...]:
        """Rows and points of the live pair."""
        tables = ("tenants", "users", "folders", "documents", "chunks", "likes", "orders", "audit")
        rows = [sorted(self.sql(f"SELECT t::text FROM {t} t")) for t in tables]
        return rows, self.points(f"{self.prefix}documents"), self.points(f"{self.prefix}chunks")

    def names(self) -> tuple[set[str], set[str]]:
        """Databases and collections that belong to this test."""
        listed = self.call("GET", "/collections")["collections"]
        own = psycopg.conninfo.conninfo_to_dict(self.dsn)["dbname"]
        databases = self.sql(f"SELECT datname FROM pg_database WHERE datname LIKE '{own}%'")
        mine = {c["name"] for c in listed if c["name"].startswith(self.prefix)}
        return {name for (name,) in databases}, mine


@pytest.fixture
def app(
    database: str, postgres_server: PostgresServer, qdrant_server: QdrantServer,
    collection_prefix: str, connections: Callable[[str], str], tmp_path: Path,
) -> Iterator[App]:  # fmt: skip
    headers = {"api-key": qdrant_server.api_key} if qdrant_server.api_key else {}
    config = tmp_path / "vbackup.toml"
    config.write_text(
        f"""
{connections(f"{collection_prefix}*")}
[repository]
url = "{(tmp_path / "repository").as_uri()}"
encryption = "none"
[watermark]
lead_in = "0s"
max_index_lag = "0s"
[[link]]
name = "documents"
collection = "{collection_prefix}documents"
rows = [{{ table = "public.documents", key = "id", version = "version", tenant = "owner" }}]
point = {{ ref = "id", version = "payload:version", tenant = "payload:owner" }}
[[link]]
name = "chunks"
collection = "{collection_prefix}chunks"
rows = [{{ table = "chunks", key = "id", version = "version" }}]
point = {{ ref = "id", version = "payload:version" }}
"""
    )
    with httpx.Client(base_url=qdrant_server.url, headers=headers, timeout=60) as client:
        found = App(database, client, collection_prefix, config, postgres_server)
        found.fill()
        yield found
        for name in found.names()[0] - {psycopg.conninfo.conninfo_to_dict(database)["dbname"]}:
            found.sql(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def backed_up(app: App, vb: Run) -> App:
    assert vb("init", "--config", str(app.config)).code == 0
    done = vb("backup", "--config", str(app.config), "--json")
    assert done.code == 0, done.err
    return app


def restored(app: App, vb: Run, *arguments: str, code: int = 0) -> Any:
    done = vb("restore", "latest", "--config", str(app.config), "--json", *arguments)
    assert done.code == code, done.err + done.out
    return done.json


def test_only_the_tenant_comes_back_and_nothing_live_changes(backed_up: App, vb: Run) -> None:
    app = backed_up
    # The mistake, and what happened since.
    app.sql("DELETE FROM documents WHERE owner = 'acme'")
    app.sql("UPDATE documents SET version = 2 WHERE id = 1")
    app.put("documents", 1, [9, 9], {"version": 2, "owner": "globex"})
    before = app.everything()
    done = restored(
        app, vb, "--tenant", "acme",
        "--tenant-table", "orders=customer", "--tenant-table", "users=tenant",
        "--tenant-table", '"Odd ""Name"="For"', "--tenant-table", "ring_a=tenant",
    )  # fmt: skip
    assert app.everything() == before
    name = done["database"]

    def rows(query: str) -> list[Any]:
        return [row[0] for row in app.sql(query, name)]

    mine = list(range(3, 31, 3))
    assert rows("SELECT id FROM documents ORDER BY 1") == mine
    assert rows("SELECT DISTINCT owner FROM documents") == ["acme"]
    assert rows("SELECT length FROM documents ORDER BY 1") == mine
    assert set(rows("SELECT touched FROM documents")) == {1}
    assert len(rows("SELECT id FROM chunks")) == 20
    # Who liked them is needed, and what these refer to; the third of each is not.
    assert rows("SELECT id FROM tenants ORDER BY 1") == ["acme", "globex"]
    assert rows("SELECT code FROM countries ORDER BY 1") == ["de", "fr"]
    assert rows("SELECT id FROM folders ORDER BY 1") == [1, 2]
    # Likes belong to the documents that are liked; nothing else of who liked them comes along.
    assert app.sql('SELECT document, "user" FROM likes ORDER BY 1, 2', name) == [
        (3, 1), (3, 3), (6, 4),
    ]  # fmt: skip
    assert rows("SELECT name FROM users ORDER BY 1") == ["ann", "bob", "gus", "guy"]
    assert rows("SELECT id FROM notes") == []
    assert set(rows("SELECT customer FROM orders")) == {"acme"}
    assert len(rows("SELECT id FROM orders_eu")) == 5
    assert rows("SELECT id FROM audit") == []
    assert rows('SELECT id FROM "Odd ""Name"') == [1]
    assert rows("SELECT owner FROM owners") == ["acme"]
    assert (rows("SELECT id FROM ring_a"), rows("SELECT a FROM ring_b")) == ([1], [1])
    assert rows("SELECT count(*) FROM pg_largeobject_metadata") == [0]
    assert any("large objects" in warning for warning in done["warnings"])

    # The schema is whole: constraints, triggers, identities.
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        app.sql("INSERT INTO chunks VALUES (gen_random_uuid(), 1, 1)", name)
    app.sql("UPDATE documents SET version = 5 WHERE id = 3", name)
    assert rows("SELECT touched FROM documents WHERE id = 3") == [2]
    app.sql("UPDATE documents SET version = 1 WHERE id = 3", name)
    app.sql("INSERT INTO users (name, tenant) VALUES ('new', 'acme')", name)

    documents = app.points(done["collections"][f"{app.prefix}documents"])
    assert documents == {i: ([i, 1.0], {"version": 1, "owner": "acme"}) for i in mine}
    chunks = app.points(done["collections"][f"{app.prefix}chunks"])
    assert set(chunks) == {uid(i, c) for i in mine for c in range(2)}
    info = app.call("GET", f"/collections/{done['collections'][app.prefix + 'chunks']}")
    assert "document" in info["payload_schema"]
    assert done["points"] == {f"{app.prefix}documents": 10, f"{app.prefix}chunks": 20}
    assert done["reconcile"]["clean"]
    assert [link["rows"] for link in done["reconcile"]["links"]] == [10, 20]
    kept = {table["table"]: table for table in done["tables"]}
    assert (kept["public.documents"]["own"], kept["public.chunks"]["belonging"]) == (10, 20)
    assert kept["public.users"]["referenced"] == 2
    # Only what was promised is there.
    databases, collections = app.names()
    assert databases == {name, psycopg.conninfo.conninfo_to_dict(app.dsn)["dbname"]}
    assert collections == {
        *done["collections"], *done["collections"].values(),
    }  # fmt: skip


def test_the_plan_changes_nothing(backed_up: App, vb: Run) -> None:
    before = backed_up.names()
    plan = restored(backed_up, vb, "--tenant", "acme", "--plan")
    assert plan["plan"]
    assert [t["table"] for t in plan["tenant_tables"]] == ["public.documents"]
    actions = [step["action"] for step in plan["steps"]]
    assert any("remove what is not tenant acme's" in action for action in actions)
    assert "table chunks of link 'chunks' says no tenant" in plan["warnings"][0]
    assert backed_up.names() == before


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("--tenant", "nobody"), 5, "no rows of tenant 'nobody'"),
    (("--tenant", "acme", "--tenant-table", "absent=x"), 5, "absent does not exist"),
    (("--tenant", "acme", "--tenant-table", "owners=owner"), 4, "no table with rows"),
    (("--tenant", "acme", "--tenant-table", "audit=absent"), 2, "absent"),
    (("--tenant", "acme", "--tenant-table", "audit"), 2, "TABLE=COLUMN"),
    (("--tenant", "acme", "--only", "qdrant"), 2, "--only qdrant"),
    (("--tenant-table", "audit=x"), 2, "goes with --tenant"),
]


def test_what_cannot_be_done_leaves_nothing(backed_up: App, vb: Run) -> None:
    names, before = backed_up.names(), backed_up.everything()
    for arguments, code, said in REFUSED:
        done = vb("restore", "latest", "--config", str(backed_up.config), *arguments)
        assert done.code == code, done.err
        assert said in done.err
        assert backed_up.names() == names, arguments
        assert backed_up.everything() == before, arguments


def test_only_the_rows(backed_up: App, vb: Run) -> None:
    done = restored(backed_up, vb, "--tenant", "globex", "--only", "postgres")
    assert done["collections"] == {}


def test_rows_by_a_query_need_their_tables_named(backed_up: App, vb: Run) -> None:
    text = backed_up.config.read_text()
    query = (
        'rows = [{ sql = "SELECT id AS key, version, owner AS tenant FROM documents" }]\n'
        'point = { ref = "id", version = "payload:version" }'
    )
    start = text.index('rows = [{ table = "public.documents"')
    end = text.index('[[link]]\nname = "chunks"')
    backed_up.config.write_text(text[:start] + query + "\n" + text[end:])
    assert vb("backup", "--config", str(backed_up.config)).code == 0
    done = vb("restore", "latest", "--config", str(backed_up.config), "--tenant", "acme")
    assert done.code == 4
    assert "--tenant-table" in done.err
    found = restored(backed_up, vb, "--tenant", "acme", "--tenant-table", "documents=owner")
    assert found["points"][f"{backed_up.prefix}documents"] == 10
    assert found["reconcile"]["clean"]


def test_a_row_without_its_point_is_listed(app: App, vb: Run, tmp_path: Path) -> None:
    app.call("POST", f"/collections/{app.prefix}documents/points/delete?wait=true",
             {"points": [3, 1]})  # fmt: skip
    assert vb("init", "--config", str(app.config)).code == 0
    assert vb("backup", "--config", str(app.config)).code == 0
    todo = tmp_path / "todo.jsonl"
    done = restored(app, vb, "--tenant", "acme", "--reembed", str(todo))
    assert [json.loads(line)["key"] for line in todo.read_text().splitlines()] == ["3"]
    assert done["reembed"]["count"] == 1
    assert restored(
        app, vb, "--tenant", "acme", "--collection-suffix", "_again", "--database", "again_" +
        app.prefix, "--strict", code=3,
    )["reembed"]["count"] == 1  # fmt: skip
    app.sql(f'DROP DATABASE "again_{app.prefix}"')


# ---------------------------------------------------------------- in place


NAMED = ("--tenant-table", "orders=customer", "--tenant-table", "users=tenant")


def mistake(app: App) -> None:
    """The customer deletes everything; the application follows, and life goes on."""
    gone = [n for n in range(3, 31, 3) if n != 30]
    app.sql("DELETE FROM documents WHERE owner = 'acme' AND id <> 30")
    app.sql("DELETE FROM orders WHERE customer = 'acme'")
    app.sql("DELETE FROM folders WHERE id = 3")
    app.call("POST", f"/collections/{app.prefix}documents/points/delete?wait=true",
             {"points": gone})  # fmt: skip
    app.call("POST", f"/collections/{app.prefix}chunks/points/delete?wait=true",
             {"points": [uid(n, chunk) for n in gone for chunk in range(2)]})  # fmt: skip
    # What is left of them was edited; others were edited, added and deleted.
    app.sql("UPDATE documents SET version = 2, body = 'edited' WHERE id = 30")
    app.put("documents", 30, [7, 7], {"version": 2, "owner": "acme"})
    app.sql("UPDATE documents SET version = 2 WHERE id = 1")
    app.put("documents", 1, [9, 9], {"version": 2, "owner": "globex"})
    app.sql("INSERT INTO documents (id, owner, version) VALUES (100, 'globex', 1)")
    app.put("documents", 100, [1, 1], {"version": 1, "owner": "globex"})
    app.sql("DELETE FROM documents WHERE id = 2")
    app.call("POST", f"/collections/{app.prefix}documents/points/delete?wait=true", {"points": [2]})
    app.call("POST", f"/collections/{app.prefix}chunks/points/delete?wait=true",
             {"points": [uid(2, 0), uid(2, 1)]})  # fmt: skip
    app.sql("UPDATE users SET name = 'renamed' WHERE name = 'gus'")


def others(app: App) -> tuple[Any, ...]:
    """Everything that is not the customer's."""
    tables = {
        "documents": "owner <> 'acme'", "users": "tenant <> 'acme'", "orders": "customer <> 'acme'",
        "tenants": "true", "audit": "true", "countries": "true", "notes": "true",
        "chunks": "document % 3 > 0", "likes": "document % 3 > 0",
    }  # fmt: skip
    rows = [
        sorted(app.sql(f"SELECT t::text, t.xmin::text FROM {table} t WHERE {where}"))
        for table, where in tables.items()
    ]
    documents = app.points(f"{app.prefix}documents")
    chunks = app.points(f"{app.prefix}chunks")
    return (
        rows,
        {key: found for key, found in documents.items() if found[1]["owner"] != "acme"},
        {key: found for key, found in chunks.items() if found[1]["document"] % 3},
    )


def test_in_place_brings_the_tenant_back_and_touches_nobody_else(
    backed_up: App, vb: Run, tmp_path: Path
) -> None:
    app = backed_up
    before_rows = app.sql("SELECT * FROM documents WHERE owner = 'acme' ORDER BY id")
    before_points = (app.points(f"{app.prefix}documents"), app.points(f"{app.prefix}chunks"))
    orders = sorted(app.sql("SELECT * FROM orders WHERE customer = 'acme'"))
    likes = sorted(app.sql("SELECT * FROM likes WHERE document % 3 = 0"))
    mistake(app)
    everybody = others(app)
    names = app.names()
    refused = vb("restore", "latest", "--config", str(app.config), "--tenant", "acme", "--in-place")
    assert refused.code == 4
    assert "--yes" in refused.err
    done = restored(app, vb, "--tenant", "acme", "--in-place", "--yes", *NAMED)
    assert others(app) == everybody
    assert app.names() == names

    # The trigger counts every write, the first one among them: that is said.
    after = app.sql("SELECT * FROM documents WHERE owner = 'acme' ORDER BY id")
    assert [row[:-1] for row in after] == [row[:-1] for row in before_rows]
    assert sorted(app.sql("SELECT * FROM orders WHERE customer = 'acme'")) == orders
    assert sorted(app.sql("SELECT * FROM likes WHERE document % 3 = 0")) == likes
    assert len(app.sql("SELECT id FROM chunks WHERE document % 3 = 0")) == 20
    documents, chunks = app.points(f"{app.prefix}documents"), app.points(f"{app.prefix}chunks")
    assert {k: v for k, v in documents.items() if v[1]["owner"] == "acme"} == {
        k: v for k, v in before_points[0].items() if v[1]["owner"] == "acme"
    }
    assert {k: v for k, v in chunks.items() if v[1]["document"] % 3 == 0} == {
        k: v for k, v in before_points[1].items() if v[1]["document"] % 3 == 0
    }
    told = done["in_place"]
    tables = {table["table"]: table for table in told["tables"]}
    assert (tables["public.documents"]["inserted"], tables["public.documents"]["updated"]) == (9, 1)
    assert tables["public.documents"]["altered"] == 10
    assert tables["public.orders"]["inserted"] == 10
    assert "public.countries" in tables
    assert tables["public.countries"]["inserted"] == 0
    assert (told["reembed"], told["reconcile"]["clean"]) == (0, True)

    # What was overwritten, and what was inserted, can be undone from the file.
    lines = [json.loads(line) for line in Path(told["rows_file"]).read_text().splitlines()]
    (edited,) = [line["overwritten"] for line in lines if "overwritten" in line]
    assert (edited["id"], edited["body"]) == (30, "edited")
    assert {"table": "public.documents", "inserted": {"id": "3"}} in lines
    assert Path(told["points_file"]).exists()
    assert Path(told["rows_file"]).stat().st_mode & 0o777 == 0o600
    # A second time there is nothing to do, but for what the trigger counts. What somebody has
    # extracted to look at it does not stand in the way.
    looked_at = restored(app, vb, "--tenant", "acme", *NAMED)
    app.sql("UPDATE documents SET touched = 1 WHERE owner = 'acme'")
    again = restored(app, vb, "--tenant", "acme", "--in-place", "--yes", *NAMED)["in_place"]
    assert again["points"] == 0
    assert others(app) == everybody
    kept = {looked_at["database"]}, set(looked_at["collections"].values())
    assert [after - before for after, before in zip(app.names(), names, strict=True)] == [*kept]


def test_in_place_refuses_what_would_hurt_somebody(backed_up: App, vb: Run) -> None:
    app = backed_up

    def refused(said: str, code: int = 4) -> str:
        before = app.everything()
        command = ("restore", "latest", "--config", str(app.config), "--tenant", "acme")
        done = vb(*command, "--in-place", "--yes", *NAMED)
        assert done.code == code, done.err
        assert said in done.err
        assert app.everything() == before
        assert not list(app.config.parent.glob("vbackup-overwritten-*"))
        (kept,) = app.names()[0] - {psycopg.conninfo.conninfo_to_dict(app.dsn)["dbname"]}
        assert kept in done.err
        app.sql(f'DROP DATABASE "{kept}"')
        for name in app.names()[1]:
            if "restored" in name:
                assert name in done.err
                app.call("DELETE", f"/collections/{name}")
        return str(done.err)

    # A key that is another customer's by now.
    app.sql("UPDATE documents SET owner = 'globex' WHERE id = 3")
    refused("another's now")
    app.sql("UPDATE documents SET owner = 'acme', version = 1 WHERE id = 3")
    # A name that is taken by a new row.
    app.sql("DELETE FROM users WHERE name = 'bob'")
    app.sql("CREATE UNIQUE INDEX ON users (name)")
    app.sql("INSERT INTO users (name, tenant) VALUES ('bob', 'globex')")
    refused("users_name_idx")
    app.sql("DELETE FROM users WHERE name = 'bob'")
    # Who liked a document of theirs is gone, and is not theirs to bring back.
    app.sql('DELETE FROM likes WHERE "user" = 4')
    app.sql("DELETE FROM users WHERE id = 4")
    refused("another tenant's, and gone")
    # A migration since the backup.
    app.sql("ALTER TABLE orders ADD note text")
    refused("other columns")


def test_in_place_goes_where_it_is_configured_only(backed_up: App, vb: Run) -> None:
    command = ("restore", "latest", "--config", str(backed_up.config), "--tenant", "acme")
    elsewhere = vb(*command, "--in-place", "--yes", "--postgres", "postgresql://x/y")
    assert elsewhere.code == 2
    assert "no --postgres" in elsewhere.err


def test_in_place_beside_writers(backed_up: App, vb: Run) -> None:
    """Other customers' rows and points are changed all the while, and keep every change; the
    customer adds documents, which stay."""
    app = backed_up
    mistake(app)
    ledger = dict(app.sql("SELECT id, version FROM documents WHERE owner <> 'acme'"))
    stop = threading.Event()

    def work() -> int:
        chance, written = random.Random(7), 0
        with psycopg.connect(app.dsn, autocommit=True) as connection:
            while not stop.wait(0.005):
                number = chance.choice(sorted(ledger))
                ledger[number] += 1
                connection.execute(
                    "UPDATE documents SET version = %s WHERE id = %s", (ledger[number], number)
                )
                payload = {"version": ledger[number], "owner": "globex"}
                app.put("documents", number, [number, written % 7 + 1], payload)
                written += 1
                if written % 20 == 0:
                    new = 1000 + written
                    connection.execute(
                        "INSERT INTO documents (id, owner, version) VALUES (%s, 'acme', 1)", (new,)
                    )
                    app.put("documents", new, [1, 1], {"version": 1, "owner": "acme"})
        return written

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(work)
        try:
            done = restored(app, vb, "--tenant", "acme", "--in-place", "--yes", *NAMED)
        finally:
            stop.set()
        written = writing.result()
    assert written > 20
    rows = dict(app.sql("SELECT id, version FROM documents WHERE owner <> 'acme'"))
    assert rows == ledger
    points = app.points(f"{app.prefix}documents")
    versions = {key: payload["version"] for key, (_, payload) in points.items()}
    assert {number: versions[number] for number in ledger} == ledger
    mine = dict(app.sql("SELECT id, version FROM documents WHERE owner = 'acme'"))
    assert {number for number in mine if number < 1000} == set(range(3, 31, 3))
    assert len(mine) == 10 + written // 20
    assert {number: versions[number] for number in mine} == mine
    assert done["in_place"]["reembed"] == 0


def test_vectors_in_the_database_come_with_their_rows(
    database: str, postgres_server: PostgresServer, tmp_path: Path, vb: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Without Qdrant: the vectors refer to the rows, and so belong to the tenant."""
    monkeypatch.setenv("APP_DSN", database)
    bin_dir = f'bin_dir = "{postgres_server.bin_dir}"' if postgres_server.bin_dir else ""
    config = tmp_path / "vbackup.toml"
    config.write_text(
        f"""
[postgres]
dsn = "${{env:APP_DSN}}"
{bin_dir}
[vectors]
engine = "pgvector"
[repository]
url = "{(tmp_path / "repository").as_uri()}"
encryption = "none"
[[link]]
name = "pages"
rows = [{{ table = "pages", key = "id", version = "version", tenant = "owner" }}]
vectors = {{ table = "embeddings", key = "page", column = "v", version = "version" }}
"""
    )

    def sql(statement: str, name: str | None = None) -> list[tuple[Any, ...]]:
        dsn = psycopg.conninfo.make_conninfo(database, **({"dbname": name} if name else {}))
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    sql("CREATE EXTENSION vector")
    sql("CREATE TABLE pages (id int PRIMARY KEY, owner text, version int)")
    sql(
        "CREATE TABLE embeddings (page int PRIMARY KEY REFERENCES pages ON DELETE CASCADE,"
        " version int, v vector(2))"
    )
    sql(
        "INSERT INTO pages SELECT n, (ARRAY['acme', 'globex'])[n % 2 + 1], 1"
        " FROM generate_series(1, 20) n"
    )
    sql("INSERT INTO embeddings SELECT id, 1, format('[%s, 1]', id)::vector FROM pages")
    assert vb("init", "--config", str(config)).code == 0
    assert vb("backup", "--config", str(config)).code == 0
    before = sql("SELECT * FROM embeddings ORDER BY 1")
    sql("DELETE FROM pages WHERE owner = 'acme'")
    command = ("restore", "latest", "--config", str(config), "--json", "--tenant", "acme")
    beside = vb(*command)
    assert beside.code == 0, beside.err
    assert beside.json["reconcile"]["links"][0]["points"] == 10
    assert len(sql("SELECT * FROM embeddings", beside.json["database"])) == 10
    sql(f'DROP DATABASE "{beside.json["database"]}"')
    back = vb(*command, "--in-place", "--yes")
    assert back.code == 0, back.err
    assert back.json["in_place"]["reconcile"]["clean"]
    assert sql("SELECT * FROM embeddings ORDER BY 1") == before
