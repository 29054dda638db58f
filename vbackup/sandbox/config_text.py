"""What a person needs to use a sandbox: a configuration and a password file, in its directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from vbackup.sandbox.ledger import write_private
from vbackup.sandbox.sandbox import Sandbox

CONFIG_FILE = "vbackup.toml"
PASSWORD_FILE = "pgpass"  # noqa: S105 (a file name)


def write_client_files(sandbox: Sandbox) -> Path:
    """Write `vbackup.toml` and `pgpass` into the sandbox, for its owner only; the config's path."""
    config = sandbox.directory / CONFIG_FILE
    write_private(config, config_toml(sandbox))
    server = sandbox.state.postgres
    if server:
        password = server.password.replace("\\", "\\\\").replace(":", "\\:")
        entry = f"{server.host}:{server.port}:*:{server.user}:{password}\n"
        write_private(sandbox.directory / PASSWORD_FILE, entry)
    return config


def shown_dsn(sandbox: Sandbox, dbname: str = "postgres") -> str:
    """A DSN that works on this machine and holds no password: libpq finds it in `pgpass`."""
    server = sandbox.postgres
    passfile = quote(str(sandbox.directory / PASSWORD_FILE), safe="/")
    address = f"{server.user}@{server.host}:{server.port}"
    return f"postgresql://{address}/{quote(dbname, safe='')}?passfile={passfile}"


def config_toml(
    sandbox: Sandbox, *, database: str = "postgres", passphrase_file: Path | None = None
) -> str:
    """A whole `vbackup.toml`; it holds the sandbox's passwords. Links are the application's.

    The repository is encrypted exactly when a passphrase file is given.
    """
    return "\n".join(_lines(sandbox, database, passphrase_file)) + "\n"


def _lines(sandbox: Sandbox, database: str, passphrase_file: Path | None) -> Iterator[str]:
    yield f"# For the throwaway servers in {sandbox.directory}; gone after `vbackup sandbox down`."
    state = sandbox.state
    if state.postgres:
        yield "[postgres]"
        yield _entry("dsn", state.postgres.dsn(database))
        if state.postgres.bin_dir:
            yield _entry("bin_dir", state.postgres.bin_dir)
        yield ""
    if state.qdrant:
        yield "[qdrant]"
        if len(state.qdrant.urls) == 1:
            yield _entry("url", state.qdrant.url)
        else:
            yield f"nodes = {json.dumps(state.qdrant.urls)}"
        if state.qdrant.api_key:
            yield _entry("api_key", state.qdrant.api_key)
        yield ""
    yield "[repository]"
    yield _entry("url", sandbox.repository_url)
    if state.s3:
        yield _entry("endpoint_url", state.s3.endpoint_url)
        yield _entry("region", state.s3.region)
        yield _entry("access_key_id", state.s3.access_key_id)
        yield _entry("secret_access_key", state.s3.secret_access_key)
        yield _entry("path_style", "always")
    if passphrase_file:
        yield _entry("encryption", "passphrase")
        yield _entry("passphrase_file", str(passphrase_file))
    else:
        yield _entry("encryption", "none")


def _entry(key: str, value: str) -> str:
    # A JSON string without lone surrogates is a TOML basic string.
    return f"{key} = {json.dumps(value)}"
