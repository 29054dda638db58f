"""Durable file operations, and what the operating system's errors mean for a backup."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vbackup.errors import Denied, Failed, NotFound, Refused, Unreachable, VbackupError
from vbackup.ports import Buffer

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_DIRECTORY_SYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_CLASH = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}
_TRANSIENT = {errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.ENETDOWN}
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}


def write_all(descriptor: int, data: Buffer) -> None:
    """Write every byte; `write(2)` may take fewer than it is given."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_directory(folder: Path) -> None:
    """Make names in a directory durable. Some file systems cannot, and need not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _DIRECTORY_SYNC_UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def open_no_follow(path: Path) -> int:
    """A descriptor for reading; a symbolic link at the end of the path is refused."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def link_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name only if the name is free. Raises FileExistsError.

    The temporary name may stay behind; the caller removes it.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        # Over NFS the reply of a successful link can get lost and the client try again.
        if temporary.stat().st_nlink != 2:
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _reserve_and_replace(temporary, path)


def _reserve_and_replace(temporary: Path, path: Path) -> None:
    """For file systems without hard links (FAT, some SMB): reserve the name, then replace it.

    Exactly one writer wins; a reader may see an empty file for an instant.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def translated(verb: str, path: Path) -> Iterator[None]:
    """Raise the operating system's errors as vbackup's, once, at the boundary."""
    try:
        yield
    except OSError as error:
        raise translate(error, verb, path) from error


def translate(error: OSError, verb: str, path: Path) -> VbackupError:
    what = f"cannot {verb} {path}: {error.strerror or error}"
    code = error.errno
    if code in _FULL:
        return Failed(what, hint="free some space (vbackup prune) or enlarge the disk or quota")
    if code == errno.EROFS:
        return Refused(
            what, hint="the file system is mounted read-only: remount it, or check dmesg"
        )
    if code == errno.ELOOP:
        return Refused(f"{path} is a symbolic link; objects are never read or written through one")
    if code in _DENIED:
        return Denied(what, hint=f"give this user access: {_who()} needs it on {path.parent}")
    if code in _TOO_MANY_FILES:
        return Failed(what, hint="raise the limit of open files (ulimit -n)", retryable=True)
    if code in _TRANSIENT:
        return Unreachable(what, hint="the file system does not answer: check the mount")
    if code == errno.EIO:
        return Failed(what, hint="the disk reports damage: check dmesg and smartctl")
    if verb != "write" and code in _ABSENT:
        return NotFound(what)
    if code == errno.ENOENT:
        # Directories are made on the way: somebody took one away, or unmounted it.
        return Unreachable(what, hint="its directory went away meanwhile: check the mount")
    if code in _CLASH:
        return Failed(what, hint="a key cannot be an object and the prefix of other objects")
    return Failed(what)


def _who() -> str:
    return f"uid {os.geteuid()}"
