"""Sums and closed forms of an anomaly task."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from passes import EXITS, F64, FEATURES, spectrum


def anomaly_sums(q: NDArray[np.int16], anomalous: NDArray) -> NDArray[np.int64]:
    """Exact sums of two classes; only normal samples enter gram."""
    wide = q.astype(np.int64)
    counts = np.bincount(anomalous, minlength=2).astype(np.int64)
    cross = [np.stack([wide[anomalous == c, k].sum(0) for c in (0, 1)]).ravel() for k in range(EXITS)]
    upper = np.triu_indices(FEATURES)
    normal = wide[anomalous == 0]
    return np.concatenate([counts, *cross, *[(normal[:, k].T @ normal[:, k])[upper] for k in range(EXITS)]])


def shrunk(z: F64, shrinkage: float | None) -> F64:
    """Covariance drawn towards the identity."""
    s, freedom, d = np.cov(z.T), len(z) - 1, z.shape[1]
    trace, square = np.trace(s), (s * s).sum()
    if shrinkage is None:
        shrinkage = ((1 - 2 / d) * square + trace**2) / ((freedom + 1 - 2 / d) * (square - trace**2 / d))
        shrinkage = float(np.clip(shrinkage, 1e-3, 1))
    return (1 - shrinkage) * s + shrinkage * trace / d * np.eye(d)


def whitening(z: F64, rank: int | None, shrinkage: float | None) -> F64:
    """Parameters of an anomaly's moments module, or of a probe's start."""
    out = []
    for k in range(EXITS):
        s = shrunk(z[:, k], shrinkage)
        rows = np.linalg.inv(np.linalg.cholesky(s))
        if rank is not None:
            values, vectors = spectrum(s)
            rows = (vectors / values[:, None] ** 0.5)[::-1][:rank]
        out += [rows.ravel(), -rows @ z[:, k].mean(0)]
    return np.concatenate(out)
