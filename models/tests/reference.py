"""The sense network written a second time, in numpy and f64, to hold the exported graph against."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Rows of the embedding table.
ROWS = 320
Weights = dict[str, NDArray[np.float32]]
_erf = np.vectorize(math.erf)


def random_weights(rng: np.random.Generator, layers: int = 4, width: int = 64, hidden: int = 96) -> Weights:
    """A small network with nothing left at its default, so that no term can be missing."""
    shapes = {"embed.weight": (width, 16), "embed.bias": (width,), "table": (ROWS, width)}
    for k in range(layers):
        p = f"layers.{k}"
        shapes |= {f"{p}.norm_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
        shapes |= {f"{p}.qkv.weight": (3 * width, width), f"{p}.qkv.bias": (3 * width,)}
        shapes |= {f"{p}.out.weight": (width, width), f"{p}.out.bias": (width,)}
        shapes |= {f"{p}.up.weight": (hidden, width), f"{p}.up.bias": (hidden,)}
        shapes |= {f"{p}.down.weight": (width, hidden), f"{p}.down.bias": (width,)}
    return {name: (rng.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32) for name, shape in shapes.items()}


def _norm(x: NDArray, w: NDArray | float = 1.0, b: NDArray | float = 0.0) -> NDArray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def _layer(h: NDArray, w: Weights, p: str, heads: int) -> NDArray:
    tokens, width = h.shape
    x = _norm(h, w[f"{p}.norm_1.weight"], w[f"{p}.norm_1.bias"])
    qkv = x @ w[f"{p}.qkv.weight"].T.astype(float) + w[f"{p}.qkv.bias"]
    q, k, v = qkv.reshape(tokens, 3, heads, width // heads).transpose(1, 2, 0, 3)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(width // heads)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    mixed = (share @ v).transpose(1, 0, 2).reshape(tokens, width)
    h = h + mixed @ w[f"{p}.out.weight"].T.astype(float) + w[f"{p}.out.bias"]
    x = _norm(h, w[f"{p}.norm_2.weight"], w[f"{p}.norm_2.bias"])
    x = x @ w[f"{p}.up.weight"].T.astype(float) + w[f"{p}.up.bias"]
    x = x * (1 + _erf(x / np.sqrt(2))) / 2
    return h + x @ w[f"{p}.down.weight"].T.astype(float) + w[f"{p}.down.bias"]


def pooled(w: Weights, patches: NDArray, ids: NDArray, layers: int = 4, heads: int = 2) -> NDArray:
    """Tokens [T, 16] to pooled features [exits, 2 width], an exit after every second layer."""
    h = patches @ w["embed.weight"].T.astype(float) + w["embed.bias"] + w["table"][ids]
    out = []
    for k in range(layers):
        h = _layer(h, w, f"layers.{k}", heads)
        if k % 2:
            x = _norm(h)
            out.append(np.concatenate([x.mean(0), np.sqrt(x.var(0) + 1e-6)]))
    return np.stack(out)
