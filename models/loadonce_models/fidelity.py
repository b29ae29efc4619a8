"""What int8 costs in agreement, and what an exit costs in time. Uses generated data only."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from . import directions, features, pictures, signals
from .engine import Engine
from .preprocess import PICTURE_IDS, PICTURE_TOKENS, WINDOW_IDS, WINDOW_TOKENS

SAMPLES = 600
SEED = 30_000


def _labelled(seed: int) -> dict[str, tuple[NDArray, NDArray, NDArray]]:
    """Tokens, ids and families; the draws are those of `directions.generated`, which keeps no labels."""
    rng = np.random.default_rng(seed)
    windows = signals.windows(rng, SAMPLES, 1).family
    drawn = pictures.pictures(rng, SAMPLES, 1).family
    groups = directions.generated(SAMPLES, seed)
    return {name: (*groups[name], y) for name, y in (("window", windows), ("picture", drawn))}


def agreement(fp32: Engine, int8: Engine, tensors: dict[str, NDArray]) -> dict[str, list[dict[str, float]]]:
    """Per modality and exit: cosine of z, and how often a probe made on fp32 says the same on int8."""
    fit, held = _labelled(SEED), _labelled(SEED + 1)
    out: dict[str, list[dict[str, float]]] = {}
    for name, (patches, ids, family) in held.items():
        a, b = (features.project(e.pooled_all(patches, ids), tensors) for e in (fp32, int8))
        known = features.project(fp32.pooled_all(fit[name][0], ids), tensors)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        rows = []
        for k in range(a.shape[1]):
            model = LogisticRegression(C=0.1, max_iter=300).fit(known[:, k], fit[name][2])
            same = model.predict(a[:, k]) == model.predict(b[:, k])
            fp32_score, int8_score = (float(model.score(x[:, k], family)) for x in (a, b))
            rows.append({
                "mean": float(cosine[:, k].mean()), "min": float(cosine[:, k].min()), "agreement": float(same.mean()),
                "fp32": fp32_score, "int8": int8_score,
            })  # fmt: skip
        out[name] = rows
    return out


def latency(engine: Engine, repeats: int = 300) -> dict[str, list[float]]:
    """Median milliseconds from tokens to the pooled features of each exit, cumulative, on one thread."""
    rng = np.random.default_rng(0)
    out = {}
    for name, ids, tokens in (("window", WINDOW_IDS, WINDOW_TOKENS), ("picture", PICTURE_IDS, PICTURE_TOKENS)):
        patches = rng.normal(size=(tokens, 16)).astype(np.float32)
        out[name] = []
        for exits in range(1, len(engine.sessions) + 1):
            spent = []
            for _ in range(repeats):
                start = time.perf_counter()
                engine.pooled(patches, ids, exits)
                spent.append(time.perf_counter() - start)
            out[name].append(float(np.median(spent)) * 1e3)
    return out
