"""int8 weights of a product, rounded so that its results on seen inputs change least.

A few input channels of a language model are ten times as strong as the rest. They go through a small product in fp32
(Dettmers et al., LLM.int8(), arXiv 2208.07339); the others that are stronger than most are divided down before the int8
product, the rows of its weight raised by as much (after SmoothQuant, arXiv 2211.10438). The weights are rounded row by
row, each row's error passed on to the rows still to come, the fp32 ones and the bias last (GPTQ, arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32, F64 = NDArray[np.float32], NDArray[np.float64]
# Weights have 7 bits, so that sums of two products in 16 bits cannot saturate.
MOST = 64
# Added to the diagonal of the Gram matrix, as a share of its mean.
RIDGE = 0.01
# Column scales that are tried, as shares of the one at which nothing is clipped.
CLIPS = np.linspace(0.5, 1, 11)
BLOCK = 64


class Seen:
    """Exact sums of a product's inputs: the Gram matrix with a 1 behind the K channels, and every channel's maximum."""

    def __init__(self, channels: int):
        self.gram = np.zeros((channels + 1, channels + 1))
        self.most = np.zeros(channels, np.float32)

    def add(self, x: F32) -> None:
        """Inputs [n, K]."""
        x = np.hstack([x, np.ones((len(x), 1), np.float32)])
        self.gram += x.T @ x
        self.most = np.maximum(self.most, np.abs(x[:, :-1]).max(0))

    def ordered(self, order: NDArray[np.int64]) -> Seen:
        """The same sums with the channels in another order."""
        found = Seen(0)
        found.most = self.most[order]
        order = np.append(order, len(order))
        found.gram = self.gram[np.ix_(order, order)]
        return found


@dataclass
class Product:
    """x @ weight + bias = (x · keep) @ (whole · scale) + x[strong] @ rows + bias, up to rounding."""

    strong: NDArray[np.int64]  # [k] channels in fp32
    keep: F32  # [K] 0 for the strong channels, the inverse of their damping for the others
    whole: NDArray[np.int8]  # [K, N], rows of zeros for the strong channels
    scale: F32  # [N]
    rows: NDArray[np.float16]  # [k, N]
    bias: F32  # [N]

    @property
    def first(self) -> bool:
        """Whether the strong channels are the first ones."""
        return len(self.strong) > 0 and int(self.strong[-1]) + 1 == len(self.strong)


def _scales(weight: F64, power: F64) -> F64:
    """Per column the scale with the least error of plain rounding, each row weighted by its input's power."""
    most = np.maximum(np.abs(weight).max(0), 1e-12) / MOST
    tried = []
    for share in CLIPS:
        scale = most * share
        gap = np.clip(np.rint(weight / scale), -MOST, MOST) * scale - weight
        tried.append(power @ gap**2)
    return most * CLIPS[np.argmin(tried, 0)]


def split(weight: F32, bias: F32, seen: Seen, strong: int, strongest: float) -> Product:
    """The mixed form: `strong` channels in fp32, the rest damped to `strongest` times their median one."""
    channels = len(weight)
    chosen = np.sort(np.argsort(-seen.most, kind="stable")[:strong])
    rest = np.setdiff1d(np.arange(channels), chosen)
    damping = np.maximum(1, seen.most / (strongest * np.median(seen.most[rest]))).astype(np.float32)
    damping[chosen] = 1
    by = np.append(1 / damping.astype(np.float64), 1)
    gram = seen.gram * by[:, None] * by
    # Powerful channels first: their error is passed on to the most others.
    rest = rest[np.argsort(-np.diag(gram)[rest], kind="stable")]
    order = np.concatenate([rest, chosen, [channels]])
    gram = gram[np.ix_(order, order)]
    count = len(rest)
    gram[np.diag_indices(len(gram))] += RIDGE * np.diag(gram)[:count].mean()
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    left = np.vstack([weight * damping[:, None], bias])[order].astype(np.float64)
    scale = _scales(left[:count], np.diag(gram)[:count]).astype(np.float32)
    whole = np.zeros(weight.shape, np.int8)
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        errors = np.empty((last - first, weight.shape[1]))
        for row in range(first, last):
            steps = np.clip(np.rint(left[row] / scale), -MOST, MOST)
            whole[order[row]] = steps
            errors[row - first] = (left[row] - steps * scale) / upper[row, row]
            left[row + 1 : last] -= upper[row, row + 1 : last, None] * errors[row - first]
        left[last:] -= upper[first:last, last:].T @ errors
    keep = 1 / damping
    keep[chosen] = 0
    rows, shifted = left[count:-1].astype(np.float16), left[-1].astype(np.float32)
    return Product(chosen, keep, whole, scale, rows, shifted)
