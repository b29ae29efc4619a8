"""Losses and their gradients by the complex step: exact to rounding, and no derivation to get wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from passes import F64, HORIZON, LEVELS, forward

HUBER = 0.25


def log_softmax(x: F64) -> F64:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def loss(recipe: str, flat: F64, z: F64, labels: NDArray, offset: F64, weights: F64) -> float:
    """Weighted mean over samples of the sum over exits of the cross-entropy."""
    logp = log_softmax(forward(recipe, flat, z) + offset)
    each = -logp[np.arange(len(labels)), :, labels].sum(1)
    return float((each * weights).sum() / weights.sum())


def gradient(recipe: str, flat: F64, z: F64, labels: NDArray, offset: F64, weights: F64) -> F64:
    """Of the loss by the parameters, by the complex step: exact to rounding, and no derivation to get wrong."""
    out = np.zeros_like(flat)
    for i in range(flat.size):
        moved = flat.astype(np.complex128)
        moved[i] += 1e-30j
        logits = forward(recipe, moved, z) + offset
        each = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), :, labels]
        out[i] = ((each.sum(1) * weights).sum() / weights.sum()).imag / 1e-30
    return out


def each_loss(kind: str, out: F64, target: NDArray) -> F64:
    """Loss of every sample, summed over exits; works for complex outputs."""
    if kind == "anomaly":
        score = (out * out).mean(-1)
        loss_ = np.where(target[:, None] == 1, 1 / (score + 1e-6), score)
        return loss_.sum(1)
    n, exits, _ = out.shape
    error = target[:, None, :, None] - out.reshape(n, exits, HORIZON, len(LEVELS))
    above = error.real >= 0
    side, size = np.where(above, LEVELS, 1 - np.array(LEVELS)), np.where(above, error, -error)
    if kind == "huber":
        size = np.where(size.real < HUBER, size * size / (2 * HUBER), size - HUBER / 2)
    return (side * size).mean((2, 3)).sum(1)


def loss_and_gradient(kind: str, recipe: str, outputs: int, flat: F64, z: F64, target: NDArray) -> tuple[float, F64]:
    """Mean loss and its gradient by the complex step."""
    loss_ = float(each_loss(kind, forward(recipe, flat, z, outputs), target).mean())
    out = np.zeros_like(flat)
    for i in range(flat.size):
        moved = flat.astype(np.complex128)
        moved[i] += 1e-30j
        out[i] = each_loss(kind, forward(recipe, moved, z, outputs), target).mean().imag / 1e-30
    return loss_, out
