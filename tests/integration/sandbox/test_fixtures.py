"""The fixtures that every other test stands on."""

from __future__ import annotations

import json
from collections.abc import Callable

import boto3
import psycopg
import pytest

from vbackup.sandbox.loopback import request
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server

pytestmark = pytest.mark.integration


def test_the_database_is_fresh_and_takes_writes(database: str) -> None:
    with psycopg.connect(database) as connection:
        tables = connection.execute("SELECT FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert tables == []
        connection.execute("CREATE TABLE leftover (id int)")


def test_the_next_database_does_not_see_it(database: str) -> None:
    test_the_database_is_fresh_and_takes_writes(database)


@pytest.mark.parametrize("major", [15, 16, 18])
def test_every_supported_version_can_be_had(
    postgres_servers: Callable[[int], PostgresServer], major: int
) -> None:
    server = postgres_servers(major)
    assert server.major == major
    assert postgres_servers(major) is server
    with psycopg.connect(server.admin_dsn) as connection:
        assert connection.info.server_version // 10000 == major
        settings = {
            name: connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            for name in ("wal_level", "server_encoding")
        }
        assert settings == {"wal_level": ("logical",), "server_encoding": ("UTF8",)}


def test_a_wrong_password_is_refused(postgres_server: PostgresServer) -> None:
    wrong = postgres_server.dsn().replace(postgres_server.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_a_database_with_a_prepared_transaction_and_a_slot_is_dropped(
    postgres_servers: Callable[[int], PostgresServer],
    new_database: Callable[[PostgresServer], str],
) -> None:
    with psycopg.connect(new_database(postgres_servers(16)), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int)")
        connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("PREPARE TRANSACTION 'held'")


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
def test_both_qdrant_versions_answer(
    qdrant_servers: Callable[[str], QdrantServer], version: str
) -> None:
    server = qdrant_servers(version)
    status, body = request(server.url)
    assert (status, json.loads(body)["version"]) == (200, version)


def test_the_bucket_takes_objects(s3_server: S3Server, fresh_prefix: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key_id,
        aws_secret_access_key=s3_server.secret_access_key,
    )
    client.put_object(Bucket=s3_server.bucket, Key=f"{fresh_prefix}/a", Body=b"1")
    listed = client.list_objects_v2(Bucket=s3_server.bucket, Prefix=fresh_prefix)
    assert [each["Key"] for each in listed["Contents"]] == [f"{fresh_prefix}/a"]
    client.close()
