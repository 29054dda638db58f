"""A throwaway S3 endpoint: moto's server in a process of its own, objects in memory."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from vbackup.errors import Failed, NotFound
from vbackup.sandbox import process
from vbackup.sandbox.ledger import Ledger
from vbackup.sandbox.loopback import HOST, free_ports, request
from vbackup.sandbox.servers import S3Server

BUCKET = "vbackup"
_ATTEMPTS = 4


def s3_available() -> bool:
    """Whether moto's server is installed; without it a sandbox's repository is a directory."""
    return find_spec("moto") is not None and find_spec("flask") is not None


def start_s3(ledger: Ledger) -> S3Server:
    """Start the endpoint and create its bucket. Raises NotFound, Failed."""
    if not s3_available():
        raise NotFound("no S3 server is installed", hint="pip install 'vbackup[sandbox]'")
    for attempt in range(1, _ATTEMPTS + 1):
        (port,) = free_ports(1)
        try:
            return _start(port, ledger)
        except Failed as error:
            if attempt == _ATTEMPTS or "in use" not in f"{error.message}{error.hint}":
                raise
    raise Failed("the S3 server found no free port")


def _start(port: int, ledger: Ledger) -> S3Server:
    log = ledger.directory / "s3.log"
    log.unlink(missing_ok=True)
    url = f"http://{HOST}:{port}"
    server = process.spawn(
        "S3 server (moto)",
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        log=log,
        cwd=ledger.directory,
        environment={**_environment(), process.MARK: ledger.state.mark},
    )
    ledger.started(server)
    process.wait_ready(server, lambda: request(f"{url}/moto-api/")[0] != 0, timeout=60.0)
    status, _ = request(f"{url}/{BUCKET}", method="PUT", timeout=10.0)
    if status != 200:
        raise Failed(f"the S3 server did not create its bucket: HTTP {status}")
    return S3Server(url, BUCKET, "vbackup", "vbackup-sandbox")


def _environment() -> dict[str, str]:
    """The user's cloud settings are none of its business; moto checks no signatures."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"}
