"""Kill and restart single servers of a sandbox that is up: for drills, soaks and torture."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from vbackup.errors import Failed, NotFound
from vbackup.sandbox import docker, process
from vbackup.sandbox.ledger import Ledger, locked, read_state
from vbackup.sandbox.process import Launch, ServerProcess
from vbackup.sandbox.readiness import TIMEOUT, wait_ready
from vbackup.sandbox.s3 import create_bucket
from vbackup.sandbox.sandbox import Sandbox


def kill(sandbox: Sandbox, kind: str) -> None:
    """SIGKILL one server ("postgres", "qdrant-1", "s3") and return once it is gone.

    Raises NotFound.
    """
    _kill(_find(sandbox.directory, kind))


def restart(sandbox: Sandbox, kind: str) -> Sandbox:
    """Stop one server, if it runs, and start it on its own data and ports; waits until ready.

    The S3 server keeps its objects in memory: it comes back with an empty bucket.
    Returns the sandbox as it is now. Raises NotFound, Failed, Locked.
    """
    with locked(sandbox.directory):
        server = _find(sandbox.directory, kind)
        process.stop([server])
        state = read_state(sandbox.directory) or sandbox.state
        ledger = Ledger(sandbox.directory, state)
        _start_again(server.launch, ledger)
        if kind == "s3" and state.s3:
            create_bucket(state.s3.endpoint_url)
        return dataclasses.replace(sandbox, state=ledger.state)


def _kill(server: ServerProcess) -> None:
    process.stop([server], grace=0.0, polite=False)
    if server.launch.container:
        docker.remove(server.launch.container)


def _find(directory: Path, kind: str) -> ServerProcess:
    state = read_state(directory)
    processes = state.processes if state else ()
    for each in processes:
        if each.launch.kind == kind:
            return each
    kinds = ", ".join(each.launch.kind for each in processes) or "nothing"
    raise NotFound(f"the sandbox in {directory} has no {kind}", hint=f"it has {kinds}")


def _start_again(launch: Launch, ledger: Ledger) -> None:
    """After SIGKILL, PostgreSQL must wait for its orphaned backends to notice and end."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        server = process.spawn(launch)
        ledger.started(server)
        try:
            wait_ready(server)
        except Failed as error:
            said = f"{error.message} {error.hint}"
            orphans = "still in use" in said or "another postmaster" in said
            if not orphans or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
