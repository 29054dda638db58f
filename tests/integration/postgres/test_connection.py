"""Connections that cannot be made, several hosts, and passwords that nobody sees."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from vbackup.config import PostgresConfig
from vbackup.errors import Denied, NotFound, Refused, Unreachable, Usage
from vbackup.postgres.connection import connect

pytestmark = pytest.mark.integration


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_connection_failures_say_what_to_do(
    shared_database: str, closed_port: int, source: Any
) -> None:
    wrong = "not-the-password"
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"password": wrong}, Denied, "rejected the user"),
        ({"user": "nobody-here"}, Denied, "rejected the user"),
        ({"dbname": "no such db"}, NotFound, 'no database "no such db"'),
        ({"port": closed_port}, Unreachable, "cannot be reached"),
        ({"host": "host.invalid"}, Unreachable, "cannot be reached"),
    ]
    for changes, error, words in cases:
        dsn = conninfo.make_conninfo(shared_database, **changes)
        with pytest.raises(error, match=words) as caught:
            source(dsn).facts()
        assert wrong not in str(caught.value)
        assert caught.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", "pg_catalog, pg_temp"),
        ("\\ ", "pg_catalog, pg_temp"),
        ('""', 'pg_catalog, "", pg_temp'),
        ('"a,b",public', 'pg_catalog, "a,b",public, pg_temp'),
    ],
)
def test_the_search_path_that_is_asked_for_stays(
    shared_database: str, asked: str, found: str
) -> None:
    dsn = conninfo.make_conninfo(shared_database, options=f"-csearch_path={asked}")
    with closing(connect(PostgresConfig.model_validate({"dsn": dsn}))) as connection:
        assert connection.execute("SHOW search_path").fetchone() == (found,)


def test_a_dsn_that_cannot_be_read_is_not_repeated(source: Any) -> None:
    for text in ("password=s3cret host", "sekret=s3cret"):
        with pytest.raises(Usage) as caught:
            source(text).facts()
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in repr(caught.value.__cause__)


def test_a_server_without_room_is_unreachable_for_now(
    shared_database: str, postgres_server: Any, source: Any
) -> None:
    with psycopg.connect(postgres_server.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE full_house LOGIN PASSWORD 'pw' CONNECTION LIMIT 0")
        try:
            dsn = conninfo.make_conninfo(shared_database, user="full_house", password="pw")
            with pytest.raises(Unreachable, match="no free connection") as caught:
                source(dsn).facts()
            assert caught.value.retryable
        finally:
            admin.execute("DROP ROLE full_house")


def test_of_several_hosts_the_dump_goes_to_the_one_with_the_snapshot(
    shared_database: str, closed_port: int, source: Any
) -> None:
    known = conninfo.conninfo_to_dict(shared_database)
    dsn = conninfo.make_conninfo(
        shared_database,
        host=f"127.0.0.1,{known['host']}",
        port=f"{closed_port},{known['port']}",
        target_session_attrs="read-write",
    )
    candidate = source(dsn).candidate([])
    with candidate.imported() as connection:
        assert connection.info.port == int(known["port"] or 0)
    assert b"".join(candidate.dumps()[0].open()).startswith(b"PGDMP")
    candidate.close()


def test_the_password_is_in_no_arguments(shared_database: str, source: Any) -> None:
    password = str(conninfo.conninfo_to_dict(shared_database)["password"])
    with psycopg.connect(shared_database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.wide AS"
            " SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 5000) g"
        )
    candidate = source(shared_database).candidate([])
    blocks = candidate.dumps()[0].open()
    next(blocks)
    commands = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"pg_dump" in _read(path)
    ]
    assert any(b"--snapshot=" in command for command in commands)
    assert not any(password.encode() in command for command in commands)
    blocks.close()
    candidate.close()
    secret = conninfo.make_conninfo(shared_database, sslpassword="s3cret")
    with (
        closing(source(secret).candidate([])) as candidate,
        pytest.raises(Refused, match="sslpassword"),
    ):
        list(candidate.dumps()[0].open())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_client_tools_that_are_missing_or_too_old_refuse_with_a_hint(
    shared_database: str, postgres_servers: Any, source: Any, tmp_path: Path
) -> None:
    missing = source(shared_database, bin_dir=tmp_path)
    with pytest.raises(Refused, match="no pg_dump found") as caught:
        assert missing.client_version
    assert "postgresql-client-16" in caught.value.hint
    assert any("no pg_dump found" in line for line in missing.problems())
    older = source(shared_database, bin_dir=postgres_servers(15).bin_dir)
    with (
        closing(older.candidate([])) as candidate,
        pytest.raises(Refused, match=r"pg_dump .* is too old for PostgreSQL 16: found 15"),
    ):
        candidate.dumps()
    newer = source(shared_database, bin_dir=postgres_servers(18).bin_dir)
    assert newer.client_version.startswith("18.")
    assert newer.problems() == []


def test_facts_and_a_restore_point(shared_database: str, source: Any) -> None:
    reader = source(shared_database)
    facts = reader.facts()
    assert facts.database == conninfo.conninfo_to_dict(shared_database)["dbname"]
    assert facts.encoding == "UTF8"
    assert facts.server_version_num // 10000 == 16
    assert facts.system_identifier.isdigit()
    assert facts.size_bytes > 1_000_000
    assert [extension.name for extension in facts.extensions] == ["plpgsql"]
    assert "/" in reader.restore_point("vbackup test")
    candidate = reader.candidate([])
    assert candidate.timeline == 1
    candidate.close()
