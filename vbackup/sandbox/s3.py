"""A throwaway S3 endpoint: moto's server in a process of its own, objects in memory."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from vbackup.errors import Failed, NotFound
from vbackup.sandbox import process
from vbackup.sandbox.ledger import Ledger
from vbackup.sandbox.loopback import HOST, on_free_ports, request
from vbackup.sandbox.process import Launch
from vbackup.sandbox.readiness import wait_ready
from vbackup.sandbox.servers import S3Server

BUCKET = "vbackup"


def s3_available() -> bool:
    """Whether moto's server is installed; without it a sandbox's repository is a directory."""
    return find_spec("moto") is not None and find_spec("flask") is not None


def start_s3(ledger: Ledger) -> S3Server:
    """Start the endpoint and create its bucket. Raises NotFound, Failed."""
    if not s3_available():
        raise NotFound("no S3 server is installed", hint="pip install 'vbackup[sandbox]'")
    return on_free_ports(1, lambda ports: _start(ports[0], ledger))


def _start(port: int, ledger: Ledger) -> S3Server:
    log = ledger.directory / "s3.log"
    log.unlink(missing_ok=True)
    url = f"http://{HOST}:{port}"
    server = process.spawn(
        Launch(
            kind="s3",
            name="S3 server (moto)",
            argv=(sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)),
            cwd=str(ledger.directory),
            environment={**_environment(), process.MARK: ledger.state.mark},
            log=str(log),
            ready=f"{url}/moto-api/",
        )
    )
    ledger.started(server)
    wait_ready(server)
    create_bucket(url)
    return S3Server(url, BUCKET, "vbackup", "vbackup-sandbox")


def create_bucket(url: str) -> None:
    """Moto asks for no signature. Raises Failed."""
    status, _ = request(f"{url}/{BUCKET}", method="PUT", timeout=10.0)
    if status != 200:
        raise Failed(f"the S3 server did not create its bucket: HTTP {status}")


def _environment() -> dict[str, str]:
    """The user's cloud settings are none of its business; moto checks no signatures."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}
