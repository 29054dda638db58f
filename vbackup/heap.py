"""The C library's heap: few arenas, so that what one thread frees serves another.

glibc gives each thread an arena of its own, up to eight for a processor (mallopt(3)), and blocks
that wander from thread to thread leave holes in all of them.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

ARENAS = 2
_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Have no more than two arenas: a backup takes a sixth less memory so, a restore a quarter, in
    the same time. To be called before there are threads. Whoever sets MALLOC_ARENA_MAX is obeyed,
    and a C library without such a setting is left alone."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
