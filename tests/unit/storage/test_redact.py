"""Secrets stay out of text, whatever form they come in; everything else stays readable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vbackup.redact import MASK, forget, register, safe_dsn, safe_url, scrub, scrub_tree


@pytest.fixture(autouse=True)
def _fresh_registry() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.mark.parametrize(
    "text",
    [
        "host=db password=hunter2 dbname=app",
        "host=db password = 'hunter2' dbname=app",
        r"host=db password='a\'hunter2' dbname=app",
        "host=db sslpassword='hunter2",
        "password=ab&hunter2,x host=db",
        "PGPASSWORD=hunter2 pg_dump",
        "postgresql://app:hunter2@db:5432/app",
        "postgresql://app:hunter2@h1:5432,h2:5433/app?target_session_attrs=any",
        "postgresql://app:p@ss@hunter2@db/app",
        "postgresql://app:pa/hunter2@db/app",
        "postgresql://app@db/app?password=hunter2&sslmode=require",
        "postgresql://db/app?sslmode=require&sslpassword=hunter2",
        "redis://:hunter2@cache:6379/0",
        'could not connect to "postgresql://app:hunter2@db/app": refused',
        "GET https://q:6333/ failed; headers api-key: hunter2",
        "Authorization: Bearer hunter2hunter2",
        "sent Bearer hunter2hunter2 to the server",
        '{"api_key": "hunter2", "url": "http://q"}',
        "{'secret_access_key': 'hunter2'}",
        "https://b.s3.amazonaws.com/k?X-Amz-Signature=hunter2&X-Amz-Date=1",
        "aws_secret_access_key=hunter2",
    ],
)
def test_secret_is_blanked_where_it_stands(text: str) -> None:
    assert "hunter2" not in scrub(text)
    assert MASK in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        'FATAL: password authentication failed for user "app"',
        "fe_sendauth: no password supplied",
        "http://localhost:6333/collections/documents",
        "s3://bucket/prefix@2",
        "postgresql://app@db:5432/app",
        "host=h1,h2 port=5432,5433 dbname=app user=app",
        "mail ops@example.org about http://h:80/x",
        "tokenizer=word",
    ],
)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert scrub(text) == text


def test_rest_of_a_conninfo_stays_readable() -> None:
    assert safe_dsn("host=db password='a b' dbname=app") == f"host=db password={MASK} dbname=app"
    assert safe_dsn("postgresql://u:p@h1,h2/app?password=x&a=b") == (
        f"postgresql://u:{MASK}@h1,h2/app?password={MASK}&a=b"
    )
    assert safe_url("http://u:p@h:9000/b") == f"http://u:{MASK}@h:9000/b"


def test_access_key_ids_keep_only_their_kind() -> None:
    assert scrub("key AKIAIOSFODNN7EXAMPLE is unknown") == f"key AKIA{MASK} is unknown"


def test_registered_secret_is_replaced_anywhere_and_in_every_spelling() -> None:
    register('s3/cr"et+Value')
    for text in (
        's3/cr"et+Value',
        "s3%2Fcr%22et%2BValue",
        "s3/cr%22et%2BValue",
        's3/cr\\"et+Value',
    ):
        assert scrub(f"server said: {text}!") == f"server said: {MASK}!"


def test_longer_secret_wins_over_one_that_it_contains() -> None:
    register("abcd")
    register("abcdefgh")
    assert scrub("x abcdefgh y") == f"x {MASK} y"


@pytest.mark.parametrize("value", [None, "", "abc", "postgres", "Password"])
def test_everyday_words_are_not_replaced_everywhere(value: str | None) -> None:
    register(value)
    assert scrub("postgres asks abc for a Password") == "postgres asks abc for a Password"


def test_tree() -> None:
    register("topsecret")
    tree = {"a": ["x topsecret", 1, None], "password": "p", "n": {"url": "http://u:p@h"}}
    assert scrub_tree(tree) == {
        "a": [f"x {MASK}", 1, None],
        "password": MASK,
        "n": {"url": f"http://u:{MASK}@h"},
    }
