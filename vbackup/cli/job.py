"""`python -m vbackup.cli.job PID …`: a vbackup command that does not outlive the daemon PID.

A daemon that is killed cannot stop its job. The kernel does it instead: the job is told to stop
as by Ctrl-C, keeps what it uploaded for the next run, and never meets that next run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

from vbackup.cli.main import main

PR_SET_PDEATHSIG = 1


def follow(daemon: int) -> None:
    """Be stopped when the parent ends; end now when it has ended already (prctl(2), Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != daemon:
        sys.exit(130)


def command() -> NoReturn:
    """The first argument is the daemon's pid, the others are the command line."""
    follow(int(sys.argv.pop(1)))
    main()


if __name__ == "__main__":
    command()
