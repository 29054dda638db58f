"""pg_restore's stderr: what is tolerated, what ends the restore."""

from __future__ import annotations

import pytest

from vbackup.errors import Failed
from vbackup.postgres.restore import quiet
from vbackup.postgres.restore_errors import RestoreErrors

ROLE = 'ERROR:  role "bob" does not exist'


def errors(superuser: bool = True, parallel: bool = False) -> RestoreErrors:
    return RestoreErrors(frozenset({"postgres", "A b"}), superuser, parallel)


def feed(found: RestoreErrors, message: str, command: str) -> None:
    found.line(f"pg_restore: error: could not execute query: {message}")
    for line in f"Command was: {command}".split("\n"):
        found.line(line)
    found.line("")


@pytest.mark.parametrize(
    "command",
    [
        "ALTER TABLE public.t OWNER TO bob;",
        'ALTER FUNCTION public.f(a integer, b text) OWNER TO "Bob ""x""";',
        "GRANT SELECT ON TABLE public.t TO bob;",
        "GRANT ALL ON TABLE t TO postgres;\nGRANT SELECT ON TABLE t TO bob WITH GRANT OPTION;",
        "REVOKE ALL ON SCHEMA public FROM bob;",
        "ALTER DEFAULT PRIVILEGES FOR ROLE bob IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;",
        "CREATE POLICY p ON public.t TO postgres, bob USING (true);",
        "CREATE POLICY p ON public.t FOR SELECT TO bob;",
        "CREATE USER MAPPING FOR bob SERVER s OPTIONS (\n    \"user\" 'x'\n);",
        "SET SESSION AUTHORIZATION bob;\nGRANT SELECT ON TABLE t TO postgres;",
    ],
)
def test_statements_that_name_a_missing_role_are_warnings(command: str) -> None:
    found = errors()
    feed(found, ROLE, command)
    found.line("pg_restore: warning: errors ignored on restore: 1")
    found.finish(1)
    (warning,) = found.warnings
    assert "on this server" in warning
    assert warning.startswith(command.split("\n")[0].rstrip(";"))


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("ERROR: relation exists", "CREATE TABLE public.t (\n    a text\n);"),
        ("ERROR: no", "ALTER TABLE public.t OWNER TO postgres;"),
        ("ERROR: no", "GRANT SELECT ON TABLE public.t TO PUBLIC;"),
        ("ERROR: no", "COMMENT ON TABLE t IS 'GRANT SELECT ON TABLE x TO bob';"),
        ("ERROR: no", "SET transaction_timeout = 0; DROP TABLE t;"),
    ],
)
def test_anything_else_stops_at_once_and_names_the_statement(message: str, command: str) -> None:
    stopped = []
    found = errors()
    found.stop = lambda: stopped.append(True)
    feed(found, message, command)
    found.line("pg_restore: warning: errors ignored on restore: 1")
    assert stopped == [True]
    with pytest.raises(Failed) as caught:
        found.finish(1)
    assert message in str(caught.value)
    assert command.split("\n")[0].rstrip(";") in str(caught.value)


def test_what_older_servers_do_not_know_is_nothing_to_warn_of() -> None:
    found = errors()
    feed(found, "ERROR:  unrecognized parameter", "SET transaction_timeout = 0;")
    feed(found, "ERROR:  schema exists", "CREATE SCHEMA public;")
    found.line("pg_restore: warning: errors ignored on restore: 2")
    found.finish(1)
    assert found.warnings == []


def test_a_role_without_super_powers_may_not_own_or_grant() -> None:
    found = errors(superuser=False)
    feed(found, "ERROR:  must be able to SET ROLE", "ALTER TABLE t OWNER TO postgres;")
    feed(found, "ERROR:  must be owner", "COMMENT ON EXTENSION vector IS 'x';")
    found.line("pg_restore: warning: errors ignored on restore: 2")
    found.finish(1)
    assert len(found.warnings) == 2
    feed(found, "ERROR:  denied", "CREATE EXTENSION vector;")
    with pytest.raises(Failed, match="denied"):
        found.finish(1)


def test_errors_without_a_statement_are_real() -> None:
    found = errors()
    found.line('pg_restore: error: COPY failed for table "t": ERROR:  bad\tvalue')
    found.line("CONTEXT:  COPY t, line 7")
    with pytest.raises(Failed, match='COPY failed for table "t": ERROR: bad value CONTEXT'):
        found.finish(1)


def test_an_error_that_was_counted_but_not_seen_fails() -> None:
    for status, lines in ((1, []), (1, ["errors ignored on restore: 2"]), (-9, []), (2, [])):
        found = errors()
        feed(found, ROLE, "ALTER TABLE public.t OWNER TO bob;")
        for line in lines:
            found.line(f"pg_restore: warning: {line}")
        with pytest.raises(Failed, match=f"exit status {status}"):
            found.finish(status)


def test_counts_of_parallel_workers_mean_nothing_but_seen_errors_do() -> None:
    found = errors(parallel=True)
    feed(found, ROLE, "ALTER TABLE public.t OWNER TO bob;")
    found.line("pg_restore: warning: errors ignored on restore: 4")
    found.finish(1)
    with pytest.raises(Failed):
        errors(parallel=True).finish(1)
    garbled = errors(parallel=True)
    garbled.line("pg_restore: pg_restore: error: error: could not execute")
    with pytest.raises(Failed, match="could not execute"):
        garbled.finish(1)


@pytest.mark.parametrize(
    ("tools", "server", "expected"),
    [(16, 15, True), (17, 16, False), (18, 17, True), (18, 15, False)],
)
def test_workers_that_would_all_complain_at_once_are_not_used(
    tools: int, server: int, expected: bool
) -> None:
    assert quiet(tools, server) is expected
