"""Pre-processing of windows and pictures, the reference for the Rust implementation.

Everything is computed in f64 and cast to f32 at the very end, so that two
implementations agree to the last few bits whatever their order of summation.
The formulas are written out in docs/bundle-format.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PATCH = 16
PATCH_SIDE = 4
# What a task may ask for, and what it gets without asking.
LENGTHS, LENGTH = (64, 128, 256, 512, 1024), 256
SIDES, SIDE = (16, 32, 48, 64), 32
# Rows of the one embedding table: the window's positions, then the picture's grid.
POSITIONS = max(LENGTHS) // PATCH
GRID = max(SIDES) // PATCH_SIDE
WINDOW_FIRST, PICTURE_FIRST = 0, POSITIONS
ROWS = POSITIONS + GRID * GRID
# Keeps a constant channel finite without moving an ordinary one.
STD_FLOOR = 1e-4

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]


@lru_cache(maxsize=1024)
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


def strided(count: int, positions: int) -> NDArray[np.int64]:
    """Where `count` tokens lie among `positions`: the middle of each token's share."""
    return (2 * np.arange(count) + 1) * positions // (2 * count)


def window_ids(length: int) -> NDArray[np.int64]:
    """Embedding rows of a window of `length` points."""
    return WINDOW_FIRST + strided(length // PATCH, POSITIONS)


def picture_ids(side: int) -> NDArray[np.int64]:
    """Embedding rows of a plane of side x side, row-major."""
    at = strided(side // PATCH_SIDE, GRID)
    return (PICTURE_FIRST + GRID * at[:, None] + at).reshape(-1)


@dataclass(frozen=True)
class Plane:
    """One channel ready for the network, and what standardizing took from it."""

    patches: F32  # [tokens, 16]
    ids: NDArray[np.int64]
    mean: float
    std: float


def window_planes(window: NDArray, length: int = LENGTH) -> list[Plane]:
    """[channels, L] of any L >= 1 to one plane per channel."""
    x = resample(window, length)
    patches = standardize(x, (-1,)).reshape(len(x), -1, PATCH).astype(np.float32)
    ids = window_ids(length)
    return [Plane(p, ids, float(c.mean()), float(c.std())) for p, c in zip(patches, x, strict=True)]


def unit(picture: NDArray) -> F64:
    """[H, W] or [H, W, 3 or 4] of u8 or u16 to [H, W] or [H, W, 3] on 0..1; alpha is ignored."""
    x = picture.astype(np.float64) / (65535.0 if picture.dtype == np.uint16 else 255.0)
    return x[..., :3] if x.ndim == 3 else x


def luma(x: F64) -> F64:
    """[H, W] or [H, W, 3] to its brightness [H, W]."""
    return x if x.ndim == 2 else (299.0 * x[..., 0] + 587.0 * x[..., 1] + 114.0 * x[..., 2]) / 1000.0


def tile(square: NDArray) -> NDArray:
    """[..., side, side] to [..., tokens, 16]: 4x4 blocks row-major, each block row-major."""
    lead, p = square.shape[:-2], PATCH_SIDE
    g = square.shape[-1] // p
    blocks = square.reshape(*lead, g, p, g, p)
    return np.swapaxes(blocks, -3, -2).reshape(*lead, g * g, p * p)


def _squared(x: F64, side: int) -> F64:
    return resample(resample(x, side).T, side).T


def picture_planes(picture: NDArray, side: int = SIDE, colour: bool = False) -> list[Plane]:
    """One picture to its luma plane and, with `colour`, two chroma planes of half the side."""
    x = unit(picture)
    y = luma(x)
    light = _squared(y, side)
    planes, scales = [light], [light.std()]
    if colour:
        for c in (x[..., 2] - y, x[..., 0] - y) if x.ndim == 3 else (y - y, y - y):
            planes.append(_squared(c, side // 2))
            # A quarter of the luma's contrast at least: the chroma of a grey picture is noise, and stays small.
            scales.append(max(planes[-1].std(), light.std() / 4))
    out = []
    for plane, scale in zip(planes, scales, strict=True):
        centred = (plane - plane.mean()) / (scale + STD_FLOOR)
        ids = picture_ids(plane.shape[0])
        out.append(Plane(tile(centred).astype(np.float32), ids, float(plane.mean()), float(plane.std())))
    return out


def levels(plane: Plane, low: float = 0.0, high: float = 1.0) -> F32:
    """Mean and spread of a channel in its declared range: [2], each within +-8."""
    mean = 4.0 * (plane.mean - (low + high) / 2) / (high - low)
    spread = (np.log2(plane.std / (high - low) + 2.0**-12) + 4.0) / 2.0
    return np.clip([mean, spread], -8.0, 8.0).astype(np.float32)
