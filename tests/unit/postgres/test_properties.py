"""What belongs to a database itself, given to one of another name."""

from __future__ import annotations

from vbackup.postgres.properties import statements

SCRIPT = '''
--
-- Name: My "db"; Type: DATABASE PROPERTIES; Schema: -; Owner: bob
--

\\restrict abc
SET statement_timeout = 0;
ALTER DATABASE "My ""db""" CONNECTION LIMIT = 50;
ALTER DATABASE "My ""db""" IS_TEMPLATE = true;
ALTER DATABASE "My ""db""" SET search_path TO 'a''b;', 'ALTER DATABASE x SET y';
ALTER ROLE "o'joe" IN DATABASE "My ""db""" SET work_mem TO '7MB';
COMMENT ON DATABASE "My ""db""" IS 'one;
-- two
ALTER DATABASE "My ""db""" SET z;';
REVOKE CONNECT,TEMPORARY ON DATABASE "My ""db""" FROM PUBLIC;
GRANT CONNECT ON DATABASE "My ""db""" TO joe;
ALTER DATABASE other SET a TO 'b';
\\connect other
'''


def test_each_statement_is_renamed_once_and_strangers_stay_out() -> None:
    found = statements(SCRIPT, 'My "db"', "new")
    assert found == [
        'ALTER DATABASE "new" CONNECTION LIMIT = 50;',
        "ALTER DATABASE \"new\" SET search_path TO 'a''b;', 'ALTER DATABASE x SET y';",
        'ALTER ROLE "o\'joe" IN DATABASE "new" SET work_mem TO \'7MB\';',
        'COMMENT ON DATABASE "new" IS \'one;\n-- two\nALTER DATABASE "My ""db""" SET z;\';',
        'REVOKE CONNECT,TEMPORARY ON DATABASE "new" FROM PUBLIC;',
        'GRANT CONNECT ON DATABASE "new" TO joe;',
    ]


def test_plain_names_and_names_that_begin_alike() -> None:
    script = "ALTER DATABASE app SET a TO 'b';\nALTER DATABASE app2 SET a TO 'b';\n"
    assert statements(script, "app", 'n"w') == ['ALTER DATABASE "n""w" SET a TO \'b\';']
