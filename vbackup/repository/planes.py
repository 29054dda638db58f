"""Byte planes: numbers of equal width compress better with their equal-ranked bytes together.

Vectors are most of what a pair stores. zstd alone saves some 8 % of 32-bit floats, because only
one byte in four repeats; that byte's plane alone saves twice that, and the others cost no time.

    stride u8 | stored length of each plane, u32 LE | planes (zstd frames, or raw where shorter)

Plane k holds the bytes k, k + stride, k + 2 * stride, ... of the chunk. The chunk need not begin
at a number: the planes only turn.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from vbackup.errors import Damaged
from vbackup.ports import Buffer

STRIDES = (2, 4)
"""What readers accept."""

STRIDE = 4
"""What is written: as good for 16-bit floats as their own width would be."""

_SAMPLE = 8192
_GLANCE = 2048
_NOT_ASCII = bytes(range(128, 256))

Squeeze = Callable[[Buffer], bytes]


def worthwhile(data: Buffer, squeeze: Squeeze, squeeze_plane: Squeeze) -> bool:
    """Whether planes of `STRIDE` save more than zstd alone, judged by a sample of the middle.
    Text is told at a glance, without a call that gives up Python's lock: each blob is asked about,
    and a thread may wait longer for that lock than the call takes."""
    view = memoryview(data)
    middle = len(view) // 2
    sample = view[middle : middle + _SAMPLE] if len(view) > 2 * _SAMPLE else view
    glance = sample[:_GLANCE].tobytes()
    if len(glance.translate(None, _NOT_ASCII)) > 0.9 * len(glance):
        return False
    plain = len(squeeze(sample))
    if plain < 0.8 * len(sample) or plain > 0.995 * len(sample):
        return False
    return len(pack(sample, STRIDE, squeeze_plane)) < 0.97 * plain


def pack(data: Buffer, stride: int, squeeze: Squeeze) -> bytes:
    """The planes of data, each squeezed where that makes it shorter."""
    numbers = np.frombuffer(data, dtype=np.uint8)
    stored: list[Buffer] = []
    for rank in range(stride):
        plane = np.ascontiguousarray(numbers[rank::stride]).data
        squeezed = squeeze(plane)
        stored.append(squeezed if len(squeezed) < len(plane) else plane)
    lengths = struct.pack(f"<B{stride}I", stride, *map(len, stored))
    return b"".join([lengths, *stored])


def unpack(packed: bytes, length: int, expand: Callable[[Buffer, int], bytes]) -> bytes:
    """The `length` bytes that were packed; `expand` undoes `squeeze`. Raises Damaged."""
    stride = packed[0] if packed else 0
    header = 1 + 4 * stride
    if stride not in STRIDES or len(packed) < header:
        raise Damaged("byte planes are malformed")
    lengths = struct.unpack_from(f"<{stride}I", packed, 1)
    if header + sum(lengths) != len(packed):
        raise Damaged("byte planes have other lengths than they say")
    numbers = np.empty(length, dtype=np.uint8)
    position = header
    for rank, stored in enumerate(lengths):
        plane: Buffer = memoryview(packed)[position : position + stored]
        plain = len(range(rank, length, stride))
        if stored != plain:
            plane = expand(plane, plain)
        numbers[rank::stride] = np.frombuffer(plane, dtype=np.uint8)
        position += stored
    return numbers.tobytes()
