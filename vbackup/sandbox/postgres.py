"""A throwaway PostgreSQL: finds a server's programs, makes a cluster, starts it without fsync."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vbackup.errors import Failed
from vbackup.sandbox import process
from vbackup.sandbox.account import Account, reaches, server_account
from vbackup.sandbox.ledger import Ledger, write_private
from vbackup.sandbox.loopback import HOST, on_free_ports
from vbackup.sandbox.postgres_binaries import (
    DEFAULT_MAJOR,
    Binaries,
    find_binaries,
    reachable,
)
from vbackup.sandbox.process import Launch
from vbackup.sandbox.readiness import wait_ready
from vbackup.sandbox.servers import PostgresServer

USER = "vbackup"

# Nothing here needs to survive a power cut; a killed server loses no commit all the same, as
# the log still reaches the kernel (synchronous_commit stays on).
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_buffers": "64MB",
    # Shared memory in the data directory: /dev/shm is tiny in containers and kept after a crash.
    "dynamic_shared_memory_type": "mmap",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%d ",
    "autovacuum_naptime": "15s",
}


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """Which server and how. `logical` is about wal_level; `settings` win over all but the port."""

    major: int = DEFAULT_MAJOR
    bin_dir: Path | None = None
    logical: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


def start_postgres(options: PostgresOptions, ledger: Ledger) -> PostgresServer:
    """Make a cluster and start it; waits until it takes connections. Raises NotFound, Failed."""
    binaries = find_binaries(options.major, options.bin_dir)
    account = server_account()
    home = _home(ledger, account)
    binaries = reachable(binaries, home, account)
    password = secrets.token_urlsafe(18)
    _initdb(binaries, home, password, account)
    port = on_free_ports(1, lambda ports: _start(binaries, home, ports[0], options, ledger))
    return PostgresServer(
        HOST,
        port,
        USER,
        password,
        version=binaries.version,
        bin_dir=str(binaries.directory),
        data_dir=str(home / "data"),
        logical=_settings(options, port)["wal_level"] == "logical",
    )


def _home(ledger: Ledger, account: Account | None) -> Path:
    """The server's own directory: in the sandbox, unless its account could not get there."""
    home = ledger.directory / "postgres"
    if account is None:
        home.mkdir(mode=0o700)
        return home
    if reaches(ledger.directory, account):
        home.mkdir(mode=0o700)
    else:
        home = Path(tempfile.mkdtemp(prefix="vbackup-postgres-", dir="/var/tmp"))
        ledger.outside(home)
    os.chown(home, account.uid, account.gid)
    return home


def _initdb(binaries: Binaries, home: Path, password: str, account: Account | None) -> None:
    """A real password, checked for real: authentication must fail here as it does in life."""
    secret = home / "password"
    write_private(secret, password + "\n")
    if account:
        os.chown(secret, account.uid, account.gid)
    command = [binaries.tool("initdb"), "--pgdata", str(home / "data"), "--username", USER]
    command += ["--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8"]
    command += ["--locale", "C.UTF-8", "--no-sync", "--no-instructions"]
    try:
        done = subprocess.run(
            command,
            cwd=home,
            env=_environment(home),
            capture_output=True,
            text=True,
            timeout=120,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"initdb of PostgreSQL {binaries.version} did not run: {error}") from error
    finally:
        secret.unlink(missing_ok=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["(nothing on stderr)"]
        raise Failed(
            f"initdb of PostgreSQL {binaries.version} failed: {said[-1].strip()}",
            hint="it said\n" + "\n".join(f"  {line}" for line in said[-15:]),
        )


def _start(
    binaries: Binaries, home: Path, port: int, options: PostgresOptions, ledger: Ledger
) -> int:
    data = home / "data"
    command = [binaries.tool("postgres"), "-D", str(data)]
    for name, value in _settings(options, port).items():
        command += ["-c", f"{name}={value}"]
    log = ledger.directory / "postgres.log"
    log.unlink(missing_ok=True)
    server = process.spawn(
        Launch(
            kind="postgres",
            name=f"PostgreSQL {binaries.major}",
            argv=tuple(command),
            cwd=str(home),
            environment={**_environment(home), process.MARK: ledger.state.mark},
            log=str(log),
            ready=str(data / "postmaster.pid"),
            account=server_account(),
            stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
        )
    )
    ledger.started(server)
    wait_ready(server)
    return port


def _settings(options: PostgresOptions, port: int) -> dict[str, str]:
    wal_level = "logical" if options.logical else "replica"
    return {**_SETTINGS, "wal_level": wal_level, **options.settings, "port": str(port)}


def _environment(home: Path) -> dict[str, str]:
    """The user's PG* variables must not reach the server or initdb."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
