"""Pre-processing of windows and pictures, the reference for the Rust implementation.

Everything is computed in f64 and cast to f32 at the very end, so that two
implementations agree to the last few bits whatever their order of summation.
The formulas are written out in docs/bundle-format.md.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WINDOW_LENGTH = 256
PATCH = 16
PICTURE_SIDE = 32
PICTURE_PATCH_SIDE = 4
WINDOW_TOKENS = WINDOW_LENGTH // PATCH
PICTURE_TOKENS = (PICTURE_SIDE // PICTURE_PATCH_SIDE) ** 2
# Rows of the one embedding table: first the window's tokens, then the picture's.
WINDOW_IDS = np.arange(WINDOW_TOKENS, dtype=np.int64)
PICTURE_IDS = np.arange(WINDOW_TOKENS, WINDOW_TOKENS + PICTURE_TOKENS, dtype=np.int64)
# Keeps a constant channel finite without moving an ordinary one.
STD_FLOOR = 1e-4

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


@lru_cache(maxsize=256)
def resample_matrix(m: int, n: int) -> F64:
    """The [n, m] matrix of `resample`, which is linear in its input."""
    if m < 1 or n < 1:
        raise ValueError(f"cannot resample {m} points to {n}: both must be at least 1")
    if m == n:
        return np.eye(n)
    if m == 1:
        return np.ones((n, 1))
    out = np.zeros((n, m))
    if m < n:
        position = np.arange(n) * (m - 1) / (n - 1)
        left = np.minimum(np.floor(position).astype(int), m - 2)
        share = position - left
        out[np.arange(n), left] = 1.0 - share
        out[np.arange(n), left + 1] += share
        return out
    # Area average: the overlap of input cell j = [j, j+1) with output cell i, in input units.
    edge = np.arange(n + 1) * m / n
    cell = np.arange(m)
    overlap = np.minimum(edge[1:, None], cell + 1) - np.maximum(edge[:-1, None], cell)
    return np.maximum(overlap, 0.0) / (m / n)


def resample(x: NDArray, n: int) -> F64:
    """Resample the last axis to n points: linear when it grows, area average when it shrinks."""
    x = np.asarray(x, np.float64)
    if x.shape[-1] == n:
        return x
    return x @ resample_matrix(x.shape[-1], n).T


def standardize(x: F64, axes: tuple[int, ...]) -> F64:
    """Zero mean and about unit population standard deviation over `axes`."""
    centred = x - x.mean(axes, keepdims=True)
    return centred / (x.std(axes, keepdims=True) + STD_FLOOR)


def window_patches(window: NDArray) -> F32:
    """[..., L] channels of any length L >= 1 to tokens [..., 16, 16]."""
    x = standardize(resample(window, WINDOW_LENGTH), (-1,))
    return x.reshape(*x.shape[:-1], WINDOW_TOKENS, PATCH).astype(np.float32)


def grey(picture: NDArray) -> F64:
    """[H, W] or [H, W, 3 or 4] of u8 or u16 to [H, W] on 0..1; alpha is ignored."""
    x = picture.astype(np.float64)
    if picture.dtype == np.uint16:
        x /= 257.0
    if x.ndim == 3:
        x = (299.0 * x[..., 0] + 587.0 * x[..., 1] + 114.0 * x[..., 2]) / 1000.0
    return x / 255.0


def tile(square: NDArray) -> NDArray:
    """[..., 32, 32] to [..., 64, 16]: 4x4 blocks row-major, each block row-major."""
    lead, side, p = square.shape[:-2], PICTURE_SIDE // PICTURE_PATCH_SIDE, PICTURE_PATCH_SIDE
    blocks = square.reshape(*lead, side, p, side, p)
    return np.swapaxes(blocks, -3, -2).reshape(*lead, PICTURE_TOKENS, p * p)


def picture_patches(picture: NDArray) -> F32:
    """One picture, as `grey` takes it, to tokens [64, 16]."""
    rows = resample(grey(picture), PICTURE_SIDE)
    square = resample(rows.T, PICTURE_SIDE).T
    return tile(standardize(square, (-2, -1))).astype(np.float32)
