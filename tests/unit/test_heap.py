"""Few arenas of the C library's heap, unless somebody asked for another number."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from vbackup.heap import ARENAS, limit_arenas

M_ARENA_MAX = -8
"""As malloc.h has it."""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the C library was told."""
    told: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, name: int, value: int) -> None:
            told.append((name, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    return told


def test_arenas_are_limited(settings: list[tuple[int, int]]) -> None:
    limit_arenas()
    assert settings == [(M_ARENA_MAX, ARENAS)]


def test_who_sets_a_number_keeps_it(
    settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "16")
    limit_arenas()
    assert settings == []


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_: Any) -> object:
        return object()

    monkeypatch.setattr(ctypes, "CDLL", without)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    limit_arenas()
