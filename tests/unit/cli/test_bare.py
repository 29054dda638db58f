"""--repository needs no configuration file; beside one it only changes the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbackup import bare
from vbackup.errors import Usage

TOML = """
[postgres]
dsn = "postgresql://app@db/app"
[qdrant]
url = "http://q:6333"
[repository]
url = "file:///configured"
passphrase = "the configured one"
endpoint_url = "http://s3:9000"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("VBACKUP_CONFIG", "VBACKUP_PASSPHRASE", "DATABASE_URL", "QDRANT_URL"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_file_everything_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://admin:hidden-password@new/app")
    monkeypatch.setenv("QDRANT_URL", "http://new:6333")
    monkeypatch.setenv("QDRANT_API_KEY", "hidden-api-key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    monkeypatch.setenv("VBACKUP_PASSPHRASE", "hidden-passphrase")

    config = bare.settings(None, "s3://bucket/prefix", None).config

    assert config.repository.url == "s3://bucket/prefix"
    assert config.repository.endpoint_url == "http://minio:9000"
    assert config.repository.passphrase is not None
    assert config.repository.passphrase.get_secret_value() == "hidden-passphrase"
    assert config.postgres.dsn.get_secret_value().endswith("@new/app")
    assert config.qdrant is not None
    assert config.qdrant.urls == ("http://new:6333",)
    assert config.qdrant.api_key is not None


def test_without_a_passphrase_the_repository_is_taken_as_it_is() -> None:
    assert bare.settings(None, "file:///x", None).config.repository.encryption == "none"


def test_a_passphrase_file_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VBACKUP_PASSPHRASE", "from the environment")
    config = bare.settings(None, "file:///x", tmp_path / "secret").config.repository
    assert (config.passphrase, config.passphrase_file) == (None, tmp_path / "secret")
    assert config.encryption == "passphrase"


def test_beside_a_file_only_the_repository_changes(tmp_path: Path) -> None:
    (tmp_path / "vbackup.toml").write_text(TOML)
    config = bare.settings(None, "s3://other/prefix", None).config
    assert config.repository.url == "s3://other/prefix"
    assert config.repository.endpoint_url == "http://s3:9000"
    assert config.repository.passphrase is not None
    assert config.postgres.dsn.get_secret_value() == "postgresql://app@db/app"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="no configuration file"):
        bare.settings(tmp_path / "absent.toml", "s3://bucket", None)
