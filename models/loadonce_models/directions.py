"""Public statistics that turn pooled features into ordered, standardized ones.

The rows of a projection are the principal directions of the pooled features on
generated data, each dimension first standardized, ordered by variance and
scaled to unit variance of z. The covariance is taken within each modality,
else the first direction of every task would be spent on telling windows from
pictures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import pictures, signals
from .engine import Engine
from .features import DIRECTIONS, F32
from .preprocess import LENGTH, SIDE, picture_ids, tile, window_ids

SEED = 20_000  # another stream of generated data than pretraining's
# Half of the samples have the usual size.
WINDOWS = {128: 0.2, LENGTH: 0.5, 512: 0.2, 1024: 0.1}
PICTURES = {16: 0.25, SIDE: 0.5, 48: 0.15, 64: 0.1}
Tokens = list[tuple[F32, NDArray[np.int64]]]


def generated(samples: int, seed: int = SEED) -> dict[str, tuple[Tokens, NDArray[np.int64]]]:
    """Fresh generated tokens with their ids, and the families, of both modalities."""
    rng = np.random.default_rng(seed)
    out: dict[str, tuple[Tokens, NDArray[np.int64]]] = {}
    for modality, sizes in (("window", WINDOWS), ("picture", PICTURES)):
        tokens: Tokens = []
        families = []
        for size, share in sizes.items():
            count = round(samples * share)
            make = signals.windows if modality == "window" else pictures.pictures
            batch = make(rng, count, 1, size)
            families.append(batch.family)
            ids = window_ids(size) if modality == "window" else picture_ids(size)
            x = batch.x[:, 0]
            patches = x.reshape(count, -1, 16) if modality == "window" else np.ascontiguousarray(tile(x))
            tokens += [(patch, ids) for patch in patches]
        out[modality] = (tokens, np.concatenate(families))
    return out


def directions(groups: list[F32]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Mean [pooled] and projection [directions, pooled] from pooled features [samples, pooled] per modality."""
    parts = [g.astype(np.float64) for g in groups]
    mean = np.mean([p.mean(0) for p in parts], 0)
    scale = np.sqrt(np.mean([p.var(0) for p in parts], 0)) + 1e-6
    inner = np.mean([np.cov(((p - p.mean(0)) / scale).T, bias=True) for p in parts], 0)
    order = np.linalg.eigh(inner)[1].T[::-1][:DIRECTIONS]
    # A direction's sign is arbitrary; fixing it makes rebuilds comparable.
    order = order * np.sign(order[np.arange(DIRECTIONS), np.abs(order).argmax(1)])[:, None]
    projection = order / scale
    z = np.concatenate([(p - mean) @ projection.T for p in parts])
    projection /= np.sqrt((z**2).mean(0))[:, None]
    # eigh's layout is column-major, and safetensors would store those bytes as they lie.
    return mean.astype(np.float16), np.ascontiguousarray(projection, np.float16)


def build(engine: Engine, samples: int = 3000) -> dict[str, NDArray[np.float16]]:
    """The tensors of features.safetensors, measured on the engine that ships."""
    pooled = [engine.pooled_all(tokens) for tokens, _ in generated(samples).values()]
    out = {}
    for k in range(pooled[0].shape[1]):
        out[f"exit_{k + 1}.mean"], out[f"exit_{k + 1}.projection"] = directions([p[:, k] for p in pooled])
    return out
