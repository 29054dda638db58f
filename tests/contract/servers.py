"""S3 servers for the contract suite, each in a process of its own that the session ends."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import botocore.session
import pytest
from pydantic import SecretStr

from vbackup.config import RepositoryConfig

BUCKET = "vbackup-contract"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens and who may use it."""

    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    bucket: str = BUCKET

    def config(self, prefix: str, **more: object) -> RepositoryConfig:
        """The repository configuration for a prefix of the bucket."""
        return RepositoryConfig.model_validate(
            {
                "url": f"s3://{self.bucket}/{prefix}".rstrip("/"),
                "endpoint_url": self.url,
                "region": self.region,
                "access_key_id": SecretStr(self.access_key_id),
                "secret_access_key": SecretStr(self.secret_access_key),
                "session_token": self.session_token,
                **more,
            }
        )

    def call(self, service: str, operation: str, **parameters: object) -> dict[str, object]:
        """One request to any AWS-like service of this endpoint."""
        session = botocore.session.Session()
        client = session.create_client(
            service,
            region_name=self.region,
            endpoint_url=self.url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
        )
        answer: dict[str, object] = getattr(client, operation)(**parameters)
        return answer


def _environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_the_tests() -> None:
    """In the child: a SIGKILL of the tests must not leave servers behind (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _running(
    command: list[str], url: str, log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd=log.parent,
            preexec_fn=_die_with_the_tests,
        )
    try:
        _wait_until_it_answers(process, url, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    pause = threading.Event()
    for _ in range(int(_START_SECONDS / 0.05)):
        if process.poll() is not None:
            pytest.fail(f"{process.args!r} ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            with urlopen(Request(url), timeout=5):
                return
        except HTTPError as answer:
            answer.close()
            return
        except OSError:
            pause.wait(0.05)
    pytest.fail(f"{process.args!r} does not answer at {url}")


_ADMIN_ACTIONS = 4
_ALLOW_ALL = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
)


@contextmanager
def moto_with_auth(directory: Path) -> Iterator[Endpoint]:
    """moto that checks signatures and IAM policies, with an administrator's key."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = _environment(INITIAL_NO_AUTH_ACTION_COUNT=str(_ADMIN_ACTIONS))
    # The waiting loop asks moto's own API, which is not counted as an action.
    with _running(command, f"{url}/moto-api/", directory / "moto.log", environment):
        nobody = Endpoint(url, "nobody", "nobody")
        nobody.call("s3", "create_bucket", Bucket=BUCKET)
        yield new_user(nobody, "admin", _ALLOW_ALL)


def new_user(admin: Endpoint, name: str, policy: str) -> Endpoint:
    """A user of a server that enforces IAM, with one inline policy: three actions."""
    admin.call("iam", "create_user", UserName=name)
    admin.call("iam", "put_user_policy", UserName=name, PolicyName=name, PolicyDocument=policy)
    answer = admin.call("iam", "create_access_key", UserName=name)
    key = answer["AccessKey"]
    if not isinstance(key, dict):
        pytest.fail(f"no access key in {answer}")
    return Endpoint(admin.url, key["AccessKeyId"], key["SecretAccessKey"])


def _installed(variable: str, name: str, holds: str) -> Path | None:
    """What a developer put into the folder that a variable names, or into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (os.environ.get(variable), cache / "vbackup" / name):
        if folder and (Path(folder) / holds).exists():
            return Path(folder) / holds
    return None


@contextmanager
def swift(directory: Path) -> Iterator[Endpoint]:
    """OpenStack Swift's S3 API: signatures, digests and conditions are checked."""
    python = _installed("VBACKUP_TEST_SWIFT", "swift", "venv/bin/python")
    if python is None:
        pytest.skip(
            "python3 -m venv ~/.cache/vbackup/swift/venv;"
            " ~/.cache/vbackup/swift/venv/bin/pip install swift==2.38.3 'setuptools<81'"
        )
    url = f"http://127.0.0.1:{(port := free_port())}"
    data = directory / "swift"
    data.mkdir()
    launcher = Path(__file__).with_name("swift_launcher.py")
    endpoint = Endpoint(url, "test:tester", "testing")
    command = [str(python), "-W", "ignore", str(launcher), str(data), str(port)]
    command += [endpoint.access_key_id, endpoint.secret_access_key]
    with _running(command, url, directory / "swift.log", _environment()):
        endpoint.call("s3", "create_bucket", Bucket=BUCKET)
        yield endpoint


_S3RVER = """
const S3rver = require('@20minutes/s3rver');
new S3rver({
  port: Number(process.argv[1]), address: '127.0.0.1', silent: true,
  directory: process.argv[2], configureBuckets: [{ name: process.argv[3] }],
}).run();
"""


@contextmanager
def s3rver(directory: Path) -> Iterator[Endpoint]:
    """A server that takes `If-None-Match: *` and overwrites all the same."""
    package = _installed("VBACKUP_TEST_S3RVER", "s3rver", "node_modules/@20minutes/s3rver")
    node = shutil.which("node")
    if package is None or node is None:
        pytest.skip("npm install --prefix ~/.cache/vbackup/s3rver @20minutes/s3rver@4.0.4")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    data = directory / "data"
    data.mkdir()
    command = [node, "-e", _S3RVER, str(port), str(data), BUCKET]
    environment = _environment(NODE_PATH=str(package.parents[1]))
    with _running(command, url, directory / "s3rver.log", environment):
        yield Endpoint(url, "S3RVER", "S3RVER")
