"""Tells a process from a later one with its pid, and this machine from others (Linux)."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def place() -> str:
    """This machine since its boot, and this pid namespace; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when there is none (any more)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # proc(5): the command, field 2, may hold spaces and brackets; fields are counted after it.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]


def mark(pid: int | None = None) -> str:
    """One line that names this very process, to be kept and asked about later."""
    number = os.getpid() if pid is None else pid
    return f"{number}@{started(number)}@{place()}"


def pid_if_alive(kept: str) -> int | None:
    """The pid of the process of this mark, while it runs and when it runs here."""
    number, _, rest = kept.partition("@")
    began, _, where = rest.partition("@")
    if not number.isdigit() or not began or where != place():
        return None
    return int(number) if started(int(number)) == began else None
