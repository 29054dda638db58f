"""Reading the configuration: references, all mistakes in one go, secrets, origins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vbackup import redact
from vbackup.errors import Usage
from vbackup.settings import Settings, load, load_repository

Write = Callable[[str], Path]

GOOD = """
[postgres]
dsn = "dbname=app"
[qdrant]
[repository]
url = "file:///srv/backups"
encryption = "none"
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "vbackup.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def mistakes(path: Path) -> list[str]:
    """What `load` complains about, one entry a mistake."""
    with pytest.raises(Usage) as caught:
        load(path)
    first, *rest = caught.value.message.splitlines()
    assert first.endswith(f"in {path}")
    assert int(first.split()[0]) == len(rest)
    return [line.strip() for line in rest]


def test_the_defaults_fill_in(write: Write) -> None:
    config = load(write(GOOD)).config
    assert config.watermark.max_index_lag == 300.0
    assert config.qdrant is not None
    assert config.qdrant.urls == ("http://localhost:6333",)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(Usage) as caught:
        load(tmp_path / "none.toml")
    assert str(tmp_path / "none.toml") in caught.value.message
    assert "vbackup init" in caught.value.hint


def test_the_default_place_is_a_variable_then_this_folder(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(GOOD)
    assert load().path == Path("vbackup.toml")
    monkeypatch.chdir("/")
    monkeypatch.setenv("VBACKUP_CONFIG", str(path))
    assert load().path == path


def test_toml_that_does_not_parse_names_the_line(write: Write) -> None:
    with pytest.raises(Usage, match="line 2"):
        load(write("[postgres]\ndsn = \n"))


def test_text_that_is_no_utf8_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "vbackup.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Usage, match="UTF-8"):
        load(path)


# ---------------------------------------------------------------- references


def test_references_are_replaced(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bucket").write_text("backups\n", encoding="utf-8")
    monkeypatch.setenv("STAGE", "prod")
    text = GOOD.replace("file:///srv/backups", "s3://${file:bucket}/${env:STAGE}/pair")
    assert load(write(text)).config.repository.url == "s3://backups/prod/pair"


def test_references_work_within_lists_and_links(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABLE", "public.docs")
    link = '[[link]]\nname = "a"\ncollection = "a"\nrows = [{ table = "${env:TABLE}", key = "id" }]'
    assert load(write(GOOD + link)).config.link[0].rows[0].table == "public.docs"


def test_what_a_reference_cannot_find_is_one_mistake(write: Write) -> None:
    text = GOOD.replace("dbname=app", "${env:UNSET_1}").replace("/srv", "/${file:/no/such/file}")
    assert mistakes(write(text)) == [
        "postgres.dsn: environment variable UNSET_1 is not set",
        "repository.url: cannot read /no/such/file: No such file or directory",
    ]


def test_relative_paths_count_from_the_file(write: Write, tmp_path: Path) -> None:
    text = GOOD + '[watermark]\nwork_dir = "work"\n'
    path = write(text)
    assert load(path).config.watermark.work_dir == tmp_path / "work"


# ---------------------------------------------------------------- mistakes


def test_all_mistakes_come_in_one_go(write: Write) -> None:
    found = mistakes(
        write(
            """
            [postgres]
            dsn = "dbname=app"
            jbos = 3
            jobs = 0
            connect_timeout = "soon"
            [repositry]
            url = "x"
            [watermark]
            strategy = "guess"
            budget = "-1s"
            """
        )
    )
    assert [line.split(":")[0] for line in found] == [
        "postgres.jobs",
        "postgres.connect_timeout",
        "postgres.jbos",
        "repository",
        "watermark.strategy",
        "watermark.budget",
        "repositry",
        "qdrant",
    ]
    assert "postgres.jbos: unknown key, did you mean jobs?" in found
    assert "repositry: unknown key, did you mean repository?" in found
    assert "repository: missing section [repository]" in found
    assert "qdrant: missing section [qdrant]" in found


def test_a_key_of_another_section_is_sent_home(write: Write) -> None:
    text = GOOD.replace("[qdrant]", '[qdrant]\nmax_index_lag = "5m"')
    assert mistakes(write(text)) == [
        "qdrant.max_index_lag: unknown key, it belongs into [watermark]"
    ]


def test_a_key_like_no_other_gets_no_suggestion(write: Write) -> None:
    assert mistakes(write(GOOD + "[vectors]\nzzz = 1\n")) == ["vectors.zzz: unknown key"]


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("rows = []", "link[0].rows: "),
        ('rows = [{ key = "id" }]', "link[0].rows[0]: needs either table"),
        ('rows = [{ table = "t", sql = "s", key = "id" }]', "link[0].rows[0]: needs either table"),
        ('rows = [{ table = "t" }]', "link[0].rows[0]: table needs key"),
        ('rows = [{ sql = "s", version = "v" }]', "link[0].rows[0]: sql yields its own columns"),
        ('rows = [{ table = "t", key = ["a", "b"] }]', "link[0]: rows[0].key has 2 part(s)"),
        ('rows = [{ table = "t", key = "id" }]\npoint = { ref = "pg_id" }', "link[0].point.ref: "),
        (
            'rows = [{ table = "t", key = "id" }]\npoint = { version = "payload:a..b" }',
            "link[0].point.version: ",
        ),
        ('rows = [{ table = "t", key = "id", versoin = "v" }]', "link[0].rows[0].versoin: unknown"),
    ],
)
def test_links_are_checked(write: Write, link: str, complaint: str) -> None:
    found = mistakes(write(GOOD + f'[[link]]\nname = "a"\ncollection = "a"\n{link}\n'))
    assert len(found) == 1
    assert found[0].startswith(complaint)


def test_two_links_of_one_name(write: Write) -> None:
    link = '[[link]]\nname = "a"\ncollection = "a"\nrows = [{ table = "t", key = "id" }]\n'
    assert mistakes(write(GOOD + link + link)) == ["link[1].name: another link is named 'a'"]


def test_encryption_needs_exactly_one_passphrase(write: Write) -> None:
    without = GOOD.replace('encryption = "none"', "")
    assert mistakes(write(without))[0].startswith("repository.passphrase: missing")
    both = without + 'passphrase = "long enough"\npassphrase_file = "x"\n'
    assert "only one of" in mistakes(write(both))[0]


def test_pgvector_alone_needs_no_qdrant(write: Write) -> None:
    text = GOOD.replace("[qdrant]", "") + '[vectors]\nengine = "pgvector"\n'
    assert load(write(text)).config.qdrant is None


def test_a_section_of_the_wrong_shape(write: Write) -> None:
    found = mistakes(write("postgres = 5\nlink = 7\n" + GOOD.replace("[postgres]", "[postgres2]")))
    assert {line.split(":")[0] for line in found} >= {"postgres", "link", "postgres2"}


# ---------------------------------------------------------------- secrets and origins


def settings_with_secrets(write: Write, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("APP_DSN", "postgresql://app:pw%2Fsesame@db/app")
    monkeypatch.setenv("PGPASSWORD", "ambient-sesame")
    text = GOOD.replace('"dbname=app"', '"${env:APP_DSN}"')
    text = text.replace("[qdrant]", '[qdrant]\napi_key = "key-sesame"')
    text = text.replace('encryption = "none"', 'passphrase = "phrase-sesame"')
    return load(write(text))


def test_every_secret_is_known_to_the_redaction(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_with_secrets(write, monkeypatch)
    for secret in ("pw%2Fsesame", "pw/sesame", "ambient-sesame", "key-sesame", "phrase-sesame"):
        assert redact.scrub(f"it is {secret}!") == "it is ***!"


def test_origins_say_where_from_and_nothing_secret(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = {
        o.key: (o.value, o.source) for o in settings_with_secrets(write, monkeypatch).origins
    }
    assert origins["postgres.dsn"] == ("postgresql://app:***@db/app", "env APP_DSN")
    assert origins["qdrant.api_key"] == ("***", "file")
    assert origins["repository.passphrase"] == ("***", "file")
    assert origins["repository.url"] == ("file:///srv/backups", "file")
    assert "watermark.budget" not in origins


def test_a_mistake_does_not_repeat_a_secret(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "open-sesame-42")
    text = GOOD.replace("[qdrant]", '[qdrant]\napi_key = ["${env:SECRET}"]\ntimeout = "x"')
    assert "sesame" not in "".join(mistakes(write(text)))


# ---------------------------------------------------------------- only the repository


def test_the_repository_is_read_alone(write: Write) -> None:
    text = GOOD.replace("dbname=app", "${env:UNSET_1}") + "[watermark]\nbudget = 'soon'\n"
    assert load_repository(write(text)).url == "file:///srv/backups"


def test_its_own_mistakes_are_reported(write: Write) -> None:
    with pytest.raises(Usage, match=r"repository\.urll: unknown key, did you mean url\?"):
        load_repository(write(GOOD.replace("url =", "urll =")))
    with pytest.raises(Usage, match="missing section"):
        load_repository(write("[postgres]\ndsn = 'x'\n"))


@pytest.mark.parametrize("text", ["${evn:PASS}", "${PASS}", "x${file:}y"])
def test_what_looks_like_a_reference_and_is_none(write: Write, text: str) -> None:
    """Taken as it stands it would become a passphrase that nobody knows."""
    (mistake,) = mistakes(write(GOOD.replace('encryption = "none"', f"passphrase = '{text}'")))
    assert mistake.startswith("repository.passphrase: ${")
    assert "${env:NAME}" in mistake


def test_an_empty_dsn_leads_nowhere_else(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_DSN", "")
    found = mistakes(write(GOOD.replace('"dbname=app"', '"${env:APP_DSN}"')))
    assert found == ["postgres.dsn: ${env:APP_DSN} is empty"]


def test_lists_are_asked_for_in_toml_s_words(write: Write) -> None:
    found = mistakes(write(GOOD.replace("[qdrant]", "[qdrant]\ncollections = 'documents'")))
    assert found == ['qdrant.collections: must be a list, such as ["a", "b"]']


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "vbackup.toml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert load(path).config.qdrant is not None
