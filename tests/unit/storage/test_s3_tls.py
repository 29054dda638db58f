"""TLS to an S3 server with an authority of its own."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.storage.scripted_s3 import ScriptedServer, ok, scripted_server
from vbackup.clock import SystemClock
from vbackup.config import RepositoryConfig
from vbackup.errors import Failed
from vbackup.ports import ObjectStore
from vbackup.storage.open import open_store


def _certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vbackup tests")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
def server(pem: Path) -> Iterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with scripted_server() as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        yield server


def _store(server: ScriptedServer, **more: object) -> ObjectStore:
    config = {
        "url": "s3://bucket",
        "endpoint_url": server.url.replace("http:", "https:"),
        "access_key_id": "k",
        "secret_access_key": "s",
        "retries": 0,
        **more,
    }
    return open_store(RepositoryConfig.model_validate(config), SystemClock())


def test_an_unknown_authority_is_refused(server: ScriptedServer) -> None:
    with pytest.raises(Failed) as caught:
        _store(server).put("a", b"x")
    assert "ca_file" in caught.value.hint
    assert server.asked == []


def test_a_given_authority_is_trusted_and_bodies_are_not_hashed(
    server: ScriptedServer, pem: Path
) -> None:
    server.script += [ok(), ok()]
    _store(server, ca_file=pem).put("a", b"x" * 1000)
    sent = {name.lower(): value for name, value in server.asked[0].headers.items()}
    assert sent["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert server.asked[0].body == b"x" * 1000
    _store(server, ca_file=pem, payload_signing="always").put("a", b"x")
    sent = {name.lower(): value for name, value in server.asked[1].headers.items()}
    assert len(sent["x-amz-content-sha256"]) == 64


def test_verification_can_be_turned_off(server: ScriptedServer) -> None:
    server.script += [ok(b"12345")]
    assert _store(server, verify_tls=False).get("a") == b"12345"
