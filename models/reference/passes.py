"""Sizes of the fixed case, the layout of parameters, and the forward pass. numpy only, all in f64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
EXITS, FEATURES, OUTPUTS, RANK, SAMPLES = 3, 10, 4, 2, 40
HORIZON, LEVELS = 3, (0.1, 0.5, 0.9)


def tensors(recipe: str, outputs: int = OUTPUTS) -> list[tuple[str, tuple[int, ...]]]:
    """Canonical names and dimensions."""
    out: list[tuple[str, tuple[int, ...]]] = []
    for k in range(1, EXITS + 1):
        width = FEATURES
        if recipe == "ladder":
            width = RANK
            out += [(f"exit_{k}.down", (RANK, FEATURES)), (f"exit_{k}.down_bias", (RANK,))]
            out += [(f"exit_{k}.gate", (RANK,))] if k > 1 else []
        out += [(f"exit_{k}.weight", (outputs, width)), (f"exit_{k}.bias", (outputs,))]
    return out


def named(recipe: str, flat: F64, outputs: int = OUTPUTS) -> dict[str, F64]:
    """Flat parameters as named tensors."""
    out, at = {}, 0
    for name, dims in tensors(recipe, outputs):
        size = int(np.prod(dims))
        out[name] = flat[at : at + size].reshape(dims)
        at += size
    assert at == flat.size
    return out


def forward(recipe: str, flat: F64, z: F64, outputs: int = OUTPUTS) -> F64:
    """Features [n, exits, features] to outputs [n, exits, outputs]."""
    p, state, out = named(recipe, flat, outputs), None, []
    for k in range(1, EXITS + 1):
        x = z[:, k - 1]
        if recipe == "ladder":
            a = x @ p[f"exit_{k}.down"].T + p[f"exit_{k}.down_bias"]
            open_ = 1 / (1 + np.exp(-p[f"exit_{k}.gate"])) if k > 1 else 0.0
            state = a if state is None else open_ * state + (1 - open_) * a
            x = state
        out.append(x @ p[f"exit_{k}.weight"].T + p[f"exit_{k}.bias"])
    return np.stack(out, 1)


def spectrum(matrix: F64) -> tuple[F64, F64]:
    """Nonzero eigenvalues, largest first, and eigenvectors as rows, largest component positive."""
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors.T[::-1]
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)])
    kept = values > values[0] * 1e-9
    return values[kept], (vectors * signs[:, None])[kept]
