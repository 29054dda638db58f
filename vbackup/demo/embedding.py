"""A deterministic embedding: hashed character n-grams, the same vector on every machine.

Texts that share words and phrases are near each other, so a search finds what a reader expects;
no model is needed, and anybody can compute a point's vector again from its row's text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

# Longer grams say more: "the " is everywhere, "context manager" is not.
_GRAMS = ((3, 0.5), (4, 1.0), (6, 1.5))
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(29)


def embed(text: str, dimensions: int) -> Vector:
    """The unit vector of one text, shape (dimensions,), float32."""
    letters = np.frombuffer(f" {' '.join(text.lower().split())} ".encode(), dtype=np.uint8)
    codes = letters.astype(np.uint64)
    sums = np.zeros(dimensions, dtype=np.float64)
    for size, weight in _GRAMS:
        if len(codes) >= size:
            sums += weight * _counted(codes, size, dimensions)
    # A gram that is repeated often should not drown the rest.
    damped = np.sign(sums) * np.sqrt(np.abs(sums))
    length = float(np.linalg.norm(damped))
    if length == 0.0:
        damped[0] = length = 1.0
    return (damped / length).astype(np.float32)


def embed_all(texts: Sequence[str], dimensions: int) -> Vector:
    """One unit vector a text, shape (len(texts), dimensions), float32."""
    if not texts:
        return np.zeros((0, dimensions), dtype=np.float32)
    return np.stack([embed(text, dimensions) for text in texts])


def _counted(codes: npt.NDArray[np.uint64], size: int, dimensions: int) -> npt.NDArray[np.float64]:
    """Signed counts of all grams of one size, each hashed to one dimension and one sign."""
    count = len(codes) - size + 1
    grams = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        grams = (grams << np.uint64(8)) | codes[offset : offset + count]
    # The multiplication wraps at 64 bits on purpose: that is the hash.
    mixed = (grams ^ (grams >> _FOLD)) * _MIX
    mixed ^= mixed >> np.uint64(32)
    slots = (mixed % np.uint64(dimensions)).astype(np.intp)
    signs = np.where((mixed >> np.uint64(63)) == 0, 1.0, -1.0)
    return np.bincount(slots, weights=signs, minlength=dimensions).astype(np.float64)
