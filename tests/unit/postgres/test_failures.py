"""What driver errors become: the kind, the hint, whether a retry helps."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors as pg

from vbackup.errors import (
    AlreadyExists,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    Usage,
    VbackupError,
)
from vbackup.ports import NoRoom
from vbackup.postgres.connection import described
from vbackup.postgres.failures import connect_failure, translated


@pytest.mark.parametrize(
    ("said", "kind", "retryable"),
    [
        ('FATAL:  database "x y" does not exist', NotFound, False),
        ('FATAL:  role "bob" does not exist', Denied, False),
        ('FATAL:  password authentication failed for user "bob"', Denied, False),
        ("fe_sendauth: no password supplied", Denied, False),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', Denied, False),
        ("FATAL:  sorry, too many clients already", Unreachable, True),
        ("FATAL:  remaining connection slots are reserved", Unreachable, True),
        ("FATAL:  the database system is starting up", Unreachable, True),
        ("connection refused\n\tIs the server running?", Unreachable, True),
        ("connection timeout expired", Unreachable, True),
    ],
)
def test_connections_that_fail(said: str, kind: type[VbackupError], retryable: bool) -> None:
    error = connect_failure(psycopg.OperationalError(said), "PostgreSQL at h:1", "bob")
    assert type(error) is kind
    assert error.retryable is retryable
    assert "PostgreSQL at h:1" in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("permission denied for table t", "pg_read_all_data"),
        ("permission denied to terminate process", "pg_signal_backend"),
        ("must be a member of the role whose process is being terminated", "pg_signal_backend"),
        ("must be owner of database app", "owner"),
        ("permission denied to create database", "CREATEDB"),
        ("permission denied to rename database", "CREATEDB"),
    ],
)
def test_what_is_denied_says_what_to_grant(said: str, hint: str) -> None:
    with pytest.raises(Denied, match=r"denied|must be") as caught, translated("doing it"):
        raise pg.InsufficientPrivilege(said)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("raised", "kind", "retryable"),
    [
        (pg.InsufficientPrivilege("permission denied for table t"), Denied, False),
        (pg.InsufficientPrivilege("affected by row-level security policy"), Refused, False),
        (pg.UndefinedTable('relation "t" does not exist'), NotFound, False),
        (pg.DuplicateDatabase("exists"), AlreadyExists, False),
        (pg.TooManyConnections("too many"), Unreachable, True),
        (pg.OutOfMemory("out of shared memory"), NoRoom, False),
        (pg.LockNotAvailable("lock timeout"), Failed, True),
        (pg.DeadlockDetected("deadlock"), Failed, True),
        (pg.AdminShutdown("terminating"), Unreachable, True),
        (pg.ConnectionFailure("gone"), Unreachable, True),
        (psycopg.OperationalError("server closed the connection"), Unreachable, True),
        (pg.UndefinedColumn("no column"), Failed, False),
        (pg.DiskFull("no space"), Failed, False),
    ],
)
def test_statements_that_fail(
    raised: psycopg.Error, kind: type[VbackupError], retryable: bool
) -> None:
    with pytest.raises(VbackupError) as caught, translated("reading"):
        raise raised
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.message.startswith("reading: ")


def test_mistakes_in_configured_sql_are_usage() -> None:
    for raised in (pg.UndefinedColumn("no"), pg.SyntaxError("no"), pg.DivisionByZero("no")):
        with pytest.raises(Usage), translated("reading", configured=True):
            raise raised
    with pytest.raises(NotFound), translated("reading", configured=True):
        raise pg.UndefinedTable("no")


def test_expected_errors_pass_through() -> None:
    with pytest.raises(Refused, match="mine"), translated("reading"):
        raise Refused("mine")


def test_where_a_connection_goes_is_told_without_secrets() -> None:
    params = {"host": "h", "port": "5", "password": "s3cret", "user": "u"}
    assert described(params) == "PostgreSQL at h:5"
    assert described({"host": "a,b", "port": "1,2"}) == "PostgreSQL at a,b"
    assert described({}) == "PostgreSQL at local socket"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("server does not support SSL, but SSL was required", "sslmode"),
        ("received invalid response to SSL negotiation: H", "check the port"),
        ("SSL error: certificate verify failed", "sslrootcert"),
    ],
)
def test_trying_again_does_not_cure_tls(said: str, advice: str) -> None:
    error = connect_failure(psycopg.OperationalError(said), "PostgreSQL at h:1", "bob")
    assert (type(error), error.retryable, advice in error.hint) == (Failed, False, True)
