"""Sealing and compression: exact round trips, and nothing believed that was changed."""

from __future__ import annotations

import os
import struct
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vbackup.errors import Damaged, Refused
from vbackup.repository import codec, planes, sealed
from vbackup.repository.codec import AesGcmSeal, Compression, PlainSeal, Seal

KEY = bytes(range(32))
SEALS: list[Seal] = [AesGcmSeal(KEY), PlainSeal(KEY)]
COMPRESSION = Compression(1)


def vectors(count: int, width: type[np.floating[Any]]) -> bytes:
    return np.random.default_rng(1).standard_normal(count).astype(width).tobytes()


@pytest.mark.parametrize("seal", SEALS)
@given(data=st.binary(max_size=300), bound=st.binary(max_size=20))
@settings(max_examples=30, deadline=None)
def test_sealing_round_trips(seal: Seal, data: bytes, bound: bytes) -> None:
    stored = seal.seal(b"purpose", b"name", data, bound)
    assert len(stored) == len(data) + seal.overhead
    assert seal.unseal(b"purpose", b"name", stored, bound) == data


@pytest.mark.parametrize("seal", SEALS)
def test_anything_changed_is_found(seal: Seal) -> None:
    stored = bytes(seal.seal(b"purpose", b"name", b"some data", b"bound"))
    for position in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(Damaged):
            seal.unseal(b"purpose", b"name", flipped, b"bound")
    for purpose, name, bound, data in (
        (b"other", b"name", b"bound", stored),
        (b"purpose", b"other", b"bound", stored),
        (b"purpose", b"name", b"", stored),
        (b"purpose", b"name", b"bound", stored[:-1]),
        (b"purpose", b"name", b"bound", b""),
    ):
        with pytest.raises(Damaged):
            seal.unseal(purpose, name, data, bound)


def test_encryption_hides_and_never_repeats() -> None:
    first, second = (SEALS[0].seal(b"p", b"n", b"secret" * 10) for _ in range(2))
    assert b"secret" not in first
    assert first != second


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (os.urandom(100_000), codec.RAW),
        (b"text " * 20_000, codec.ZSTD),
        ("Füße in Zürich\n".encode() * 9000, codec.ZSTD),
        ("Москва и Казань\n".encode() * 9000, codec.ZSTD),
        (vectors(40_000, np.float32), codec.PLANES),
        (vectors(40_000, np.float32)[3:], codec.PLANES),
        (vectors(40_000, np.float16), codec.PLANES),
        (b"x", codec.RAW),
    ],
)
def test_the_codec_fits_the_data(data: bytes, expected: int) -> None:
    found, stored = COMPRESSION.pack(data)
    assert found == expected
    assert codec.expand(found, bytes(stored), len(data)) == data
    assert len(stored) <= len(data)


def test_planes_save_more_on_vectors_than_zstd_alone() -> None:
    data = vectors(40_000, np.float32)
    assert len(COMPRESSION.pack(data)[1]) < 0.95 * len(zstandard.ZstdCompressor(1).compress(data))


@given(st.binary(max_size=2000), st.sampled_from(planes.STRIDES))
@settings(max_examples=100, deadline=None)
def test_planes_round_trip(data: bytes, stride: int) -> None:
    compressor = zstandard.ZstdCompressor(1)
    packed = planes.pack(data, stride, compressor.compress)
    assert codec.expand(codec.PLANES, packed, len(data)) == data


@given(st.sampled_from(codec.CODECS), st.binary(max_size=200), st.integers(1, 2**24))
@settings(max_examples=300, deadline=None)
def test_garbage_is_damaged_or_itself(found: int, stored: bytes, length: int) -> None:
    with suppress(Damaged):
        assert len(codec.expand(found, stored, length)) == length


def test_planes_with_more_or_less_than_they_say_are_damaged() -> None:
    packed = planes.pack(b"abcdefgh" * 10, 4, zstandard.ZstdCompressor(1).compress)
    for wrong in (packed + b"x", packed[:-1], packed[:5], b"\x03" + packed[1:]):
        with pytest.raises(Damaged):
            codec.expand(codec.PLANES, wrong, 80)


def test_an_unknown_codec_is_damaged() -> None:
    with pytest.raises(Damaged):
        codec.expand(9, b"", 0)


BOMB = zstandard.ZstdCompressor(19).compress(bytes(256 * 1024**2))
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * 1024**2))


@pytest.mark.parametrize("bomb", [BOMB, UNSIZED], ids=["sized", "unsized"])
def test_decompression_bombs_cost_no_memory(bomb: bytes) -> None:
    header = struct.pack("<BII", 2, 600, len(bomb))
    tracemalloc.start()
    try:
        for found, stored in ((codec.ZSTD, bomb), (codec.PLANES, header + bytes(600) + bomb)):
            with pytest.raises(Damaged):
                codec.expand(found, stored, 1200)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_second_frame_is_damaged() -> None:
    frame = zstandard.ZstdCompressor().compress(b"x" * 100)
    with pytest.raises(Damaged):
        codec.expand(codec.ZSTD, frame + frame, 100)


# ---------------------------------------------------------------- small objects


@pytest.mark.parametrize("seal", SEALS)
def test_small_objects_open_only_as_what_they_are(seal: Seal) -> None:
    data = sealed.encode(seal, sealed.PIN, "backups/b1/pin", b"content")
    assert sealed.decode(seal, sealed.PIN, "backups/b1/pin", data, limit=100) == b"content"
    for kind, name, limit in (
        (sealed.CHECK, "backups/b1/pin", 100),
        (sealed.PIN, "backups/b2/pin", 100),
        (sealed.PIN, "backups/b1/pin", 6),
    ):
        with pytest.raises(Damaged):
            sealed.decode(seal, kind, name, data, limit=limit)


@pytest.mark.parametrize("seal", SEALS)
def test_a_newer_envelope_is_refused_only_when_it_is_genuine(
    seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "FORMAT_VERSION", 2)
    newer = sealed.encode(seal, sealed.PIN, "pin", b"")
    monkeypatch.undo()
    with pytest.raises(Refused):
        sealed.decode(seal, sealed.PIN, "pin", newer, limit=100)
    forged = bytearray(sealed.encode(seal, sealed.PIN, "pin", b""))
    forged[4] = 2
    with pytest.raises(Damaged):
        sealed.decode(seal, sealed.PIN, "pin", forged, limit=100)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_no_small_object(data: bytes) -> None:
    for seal in SEALS:
        with pytest.raises(Damaged):
            sealed.decode(seal, sealed.INDEX, "index", b"VBAK\x01I\0\0" + data, limit=2**20)
