"""What PostgreSQL's errors mean to vbackup: translated once, here, the most specific first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
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

_DATABASE_MISSING = re.compile(r'database "(.*)" does not exist')
_ROLE_MISSING = re.compile(r'role "(.*)" does not exist')
_PASSWORD = ("password authentication failed", "no password supplied", "authentication failed")
_FULL = ("too many clients", "too many connections", "remaining connection slots")
_ADVICE = (
    ("does not support SSL", "set sslmode=prefer (or disable) in postgres.dsn"),
    ("invalid response to SSL negotiation", "no PostgreSQL listens there: check the port"),
    ("certificate verify failed", "name the authority: sslrootcert=FILE in postgres.dsn"),
    ("root certificate file", "name the authority: sslrootcert=FILE in postgres.dsn"),
)
_STARTING = ("starting up", "shutting down", "not yet accepting", "in recovery mode")


@contextmanager
def translated(doing: str, *, configured: bool = False) -> Iterator[None]:
    """Turn psycopg's exceptions into vbackup's; `doing` begins the message.

    `configured` says that SQL of the configuration takes part: what is wrong with a statement is
    then a mistake in it.
    """
    try:
        yield
    except psycopg.Error as error:
        raise failure(error, doing, configured=configured) from error


def connect_failure(error: psycopg.OperationalError, where: str, user: str) -> VbackupError:
    """Why a connection could not be made. libpq gives text only, so the text is looked at."""
    text = _line(str(error))
    if found := _DATABASE_MISSING.search(text):
        return NotFound(
            f'{where} has no database "{found[1]}"', hint="check dbname in postgres.dsn"
        )
    if (found := _ROLE_MISSING.search(text)) or any(part in text for part in _PASSWORD):
        who = found[1] if found else user
        return Denied(
            f'{where} rejected the user "{who}"',
            hint="check user and password in postgres.dsn (or PGPASSWORD, ~/.pgpass)",
        )
    if "pg_hba.conf" in text or "permission denied for database" in text:
        return Denied(f"{where} does not let this user in: {text}", hint="check pg_hba.conf")
    if any(part in text for part in _FULL):
        return Unreachable(
            f"{where} has no free connection",
            hint="raise max_connections, or lower postgres.jobs and watermark.candidates",
        )
    if any(part in text for part in _STARTING):
        return Unreachable(f"{where} is not ready: {text}")
    message = f"{where} cannot be reached: {text}"
    for part, hint in _ADVICE:
        if part in text:
            return Failed(message, hint=hint)
    return Unreachable(message, hint="is it up? check host and port")


def failure(error: psycopg.Error, doing: str, *, configured: bool = False) -> VbackupError:
    """The vbackup error for one that a statement met."""
    text = _line(error.diag.message_primary or str(error))
    message = f"{doing}: {text}"
    for kinds, translate in _RULES:
        if isinstance(error, kinds):
            return translate(message)
    if configured and isinstance(error, psycopg.ProgrammingError | psycopg.DataError):
        return Usage(message, hint="check the SQL of this link in the configuration")
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return Unreachable(message, hint="the connection was lost; look at the server's log")
    # Class 08: connection exceptions; 57P: the server goes down or ends the session.
    if (error.sqlstate or "").startswith(("08", "57P")):
        return Unreachable(message, hint="the connection was lost; look at the server's log")
    return Failed(message)


def _line(text: str) -> str:
    return " ".join(text.split())


def _row_security(message: str) -> VbackupError:
    hint = "grant BYPASSRLS to the backup role, or use the tables' owner without FORCE"
    return Refused(f"{message} (row security would hide rows)", hint=hint)


_READ = "grant pg_read_all_data (or SELECT and USAGE) to the backup role"
# By words of the message, which servers that speak other languages do not use.
_PRIVILEGES = (
    ("terminated", "grant pg_signal_backend, or membership in the roles whose sessions must end"),
    ("to terminate", "grant pg_signal_backend, or membership in the roles whose sessions must end"),
    ("must be owner", "what is renamed or dropped needs its owner, or a superuser"),
    ("create database", "give the role CREATEDB"),
    ("rename database", "give the role CREATEDB"),
)


def _denied(message: str) -> VbackupError:
    # 42501 is raised for row security as well; the GUC's name is in the untranslated hint only,
    # the words are in the message.
    if "row-level security" in message or "row security" in message:
        return _row_security(message)
    hints = (hint for word, hint in _PRIVILEGES if word in message)
    return Denied(message, hint=next(hints, _READ))


def _no_locks(message: str) -> VbackupError:
    return NoRoom(message, hint="raise max_locks_per_transaction on the server")


def _locked(message: str) -> VbackupError:
    return Failed(
        message,
        hint="a schema change or another long lock is in the way; try again when it is done",
        retryable=True,
    )


def _no_text(message: str) -> VbackupError:
    hint = "the database's encoding does not guard its text; mend the row or leave it out"
    return Failed(message, hint=hint)


def _full(message: str) -> VbackupError:
    return Unreachable(message, hint="raise max_connections, or lower postgres.jobs")


def _conflict(message: str) -> VbackupError:
    return Failed(message, retryable=True)


_Translation = Callable[[str], VbackupError]
_RULES: tuple[tuple[tuple[type[psycopg.Error], ...], _Translation], ...] = (
    ((pg.InsufficientPrivilege,), _denied),
    ((pg.InvalidPassword, pg.InvalidAuthorizationSpecification), Denied),
    ((pg.InvalidCatalogName, pg.UndefinedTable, pg.InvalidSchemaName), NotFound),
    ((pg.DuplicateDatabase,), AlreadyExists),
    ((pg.TooManyConnections,), _full),
    ((pg.OutOfMemory,), _no_locks),
    ((pg.LockNotAvailable,), _locked),
    ((pg.CharacterNotInRepertoire, pg.UntranslatableCharacter), _no_text),
    ((pg.DeadlockDetected, pg.SerializationFailure, pg.ObjectInUse), _conflict),
    ((pg.ReadOnlySqlTransaction,), Refused),
)
