"""Pooled features to the numbers a module sees: z = projection (pooled - mean), in f32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Principal directions a bundle keeps.
DIRECTIONS = 128
F32 = NDArray[np.float32]


def project(pooled: F32, tensors: dict[str, NDArray]) -> F32:
    """Pooled features [..., exits, pooled] to z [..., exits, directions], in f32 throughout."""
    out = []
    for k in range(pooled.shape[-2]):
        mean = tensors[f"exit_{k + 1}.mean"].astype(np.float32)
        projection = tensors[f"exit_{k + 1}.projection"].astype(np.float32)
        out.append((pooled[..., k, :] - mean) @ projection.T)
    return np.stack(out, -2)


def combine(z: F32, features: int = 256, extras: int = 0) -> F32:
    """Channels [..., channels, exits, directions] to [..., exits, n]: the first directions of each, in order.

    `features` counts the `extras`, which are appended behind.
    """
    channels = z.shape[-3]
    kept = min(z.shape[-1], (features - extras) // channels)
    return np.concatenate([z[..., c, :, :kept] for c in range(channels)], -1)
