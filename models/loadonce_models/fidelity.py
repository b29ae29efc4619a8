"""What int8 costs in agreement. Uses generated data only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from . import directions, features
from .engine import Engine

SAMPLES = 600
SEED = 30_000


def agreement(fp32: Engine, int8: Engine, tensors: dict[str, NDArray]) -> dict[str, list[dict[str, float]]]:
    """Per modality and exit: cosine of z, and how often a probe made on fp32 says the same on int8."""
    fit, held = directions.generated(SAMPLES, SEED), directions.generated(SAMPLES, SEED + 1)
    out: dict[str, list[dict[str, float]]] = {}
    for name, (tokens, family) in held.items():
        a, b = (features.project(e.pooled_all(tokens), tensors) for e in (fp32, int8))
        known = features.project(fp32.pooled_all(fit[name][0]), tensors)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        rows = []
        for k in range(a.shape[1]):
            model = LogisticRegression(C=0.1, max_iter=300).fit(known[:, k], fit[name][1])
            same = model.predict(a[:, k]) == model.predict(b[:, k])
            fp32_score, int8_score = (float(model.score(x[:, k], family)) for x in (a, b))
            rows.append({
                "mean": float(cosine[:, k].mean()), "min": float(cosine[:, k].min()), "agreement": float(same.mean()),
                "fp32": fp32_score, "int8": int8_score,
            })  # fmt: skip
        out[name] = rows
    return out
