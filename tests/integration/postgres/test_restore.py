"""Restores that go wrong, or nearly: what is a warning, what is a failure, what is left behind."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg
from psycopg import sql

from vbackup.errors import AlreadyExists, Damaged, Failed, NotFound, Refused, Unreachable
from vbackup.model.manifest import DumpArtifact
from vbackup.postgres import properties

pytestmark = pytest.mark.integration


@pytest.fixture
def fresh(target: Callable[..., Any]) -> Iterator[Callable[..., tuple[Any, str]]]:
    """`fresh(server)`: a target and the name of a database that is dropped afterwards."""
    made: list[tuple[Any, str]] = []

    def make(server: Any, **changes: Any) -> tuple[Any, str]:
        made.append((target(server.admin_dsn, **changes), f"test_{secrets.token_hex(6)}"))
        return made[-1]

    yield make
    for writer, name in made:
        writer.drop(name)


@pytest.fixture
def role(postgres_server: Any) -> Iterator[str]:
    """A role on PostgreSQL 16 that no other server has."""
    name = f"Röle {secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        yield name
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def value(dsn: str, query: str | bytes) -> Any:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def backup_of(dsn: str, source: Any, take: Any, **changes: Any) -> Any:
    reader = source(dsn, **changes)
    candidate = reader.candidate([])
    taken = take(reader, candidate)
    candidate.close()
    return taken


def test_roles_that_the_server_does_not_have_are_warnings(
    postgres_servers: Any,
    database: str,
    role: str,
    source: Any,
    take: Any,
    fresh: Any,
    silent: Any,
) -> None:
    execute(
        database,
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g",
        f'ALTER TABLE t OWNER TO "{role}"',
        f'CREATE TABLE u (); GRANT SELECT ON u TO "{role}"; GRANT INSERT ON u TO PUBLIC',
        f'ALTER DEFAULT PRIVILEGES FOR ROLE "{role}" GRANT SELECT ON TABLES TO PUBLIC',
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        f'CREATE POLICY p ON t TO "{role}" USING (true)',
    )
    taken = backup_of(database, source, take)
    execute(database, f'DROP OWNED BY "{role}" CASCADE')
    there = postgres_servers(18)
    writer, name = fresh(there)
    writer.prepare(taken.part, name)
    warnings = writer.load(taken.part, name, taken.open, silent)
    assert all(f'no role "{role}"' in line for line in warnings)
    assert {" ".join(line.split()[:2]) for line in warnings} == {
        "ALTER TABLE",
        "ALTER DEFAULT",
        "CREATE POLICY",
        "GRANT SELECT",
    }
    assert value(there.dsn(name), "SELECT count(*) FROM t") == 10
    # The grants to roles that do exist came through.
    granted = "SELECT has_table_privilege('pg_monitor', 'u', 'INSERT')"
    assert value(there.dsn(name), granted) is True


@pytest.mark.parametrize("large_table", [0, 1 << 40])
def test_a_real_error_fails_with_the_object(
    large_table: int,
    postgres_server: Any,
    database: str,
    source: Any,
    take: Any,
    fresh: Any,
    silent: Any,
) -> None:
    execute(database, "CREATE TABLE taken AS SELECT g FROM generate_series(1, 10) g")
    taken = backup_of(database, source, take, large_table=large_table)
    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)
    execute(postgres_server.dsn(name), "CREATE TABLE taken (x int)")
    with pytest.raises(Failed, match=r'"taken" already exists \(in CREATE TABLE public.taken'):
        writer.load(taken.part, name, taken.open, silent)


@pytest.mark.usefixtures("sessions")
def test_rows_that_break_a_constraint_fail_with_it(
    postgres_server: Any, database: str, source: Any, take: Any, fresh: Any, silent: Any
) -> None:
    execute(
        database,
        "CREATE FUNCTION whim() RETURNS boolean LANGUAGE sql AS"
        " $$ SELECT coalesce(current_setting('v.ok', true), '') = 'yes' $$",
        "SET v.ok = 'yes'; CREATE TABLE t (g int CHECK (whim())); INSERT INTO t VALUES (1)",
    )
    for large_table in (0, 1 << 40):
        taken = backup_of(database, source, take, large_table=large_table)
        writer, name = fresh(postgres_server)
        writer.prepare(taken.part, name)
        with pytest.raises(Failed, match=r'COPY failed for table .*t"?: .*check constraint'):
            writer.load(taken.part, name, taken.open, silent)


@pytest.mark.usefixtures("sessions")
@pytest.mark.parametrize("kind", ["main", "table"])
@pytest.mark.parametrize("how", ["cut", "damaged", "empty"])
def test_a_broken_archive_fails_and_leaves_no_child_behind(
    kind: str,
    how: str,
    postgres_server: Any,
    database: str,
    source: Any,
    take: Any,
    fresh: Any,
    silent: Any,
) -> None:
    execute(
        database,
        "CREATE TABLE t AS SELECT g, repeat(md5(g::text), 40) FROM generate_series(1, 3000) g",
    )
    taken = backup_of(database, source, take, large_table=0)
    closed = []

    def broken(dump: DumpArtifact) -> Iterator[bytes]:
        blocks = taken.data[dump.artifact.name]
        if dump.kind != kind:
            yield from blocks
            return
        try:
            if how != "empty":
                yield blocks[0][: len(blocks[0]) // 2]
            if how == "damaged":
                raise Damaged("the chunk is not what was written")
        finally:
            closed.append(dump.kind)

    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)
    before = threading.active_count()
    with pytest.raises(Damaged if how == "damaged" else Failed):
        writer.load(taken.part, name, broken, silent)
    assert closed == [kind]
    assert threading.active_count() == before
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    assert value(postgres_server.dsn(name), sessions) == 1


@pytest.fixture
def wide(database: str, source: Any, take: Any) -> Any:
    """A backup of one table of 25 MB with a serial key, and its digest."""
    execute(
        database,
        "CREATE TABLE t (id serial PRIMARY KEY, body text);"
        " INSERT INTO t (body) SELECT repeat(md5(g::text), 12) || E'\\n\\\\.\\t' || chr(g % 9 + 1)"
        " FROM generate_series(1, 60000) g",
    )
    return backup_of(database, source, take, large_table=0), value(database, DIGEST)


DIGEST = "SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM t"


@pytest.mark.parametrize("sessions", [3], indirect=True)
def test_several_sessions_fill_a_large_table_nearly_in_its_order(
    sessions: int, wide: Any, postgres_server: Any, fresh: Any, silent: Any
) -> None:
    taken, digest = wide
    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)
    assert writer.load(taken.part, name, taken.open, silent) == []
    writer.analyze(name, silent)

    dsn = postgres_server.dsn(name)
    assert value(dsn, DIGEST) == digest
    assert value(dsn, "SELECT nextval('t_id_seq')") == 60_001
    assert value(dsn, "SELECT count(DISTINCT xmin::text) FROM t") == sessions
    order = "SELECT correlation FROM pg_stats WHERE tablename = 't' AND attname = 'id'"
    assert value(dsn, order) > 0.9


@pytest.mark.parametrize("sessions", [3], indirect=True)
@pytest.mark.usefixtures("sessions")
def test_a_session_that_is_ended_ends_the_restore(
    wide: Any, postgres_server: Any, fresh: Any, silent: Any
) -> None:
    taken, _ = wide
    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)

    def ending(dump: DumpArtifact) -> Iterator[bytes]:
        blocks = [block for whole in taken.data[dump.artifact.name] for block in _cut(whole)]
        yield from blocks[: len(blocks) // 2]
        if dump.kind == "table":
            assert value(postgres_server.admin_dsn, f"{ENDED} datname = '{name}'") == 1
        yield from blocks[len(blocks) // 2 :]

    before = threading.active_count()
    with pytest.raises(Unreachable, match=r"COPY failed for table public\.t"):
        writer.load(taken.part, name, ending, silent)
    assert threading.active_count() == before


ENDED = (
    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
    " WHERE query LIKE 'COPY public.t %' AND state = 'active' LIMIT 1) one, pg_database WHERE"
)


def _cut(block: bytes) -> list[bytes]:
    return [block[at : at + 100_000] for at in range(0, len(block), 100_000)]


def test_preflight_names_every_problem_before_anything_is_created(
    postgres_servers: Any, new_database: Any, source: Any, take: Any, target: Any
) -> None:
    newest = new_database(postgres_servers(18))
    taken = backup_of(newest, source, take)
    old = postgres_servers(16)
    role = f"weak_{secrets.token_hex(4)}"
    execute(old.admin_dsn, f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
    part = replace(
        taken.part,
        client_version="99.1",
        facts=replace(
            taken.part.facts,
            extensions=(
                *taken.part.facts.extensions,
                replace(taken.part.facts.extensions[0], name="pg_nowhere", version="1.2"),
                replace(taken.part.facts.extensions[0], version="99.0"),
                replace(taken.part.facts.extensions[0], name="vector", version="0.1", schema="a"),
            ),
        ),
    )
    weak = psycopg.conninfo.make_conninfo(old.admin_dsn, user=role, password="pw")
    lines = "\n".join(target(weak).preflight(part, "postgres"))
    for words in (
        "the server is PostgreSQL 16, the backup is of PostgreSQL 18",
        "pg_restore is too old for an archive of pg_dump 99",
        'database "postgres" exists already',
        "may not create databases",
        "extension pg_nowhere 1.2 is not installed",
        "extension plpgsql is 1.0 on the server, the backup has 99.0",
        "extension vector can only be created by a superuser",
    ):
        assert words in lines
    execute(old.admin_dsn, f"DROP ROLE {role}")


def test_a_database_that_exists_is_never_prepared_or_touched(
    postgres_server: Any, database: str, source: Any, take: Any, target: Any
) -> None:
    taken = backup_of(database, source, take)
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    writer = target(postgres_server.admin_dsn)
    with pytest.raises(AlreadyExists):
        writer.prepare(taken.part, name)
    with pytest.raises(Refused, match="live"):
        target(database).drop(name)
    assert value(database, "SELECT 1") == 1


def test_a_failed_restore_under_the_lost_databases_own_name_can_be_dropped(
    postgres_server: Any, source: Any, take: Any, target: Any
) -> None:
    name = f"test_{secrets.token_hex(6)}"
    writer = target(postgres_server.dsn(name))
    with pytest.raises(Refused):
        writer.drop(name)
    writer.prepare(backup_of(postgres_server.admin_dsn, source, take).part, name)
    assert value(postgres_server.dsn(name), "SELECT 1") == 1
    writer.drop(name)
    with pytest.raises(psycopg.OperationalError):
        value(postgres_server.dsn(name), "SELECT 1")


def test_a_database_that_is_still_being_created_is_dropped(
    postgres_server: Any, fresh: Any
) -> None:
    """The server goes on creating for a restore that was killed."""
    writer, name = fresh(postgres_server)
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    admin_dsn = postgres_server.admin_dsn
    with (
        psycopg.connect(admin_dsn) as holder,
        psycopg.connect(admin_dsn, autocommit=True) as killed,
        psycopg.connect(admin_dsn, autocommit=True) as eye,
        ThreadPoolExecutor(2) as pool,
    ):
        holder.execute("LOCK TABLE pg_database IN SHARE MODE")
        creating = pool.submit(killed.execute, create)
        while eye.execute(waits, (f"CREATE%{name}%",)).fetchone() != (1,):
            assert not creating.done()
        dropping = pool.submit(writer.drop, name)
        with pytest.raises(pg.AdminShutdown):
            creating.result(timeout=60)
        holder.rollback()
        dropping.result(timeout=60)
        assert eye.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None


def test_a_newer_pg_dump_may_be_used_for_an_older_server(
    postgres_servers: Any, database: str, source: Any, take: Any, fresh: Any, silent: Any
) -> None:
    tools = postgres_servers(18).bin_dir
    execute(database, "CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g")
    taken = backup_of(database, source, take, bin_dir=tools)
    assert taken.part.client_version.startswith("18")
    writer, name = fresh(postgres_servers(16), bin_dir=tools)
    assert writer.preflight(taken.part, name) == []
    writer.prepare(taken.part, name)
    # pg_restore 18 says SET transaction_timeout, which 16 does not know.
    assert writer.load(taken.part, name, taken.open, silent) == []
    assert value(postgres_servers(16).dsn(name), "SELECT count(*) FROM t") == 10


def test_what_belongs_to_the_database_itself_comes_under_the_new_name(
    postgres_server: Any,
    database: str,
    role: str,
    source: Any,
    take: Any,
    fresh: Any,
    silent: Any,
) -> None:
    old = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    execute(
        database,
        f"COMMENT ON DATABASE {old} IS E'it''s;\n-- mine'",
        f"ALTER DATABASE {old} SET search_path = app, public",
        f"ALTER DATABASE {old} CONNECTION LIMIT 17",
        f"ALTER ROLE \"{role}\" IN DATABASE {old} SET work_mem = '77MB'",
        f'GRANT CREATE ON DATABASE {old} TO "{role}"',
        f"REVOKE TEMPORARY ON DATABASE {old} FROM PUBLIC",
    )
    taken = backup_of(database, source, take)
    execute(database, f'REVOKE ALL ON DATABASE {old} FROM "{role}"')
    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)
    assert writer.load(taken.part, name, taken.open, silent) == []
    found = postgres_server.dsn(name)
    assert value(found, "SHOW search_path") == "app, public"
    comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{}'"
    assert value(found, comment.format(name)) == "it's;\n-- mine"
    limit = "SELECT datconnlimit FROM pg_database WHERE datname = current_database()"
    assert value(found, limit) == 17
    assert value(found, f"SELECT has_database_privilege('{role}', '{name}', 'CREATE')") is True
    assert value(found, f"SELECT has_database_privilege('{role}', '{name}', 'TEMP')") is False
    settings = f"SELECT count(*) FROM pg_db_role_setting WHERE setrole = '\"{role}\"'::regrole"
    assert value(found, settings) == 2
    writer.drop(name)
    execute(postgres_server.admin_dsn, f'ALTER ROLE "{role}" IN DATABASE {old} RESET ALL')


# What splits lines in Python and is no end of a line in SQL, in UTF-8 and in LATIN1.
COMMENT = "donn\u00e9es;\x0b\r\x1c\x85"


@pytest.mark.parametrize(
    ("encoding", "comment"),
    [
        ("LATIN1", COMMENT.encode("latin-1")),
        ("SQL_ASCII", COMMENT.encode("latin-1")),
        ("UTF8", (COMMENT + "\u2028;\u2029").encode()),
    ],
)
def test_a_databases_own_texts_come_in_its_encoding(
    encoding: str,
    comment: bytes,
    postgres_server: Any,
    role: str,
    source: Any,
    take: Any,
    fresh: Any,
    silent: Any,
) -> None:
    old, admin_dsn = f"d\u00e4ta_{secrets.token_hex(4)}", postgres_server.admin_dsn
    execute(
        admin_dsn, f"CREATE DATABASE \"{old}\" TEMPLATE template0 ENCODING {encoding} LOCALE 'C'"
    )
    execute(admin_dsn, f'ALTER ROLE "{role}" IN DATABASE "{old}" SET work_mem = \'77MB\'')
    described = b"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname ="
    try:
        with psycopg.connect(postgres_server.dsn(old), autocommit=True) as owner:
            owner.execute(f"SET client_encoding = {encoding}")
            owner.execute(b"COMMENT ON DATABASE \"%b\" IS '%b'" % (old.encode(), comment))
        taken = backup_of(postgres_server.dsn(old), source, take)
    finally:
        execute(admin_dsn, f'DROP DATABASE "{old}"')
    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)
    assert writer.load(taken.part, name, taken.open, silent) == []
    query = b"SELECT convert_to((%b current_database()), '%b')" % (described, encoding.encode())
    assert value(postgres_server.dsn(name), query) == comment
    of_role = f"SELECT setconfig FROM pg_db_role_setting WHERE setrole = '\"{role}\"'::regrole"
    assert value(admin_dsn, of_role) == ["work_mem=77MB"]
    writer.drop(name)


def test_a_loaded_restore_outlives_what_the_archive_says_of_the_database(
    database: str,
    postgres_server: Any,
    source: Any,
    take: Any,
    fresh: Any,
    silent: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute(database, "CREATE TABLE t AS SELECT 1 AS id")
    taken = backup_of(database, source, take)
    writer, name = fresh(postgres_server)
    writer.prepare(taken.part, name)

    def broken(*_: object) -> bytes:
        raise Failed("pg_restore failed: no memory")

    monkeypatch.setattr(properties, "output", broken)
    (warning,) = writer.load(taken.part, name, taken.open, silent)
    assert "were not restored: pg_restore failed: no memory" in warning
    assert value(postgres_server.dsn(name), "SELECT id FROM t") == 1


def test_a_locale_that_the_server_lacks_is_a_warning(
    postgres_servers: Any, source: Any, take: Any, fresh: Any, silent: Any, target: Any
) -> None:
    here, there = postgres_servers(15), postgres_servers(16)
    name = f"icu_{secrets.token_hex(4)}"
    execute(
        here.admin_dsn,
        f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'",
    )
    try:
        taken = backup_of(here.dsn(name), source, take)
        assert (taken.part.facts.locale_provider, taken.part.facts.locale) == ("i", "de-DE")
        writer, new = fresh(there)
        writer.prepare(taken.part, new)
        (warning,) = writer.load(taken.part, new, taken.open, silent)
        assert "de-DE (icu) is not on this server" in warning
        again, same = fresh(here)
        again.prepare(taken.part, same)
        facts = again.source(same).facts()
        assert (facts.locale_provider, facts.locale) == ("i", "de-DE")
    finally:
        target(here.admin_dsn).drop(name)


def test_globals_as_far_as_the_role_may_read_them(
    postgres_server: Any, database: str, source: Any, role: str
) -> None:
    from vbackup.clock import SystemClock
    from vbackup.config import PostgresConfig
    from vbackup.postgres.source import PostgresSource
    from vbackup.progress import SilentReporter

    def globals_of(dsn: str, reporter: Any, **changes: Any) -> list[bytes]:
        config = PostgresConfig.model_validate({"dsn": dsn, **changes})
        candidate = PostgresSource(config, clock=SystemClock(), reporter=reporter).candidate([])
        found = [b"".join(s.open()) for s in candidate.dumps() if s.kind == "globals"]
        candidate.close()
        return found

    reporter = SilentReporter()
    execute(database, f"ALTER ROLE \"{role}\" LOGIN PASSWORD 'pw'")
    (full,) = globals_of(database, reporter)
    assert f'CREATE ROLE "{role}"'.encode() in full
    assert b"SCRAM-SHA-256$" in full
    assert reporter.warnings == []
    assert globals_of(database, reporter, include_globals="never") == []

    execute(database, f'GRANT pg_read_all_data TO "{role}"')
    limited = psycopg.conninfo.make_conninfo(database, user=role, password="pw")
    (partial,) = globals_of(limited, reporter)
    assert f'CREATE ROLE "{role}"'.encode() in partial
    assert b"SCRAM-SHA-256$" not in partial
    assert "without their passwords" in reporter.warnings[0][0]


@pytest.mark.usefixtures("sessions")
def test_a_role_without_super_powers_restores_with_warnings(
    postgres_server: Any,
    database: str,
    role: str,
    source: Any,
    take: Any,
    target: Any,
    silent: Any,
) -> None:
    execute(
        database,
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 10) g",
        "CREATE TABLE large AS SELECT g FROM generate_series(1, 10) g",
        f"ALTER ROLE \"{role}\" LOGIN CREATEDB PASSWORD 'pw'",
    )
    taken = backup_of(database, source, take, large_table=0)
    writer = target(
        psycopg.conninfo.make_conninfo(postgres_server.admin_dsn, user=role, password="pw")
    )
    name = f"test_{secrets.token_hex(6)}"
    assert writer.preflight(taken.part, name) == []
    writer.prepare(taken.part, name)
    try:
        warnings = writer.load(taken.part, name, taken.open, silent)
        assert any(line.startswith("ALTER TABLE public.t OWNER") for line in warnings)
        assert value(postgres_server.dsn(name), "SELECT count(*) FROM large") == 10
    finally:
        writer.drop(name)


class TestSwap:
    """Switching a restored database in."""

    @pytest.fixture
    def names(self, postgres_server: Any) -> Iterator[tuple[str, str, str]]:
        live, restored, kept = (f"test_{secrets.token_hex(6)}" for _ in range(3))
        execute(postgres_server.admin_dsn, f"CREATE DATABASE {live}", f"CREATE DATABASE {restored}")
        execute(postgres_server.dsn(live), "CREATE TABLE which AS SELECT 'live' AS x")
        execute(postgres_server.dsn(restored), "CREATE TABLE which AS SELECT 'restored' AS x")
        yield live, restored, kept
        execute(
            postgres_server.admin_dsn,
            *(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in (live, restored, kept)),
        )

    def test_both_are_renamed_and_open_again(
        self, names: tuple[str, str, str], postgres_server: Any, target: Any
    ) -> None:
        live, restored, kept = names
        session = psycopg.connect(postgres_server.dsn(live))
        # The DSN may name the live database itself.
        target(postgres_server.dsn(live)).swap(live, restored, kept)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        session.close()
        assert value(postgres_server.dsn(live), "SELECT x FROM which") == "restored"
        assert value(postgres_server.dsn(kept), "SELECT x FROM which") == "live"
        target(postgres_server.admin_dsn).swap(live, kept, restored)
        assert value(postgres_server.dsn(live), "SELECT x FROM which") == "live"

    def test_what_cannot_be_swapped_is_left_as_it_was(
        self,
        names: tuple[str, str, str],
        postgres_server: Any,
        target: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        live, restored, kept = names
        writer = target(postgres_server.admin_dsn)
        with pytest.raises(NotFound):
            writer.swap(live, kept, restored)
        with pytest.raises(AlreadyExists):
            writer.swap(live, restored, "postgres")
        monkeypatch.setattr("vbackup.postgres.renaming.SESSIONS_TIMEOUT", 0.2)
        gid = f"keeps-{live}"
        execute(
            postgres_server.dsn(live),
            f"BEGIN; CREATE TABLE later (); PREPARE TRANSACTION '{gid}'",
        )
        with pytest.raises(Refused, match="prepared transaction") as caught:
            writer.swap(live, restored, kept)
        assert caught.value.hint
        execute(postgres_server.dsn(live), f"ROLLBACK PREPARED '{gid}'")
        assert value(postgres_server.dsn(live), "SELECT x FROM which") == "live"
        assert value(postgres_server.dsn(restored), "SELECT x FROM which") == "restored"
