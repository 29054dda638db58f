"""`vbackup init`: a configuration that runs, and nothing overwritten."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vbackup.cli import template
from vbackup.config import Config
from vbackup.settings import load

Run = Callable[..., Any]


def values(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_a_fresh_folder_ends_with_everything_that_runs(
    vb: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:sesame@db/app")
    shown = vb("init", "--json")
    assert shown.code == 0
    assert shown.json["config_written"]
    assert shown.json["repository"]["created"]
    assert shown.json["repository"]["encrypted"]
    config = load(tmp_path / "vbackup.toml").config
    assert config.repository.url == (tmp_path / "repository").as_uri()
    assert vb("list", "--json").json["backups"] == []


def test_secrets_stay_out_of_the_file_and_the_output(
    vb: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:sesame@db/app")
    monkeypatch.setenv("QDRANT_API_KEY", "open-sesame")
    shown = vb("init", "--json")
    written = (tmp_path / "vbackup.toml").read_text(encoding="utf-8")
    passphrase = (tmp_path / "vbackup.passphrase").read_text(encoding="utf-8").strip()
    assert len(passphrase) >= 32
    for text in (written, shown.out, shown.err):
        assert "sesame" not in text
        assert passphrase not in text
    assert values(tmp_path / "vbackup.toml")["qdrant"]["api_key"] == "${env:QDRANT_API_KEY}"


def test_files_are_for_their_owner_only(vb: Run, tmp_path: Path) -> None:
    vb("init")
    for name in ("vbackup.toml", "vbackup.passphrase"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_second_init_changes_nothing(vb: Run, tmp_path: Path) -> None:
    first = vb("init", "--json").json
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    second = vb("init", "--json", "--preset", "trieve").json
    assert not second["config_written"]
    assert not second["repository"]["created"]
    assert second["repository"]["id"] == first["repository"]["id"]
    assert second["passphrase_file"] is None
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lost_passphrase_is_not_replaced(vb: Run, tmp_path: Path) -> None:
    vb("init")
    (tmp_path / "vbackup.passphrase").unlink()
    assert vb("init").code == 7
    assert not (tmp_path / "vbackup.passphrase").exists()


def test_options_fill_the_template(vb: Run, tmp_path: Path) -> None:
    vb(
        "init", "--output", "other.toml", "--postgres", "dbname=app", "--qdrant", "http://q:6333",
        "--repository", (tmp_path / "elsewhere").as_uri(), "--no-encryption",
    )  # fmt: skip
    written = values(tmp_path / "other.toml")
    assert written["postgres"] == {"dsn": "dbname=app"}
    assert written["qdrant"] == {"url": "http://q:6333"}
    assert written["repository"]["encryption"] == "none"
    assert "passphrase_file" not in written["repository"]
    assert (tmp_path / "elsewhere/vbackup.json").exists()
    assert not (tmp_path / "vbackup.passphrase").exists()


def test_a_dsn_of_the_environment_stays_there(
    vb: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBACKUP_INIT_POSTGRES", "postgresql://app:sesame@db/app")
    vb("init")
    assert values(tmp_path / "vbackup.toml")["postgres"]["dsn"] == "${env:VBACKUP_INIT_POSTGRES}"


def test_a_folder_that_cannot_be_written(vb: Run) -> None:
    shown = vb("init", "--output", "no/such/folder/vbackup.toml")
    assert shown.code == 1
    assert "cannot write no/such/folder/vbackup.toml" in shown.err


@pytest.mark.parametrize("name", template.presets())
def test_presets_are_good_configurations(name: str) -> None:
    config = Config.model_validate(tomllib.loads(template.render({}, name)))
    assert config.link
    assert "#[[link]]" not in template.render({}, name)


def test_the_presets_of_the_contract_are_there() -> None:
    assert template.presets() == (
        "dify", "flowise", "langchain", "llamaindex", "open-webui", "trieve"
    )  # fmt: skip


def test_a_preset_brings_what_has_no_rows() -> None:
    config = tomllib.loads(template.render({}, "open-webui"))
    assert config["ignore"] == ["open-webui_web-search", "open-webui_hash-based"]


def test_a_value_keeps_its_remark() -> None:
    line = next(
        line
        for line in template.render({"qdrant.url": "http://q"}).splitlines()
        if "http://q" in line
    )
    assert line.startswith('url = "http://q"')
    assert line.endswith("# any node; or name them all:")


def test_the_template_knows_its_keys() -> None:
    with pytest.raises(KeyError):
        template.render({"qdrant.nonsense": "x"})


def test_vectors_in_the_database_need_no_qdrant(
    vb: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:sesame@db/app")
    monkeypatch.setenv("QDRANT_API_KEY", "nobody asks for it")
    assert vb("init", "--engine", "pgvector", "--json").code == 0
    config = load(tmp_path / "vbackup.toml").config
    assert config.qdrant is None
    assert config.vectors.engine == "pgvector"


def test_presets_are_for_qdrant(vb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:sesame@db/app")
    shown = vb("init", "--engine", "pgvector", "--preset", "dify", "--json")
    assert shown.code == 2
