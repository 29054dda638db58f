"""The configuration of a sandbox is one that vbackup reads."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from vbackup.sandbox.config_text import config_toml, shown_dsn, write_client_files
from vbackup.sandbox.ledger import State
from vbackup.sandbox.sandbox import Sandbox
from vbackup.sandbox.servers import PostgresServer, QdrantServer, S3Server
from vbackup.settings import load

POSTGRES = PostgresServer("127.0.0.1", 5432, "vbackup", 'p"w\\', version="16.1", bin_dir="/bin")
ONE = QdrantServer(("http://127.0.0.1:1",), "1.17.0", "api key")
THREE = QdrantServer(("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"), "1.17.0")
S3 = S3Server("http://127.0.0.1:9", "bucket", "id", "key")


def _sandbox(directory: Path, state: State) -> Sandbox:
    return Sandbox(directory, state)


@pytest.mark.parametrize("qdrant", [ONE, THREE])
@pytest.mark.parametrize("s3", [S3, None])
@pytest.mark.parametrize("encrypted", [True, False])
def test_it_says_what_the_servers_are(
    tmp_path: Path, qdrant: QdrantServer, s3: S3Server | None, encrypted: bool
) -> None:
    sandbox = _sandbox(tmp_path, State(postgres=POSTGRES, qdrant=qdrant, s3=s3))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a long secret")
    path = tmp_path / "vbackup.toml"
    path.write_text(
        config_toml(sandbox, database="app", passphrase_file=passphrase if encrypted else None)
    )
    config = load(path).config
    assert config.postgres.dsn.get_secret_value() == POSTGRES.dsn("app")
    assert config.postgres.bin_dir == Path("/bin")
    assert config.qdrant is not None
    assert config.qdrant.urls == qdrant.urls
    key = config.qdrant.api_key
    assert (key.get_secret_value() if key else None) == qdrant.api_key
    assert config.repository.url == sandbox.repository_url
    assert config.repository.endpoint_url == (s3.endpoint_url if s3 else None)
    assert config.repository.encryption == ("passphrase" if encrypted else "none")


def test_client_files_are_private_and_the_shown_dsn_holds_no_password(tmp_path: Path) -> None:
    sandbox = _sandbox(tmp_path, State(postgres=POSTGRES, qdrant=ONE))
    config = write_client_files(sandbox)
    for path in (config, tmp_path / "pgpass"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert POSTGRES.password not in shown_dsn(sandbox)
    assert shown_dsn(sandbox, "my db") == (
        f"postgresql://vbackup@127.0.0.1:5432/my%20db?passfile={tmp_path}/pgpass"
    )
