"""From a URL to a store: what is understood, what is refused with which advice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import ManualClock
from vbackup import redact
from vbackup.config import RepositoryConfig
from vbackup.errors import Denied, Usage
from vbackup.storage.open import open_store, parse_path, parse_s3_url
from vbackup.storage.s3_client import connect


def _config(url: str, **more: object) -> RepositoryConfig:
    return RepositoryConfig.model_validate({"url": url, **more})


@pytest.fixture(autouse=True)
def _no_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///var/backups/v", "/var/backups/v"),
        ("file://localhost/var/x", "/var/x"),
        ("FILE:///var/x", "/var/x"),
        ("file:///var/with%20space", "/var/with space"),
        ("/var/plain 100%20", "/var/plain 100%20"),
    ],
)
def test_paths(url: str, path: str) -> None:
    assert parse_path(url) == Path(path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b/", ("bucket", "a/b")),
        ("s3://my.bucket_2/ä b", ("my.bucket_2", "ä b")),
    ],
)
def test_s3_urls(url: str, expected: tuple[str, str]) -> None:
    assert parse_s3_url(url) == expected


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("backups/here", "s3://bucket/prefix"),
        ("", "s3://bucket/prefix"),
        ("file://backups/here", "three slashes"),
        ("file:relative", "three slashes"),
        ("s3://", "s3://bucket/prefix"),
        ("s3:/bucket/x", "s3://bucket/prefix"),
        ("s3:bucket", "s3://bucket/prefix"),
        ("s3://key:topsecret@bucket/x", "access_key_id"),
        ("s3://bucket/a//b", "s3://bucket/prefix"),
        ("s3://bucket/../x", "s3://bucket/prefix"),
        ("s3://bucket/x?region=y", "s3://bucket/prefix"),
        ("gs://bucket/x", "storage.googleapis.com"),
        ("https://u:topsecret@minio:9000/bucket", "endpoint_url"),
        ("sftp://host/x", "sshfs"),
        ("azure://x", "s3://bucket/prefix"),
    ],
)
def test_bad_urls_are_usage_errors_with_advice(url: str, hint: str) -> None:
    with pytest.raises(Usage) as caught:
        open_store(_config(url), ManualClock())
    assert hint in caught.value.hint
    assert "topsecret" not in caught.value.message


def test_a_directory_is_opened_without_creating_anything(tmp_path: Path) -> None:
    store = open_store(_config(f"file://{tmp_path}/repo"), ManualClock())
    assert store.location == f"file://{tmp_path}/repo"
    assert list(store.scan()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_directory_needs_no_botocore() -> None:
    script = (
        "import sys; from vbackup.storage.open import open_store;"
        "from vbackup.clock import SystemClock; from vbackup.config import RepositoryConfig;"
        "open_store(RepositoryConfig(url='/tmp/x'), SystemClock());"
        "sys.exit(any(name.split('.')[0] in {'boto3', 'botocore'} for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_keys_are_registered_as_secrets() -> None:
    open_store(
        _config(
            "s3://bucket/x",
            endpoint_url="http://127.0.0.1:9",
            access_key_id="key",
            secret_access_key="a/very+secret",
            session_token="a-long-token",
        ),
        ManualClock(),
    )
    assert redact.scrub("x a/very+secret a-long-token") == f"x {redact.MASK} {redact.MASK}"
    redact.forget()


def test_half_a_key_pair_and_bad_endpoints_are_usage_errors() -> None:
    with pytest.raises(Usage, match="go together"):
        open_store(_config("s3://b", access_key_id="x"), ManualClock())
    with pytest.raises(Usage) as caught:
        open_store(_config("s3://b", endpoint_url="minio:9000"), ManualClock())
    assert "https://minio:9000" in caught.value.hint
    with pytest.raises(Usage) as caught:
        open_store(_config("s3://b", profile="nowhere"), ManualClock())
    assert "profile" in caught.value.hint


def test_no_credentials_anywhere() -> None:
    store = open_store(_config("s3://bucket", endpoint_url="http://127.0.0.1:9"), ManualClock())
    with pytest.raises(Denied) as caught:
        store.stat("a")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_the_aws_chain_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[profile other]\nregion = eu-north-1\n")
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = FILEKEY\naws_secret_access_key = s\n"
    )
    client = connect(_config("s3://bucket", profile="other"), "bucket")
    assert client.meta.region_name == "eu-north-1"
    signed = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    assert "FILEKEY" in signed
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    client = connect(_config("s3://bucket", region="eu-west-1"), "bucket")
    signed = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    assert "ENVKEY" in signed
    assert signed.startswith("https://bucket.s3.eu-west-1.amazonaws.com/k?")


@pytest.mark.parametrize(
    ("more", "bucket", "start"),
    [
        ({}, "bucket", "https://bucket.s3.amazonaws.com/k"),
        ({}, "dotted.bucket", "https://s3.amazonaws.com/dotted.bucket/k"),
        ({"path_style": "always"}, "bucket", "https://s3.amazonaws.com/bucket/k"),
        ({"endpoint_url": "https://store:9000"}, "bucket", "https://store:9000/bucket/k"),
        (
            {"endpoint_url": "https://oss.example.net", "path_style": "never"},
            "bucket",
            "https://bucket.oss.example.net/k",
        ),
    ],
)
def test_addressing(more: dict[str, str], bucket: str, start: str) -> None:
    config = _config(f"s3://{bucket}", access_key_id="k", secret_access_key="s", **more)
    client = connect(config, bucket)
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert url.split("?")[0] == start


def test_an_endpoint_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store:9000")
    config = _config("s3://bucket", access_key_id="k", secret_access_key="s")
    client = connect(config, "bucket")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"})
    assert url.startswith("http://store:9000/bucket/k")


@pytest.mark.parametrize(
    ("endpoint", "proxies"),
    [("http://127.0.0.1:9000", {}), ("http://[::1]:9000", {}), ("http://store:9000", None)],
)
def test_no_proxy_gets_what_is_on_this_machine(
    endpoint: str, proxies: dict[str, str] | None
) -> None:
    """None means those of the environment."""
    keys = {"access_key_id": "k", "secret_access_key": "s"}
    client = connect(_config("s3://bucket", endpoint_url=endpoint, **keys), "bucket")
    found: Any = client.meta.config
    assert found.proxies == proxies
