"""What only a directory can get wrong: paths, links, leftovers, the operating system's errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults import ManualClock
from vbackup.errors import (
    AlreadyExists,
    Denied,
    Failed,
    NotFound,
    Refused,
    Unreachable,
    Usage,
    VbackupError,
)
from vbackup.storage.directory import STALE_AFTER, TEMPORARY_PREFIX, DirectoryStore
from vbackup.storage.filesystem import translate


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> DirectoryStore:
    return DirectoryStore(tmp_path / "repo", clock)


def _leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob(f"{TEMPORARY_PREFIX}*")]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "k" * 1025,
        f"a/{TEMPORARY_PREFIX}1",
    ],
)
def test_keys_that_lead_out_are_refused_by_every_method(store: DirectoryStore, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(key, b"x"),
        lambda: store.get(key),
        lambda: store.stat(key),
        lambda: store.delete([key]),
    ]
    for call in calls:
        with pytest.raises(Refused):
            call()


def test_scan_refuses_to_leave_the_root(store: DirectoryStore) -> None:
    with pytest.raises(Refused):
        list(store.scan("../"))


def test_symbolic_links_are_neither_followed_nor_listed(
    store: DirectoryStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("a/real", b"1")
    (tmp_path / "repo/link").symlink_to(outside)
    (tmp_path / "repo/a/file").symlink_to(outside / "secret")
    assert [found.key for found in store.scan()] == ["a/real"]
    for key in ("link/secret", "a/file"):
        with pytest.raises(Refused, match="symbolic link"):
            store.get(key)
        with pytest.raises(Refused, match="symbolic link"):
            store.put(key, b"overwritten")
        with pytest.raises(Refused, match="symbolic link"):
            store.delete([key])
    assert (outside / "secret").read_bytes() == b"secret"


def test_root_may_be_a_symbolic_link(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "repo").symlink_to(tmp_path / "disk")
    store = DirectoryStore(tmp_path / "repo", clock)
    store.put("a/b", b"1")
    assert (tmp_path / "disk/a/b").read_bytes() == b"1"


def test_files_are_for_their_owner_only(store: DirectoryStore, tmp_path: Path) -> None:
    store.put("a/b", b"1")
    assert (tmp_path / "repo/a/b").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "repo/a").stat().st_mode & 0o777 == 0o700


def test_leftovers_of_a_crash_are_invisible_and_go_after_a_day(
    store: DirectoryStore, clock: ManualClock, tmp_path: Path
) -> None:
    store.put("a/b", b"1")
    leftover = tmp_path / "repo/a" / f"{TEMPORARY_PREFIX}1-x"
    leftover.write_bytes(b"half")
    at = clock.now().timestamp()
    os.utime(leftover, (at, at))
    assert [found.key for found in store.scan()] == ["a/b"]
    assert leftover.exists()
    clock.advance(STALE_AFTER + 1)
    assert [found.key for found in store.scan()] == ["a/b"]
    assert not leftover.exists()


def test_deletes_remove_the_directories_they_emptied(store: DirectoryStore, tmp_path: Path) -> None:
    store.put("a/b/c", b"1")
    store.put("a/d", b"1")
    store.delete(["a/b/c"])
    assert not (tmp_path / "repo/a/b").exists()
    assert (tmp_path / "repo/a/d").exists()
    store.delete(["a/d"])
    assert (tmp_path / "repo").exists()
    assert list((tmp_path / "repo").iterdir()) == []


def test_an_object_cannot_also_be_a_prefix(store: DirectoryStore) -> None:
    store.put("a", b"1")
    with pytest.raises(Failed, match="cannot write"):
        store.put("a/b", b"1")
    store.put("c/d", b"1")
    with pytest.raises(Failed, match="cannot write"):
        store.put("c", b"1")
    with pytest.raises(NotFound):
        store.get("c")
    with pytest.raises(NotFound):
        store.get("a/b")
    assert store.stat("c") is None
    assert store.stat("a/b") is None


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "link"])
def test_a_failing_step_leaves_the_old_object_and_no_leftovers(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put("a/b", b"old")
    owner = Path if step == "replace" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, full)
        with pytest.raises(Failed, match="No space left") as caught:
            store.put("a/c" if step == "link" else "a/b", b"new", if_absent=step == "link")
    assert "prune" in caught.value.hint
    assert not caught.value.retryable
    assert store.get("a/b") == b"old"
    assert store.stat("a/c") is None
    assert _leftovers(tmp_path) == []


def test_short_writes_are_continued(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    store.put("a", memoryview(b"0123456789"))
    assert store.get("a") == b"0123456789"


def test_without_hard_links_names_are_reserved(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)
    store.put("a/b", b"first", if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put("a/b", b"second", if_absent=True)
    assert store.get("a/b") == b"first"
    assert _leftovers(tmp_path) == []


def test_a_link_whose_reply_was_lost_counts_as_made(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def linked_but_refused(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", linked_but_refused)
    store.put("a", b"1", if_absent=True)
    assert store.get("a") == b"1"


def test_a_directory_that_a_delete_removed_meanwhile_is_made_again(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open
    calls: list[Path] = []

    def racing(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_EXCL and not calls:
            calls.append(path)
            Path(path).parent.rmdir()
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", racing)
    store.put("a/b", b"1")
    assert calls
    assert store.get("a/b") == b"1"


@pytest.mark.parametrize(
    ("code", "verb", "expected", "retryable"),
    [
        (errno.ENOSPC, "write", Failed, False),
        (errno.EDQUOT, "write", Failed, False),
        (errno.EROFS, "write", Refused, False),
        (errno.ELOOP, "read", Refused, False),
        (errno.EACCES, "write", Denied, False),
        (errno.EPERM, "delete", Denied, False),
        (errno.EMFILE, "read", Failed, True),
        (errno.ESTALE, "read", Unreachable, True),
        (errno.EIO, "read", Failed, False),
        (errno.ENOENT, "read", NotFound, False),
        (errno.ENOENT, "write", Unreachable, True),
        (errno.EISDIR, "write", Failed, False),
        (errno.ENAMETOOLONG, "write", Failed, False),
    ],
)
def test_translation(code: int, verb: str, expected: type[VbackupError], retryable: bool) -> None:
    error = translate(OSError(code, os.strerror(code)), verb, Path("/repo/a"))
    assert type(error) is expected
    assert error.retryable is retryable
    assert f"cannot {verb} /repo/a" in error.message or "symbolic link" in error.message


def test_a_directory_that_others_make_and_remove_meanwhile_is_made_again(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, taken = Path.mkdir, [True]

    def raced(self: Path, *arguments: Any, **options: Any) -> None:
        if self.name == "d" and taken:
            taken.pop()
            raise FileExistsError(errno.EEXIST, "File exists", str(self))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", raced)
    store.put("d/x", b"1")
    assert not taken
    assert store.get("d/x") == b"1"


def test_puts_and_deletes_race_for_their_directories(store: DirectoryStore, tmp_path: Path) -> None:
    """Deletes drop empty directories while puts make them: no put may fail, none be lost."""

    def work(number: int) -> None:
        for turn in range(60):
            store.put(f"d/{turn % 2}/{number}", b"%d" % turn)
            if turn < 59:
                store.delete([f"d/{turn % 2}/{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert [found.key for found in store.scan()] == [f"d/1/{number}" for number in range(4)]
    assert _leftovers(tmp_path) == []


def test_modified_is_utc(store: DirectoryStore) -> None:
    store.put("a", b"1")
    found = store.stat("a")
    assert found is not None
    assert found.modified.utcoffset() == timedelta(0)


def test_relative_roots_and_negative_ranges_are_usage_errors(
    store: DirectoryStore, clock: ManualClock
) -> None:
    with pytest.raises(Usage):
        DirectoryStore(Path("backups"), clock)
    store.put("a", b"1")
    with pytest.raises(Usage):
        store.get("a", -1)
