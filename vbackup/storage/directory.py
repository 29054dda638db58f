"""Objects as files below one directory (`file://`): atomic, durable, never outside of it.

An object `a/b` is the file `a/b`, so a key cannot be both an object and the prefix of others.
Files are written for their owner only (0600, directories 0700), as backups hold everything.
"""

from __future__ import annotations

import os
import secrets
import stat as modes
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from vbackup.errors import AlreadyExists, NotFound, Refused, Usage
from vbackup.ports import Buffer, Clock, ObjectStat
from vbackup.storage.filesystem import (
    link_new,
    open_no_follow,
    sync_directory,
    translated,
    write_all,
)
from vbackup.storage.keys import check_key, check_range

TEMPORARY_PREFIX = ".vbackup-tmp-"
STALE_AFTER = 24 * 3600.0
"""Seconds after which a temporary file was certainly left behind by a crash."""

_MKDIR_RACES = 10


class DirectoryStore:
    """`vbackup.ports.ObjectStore` on a local or network file system."""

    def __init__(self, root: Path, clock: Clock) -> None:
        if not root.is_absolute():
            raise Usage(f"not an absolute path: {root}", hint="write file:///var/backups/vbackup")
        self._root = root
        self._clock = clock

    @property
    def conditional(self) -> bool:
        """True: `link(2)` and `O_EXCL` refuse a name that is taken."""
        return True

    @property
    def location(self) -> str:
        return self._root.as_uri()

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> None:
        path = self._path(key)
        with translated("write", path):
            if if_absent and path.exists():  # before its bytes are written for nothing
                raise AlreadyExists(f"{path} is there already")
            temporary = self._write_temporary(path, data)
            try:
                self._name(temporary, path, if_absent)
                sync_directory(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _name(self, temporary: Path, path: Path, if_absent: bool) -> None:
        if not if_absent:
            temporary.replace(path)
            return
        try:
            link_new(temporary, path)
        except FileExistsError as error:
            raise AlreadyExists(f"{path} is there already") from error

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        path = self._path(key)
        with translated("read", path):
            if path.is_dir():
                raise NotFound(f"no object {key} in {self.location}")
            with os.fdopen(open_no_follow(path), "rb") as file:
                file.seek(start)
                return file.read() if length is None else file.read(length)

    def stat(self, key: str) -> ObjectStat | None:
        path = self._path(key)
        with translated("look up", path):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _stat(key, found) if modes.S_ISREG(found.st_mode) else None

    def scan(self, prefix: str = "") -> Iterator[ObjectStat]:
        """In key order (bytewise, as S3 has it), one directory listing in memory a level.

        Symbolic links are not followed. Temporary files that a crash left are removed.
        """
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self._root
        yield from self._walk(start, f"{folder}/" if folder else "", prefix)

    def delete(self, keys: Iterable[str]) -> None:
        """Files first, then the directories that became empty; each directory synced once."""
        parents: set[Path] = set()
        try:
            for key in keys:
                path = self._path(key)
                with translated("delete", path), suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                    parents.add(path.parent)
        finally:
            for parent in parents:
                self._settle(parent)

    def _settle(self, folder: Path) -> None:
        """Drop directories that deletes emptied, and make what remains durable."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:  # not empty, or somebody was faster
                break
            folder = folder.parent
        with translated("sync", folder), suppress(FileNotFoundError):
            sync_directory(folder)

    def _path(self, key: str) -> Path:
        """Where a key lives. Raises Refused for a key that leads out, symbolic links included."""
        path = self._root
        for part in check_key(key).split("/"):
            path /= part
            if part.startswith(TEMPORARY_PREFIX):
                raise Refused(f"not an object key: {key!r} is a temporary file's name")
            with translated("look up", path):
                linked = path.is_symlink()
            if linked:
                raise Refused(
                    f"{path} is a symbolic link; objects are never read or written through one",
                    hint="move the data into the repository, or name the link's target in its URL",
                )
        return path

    def _write_temporary(self, path: Path, data: Buffer) -> Path:
        """A synced file beside `path`, as renames are atomic only within one file system."""
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}")
        descriptor = self._create(temporary)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                write_all(file.fileno(), data)
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _create(self, temporary: Path) -> int:
        """Open a new file; its directory is made again when a concurrent delete removed it."""
        for _ in range(_MKDIR_RACES):
            try:
                self._make_directories(temporary.parent)
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileNotFoundError:
                continue
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def _make_directories(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make_directories(folder.parent)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            if _is_no_directory(folder):
                raise
        sync_directory(folder.parent)

    def _walk(self, folder: Path, base: str, prefix: str) -> Iterator[ObjectStat]:
        for entry in self._entries(folder):
            key = base + entry.name
            if entry.is_dir(follow_symlinks=False):
                inner = key + "/"
                if inner.startswith(prefix) or prefix.startswith(inner):
                    yield from self._walk(folder / entry.name, inner, prefix)
            elif entry.name.startswith(TEMPORARY_PREFIX):
                self._remove_stale(entry)
            elif key.startswith(prefix) and (found := _look(entry)) is not None:
                yield _stat(key, found)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """One directory in the order of the keys below it: a directory sorts with its slash."""
        with translated("list", folder):
            try:
                with os.scandir(folder) as listing:
                    return sorted(listing, key=_order)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _remove_stale(self, entry: os.DirEntry[str]) -> None:
        """Best effort: a reader may not be allowed to, and a writer may just have finished."""
        with suppress(OSError):
            age = self._clock.now().timestamp() - entry.stat(follow_symlinks=False).st_mtime
            if age > STALE_AFTER:
                Path(entry.path).unlink()


def _is_no_directory(path: Path) -> bool:
    """Whether the name is taken by something else. A directory may be gone again by now."""
    try:
        return not modes.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.is_symlink()


def _order(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")


def _look(entry: os.DirEntry[str]) -> os.stat_result | None:
    """A regular file's facts, or None: not a file, or deleted since it was listed."""
    if not entry.is_file(follow_symlinks=False):
        return None
    with translated("look up", Path(entry.path)):
        try:
            return entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None


def _stat(key: str, found: os.stat_result) -> ObjectStat:
    return ObjectStat(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
