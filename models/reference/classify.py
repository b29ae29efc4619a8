"""Sums and closed forms of classify: the discriminant, and the ladder that starts from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from passes import EXITS, F64, FEATURES, OUTPUTS, RANK, spectrum

UNSEEN_BIAS = -30.0
CORRELATION = 0.5
TEMPERATURE = 0.25
CLASS_WEIGHTS = (1.0, 0.5, 3.0, 2.0)


def sums(q: NDArray[np.int16], labels: NDArray) -> NDArray[np.int64]:
    """Exact sums in the order counts, cross, gram (upper triangles)."""
    wide = q.astype(np.int64)
    counts = np.bincount(labels, minlength=OUTPUTS).astype(np.int64)
    hot = np.eye(OUTPUTS, dtype=np.int64)[labels]
    cross = [hot.T @ wide[:, k] for k in range(EXITS)]
    upper = np.triu_indices(FEATURES)
    gram = [(wide[:, k].T @ wide[:, k])[upper] for k in range(EXITS)]
    return np.concatenate([counts, *[c.ravel() for c in cross], *gram])


class Discriminant:
    """One exit's shared-covariance discriminant, from the samples themselves."""

    def __init__(self, z: F64, labels: NDArray, shrinkage: float | None):
        self.seen = np.unique(labels)
        means = np.stack([z[labels == c].mean(0) for c in self.seen])
        within = z - means[np.searchsorted(self.seen, labels)]
        freedom = len(z) - len(self.seen)
        s, d = within.T @ within / freedom, z.shape[1]
        trace, square = np.trace(s), (s * s).sum()
        if shrinkage is None:
            # Chen et al. 2010, eq. 23.
            shrinkage = ((1 - 2 / d) * square + trace**2) / ((freedom + 1 - 2 / d) * (square - trace**2 / d))
            shrinkage = float(np.clip(shrinkage, 1e-3, 1))
        drawn = (1 - shrinkage) * s + shrinkage * trace / d * np.eye(d)
        self.centre = means.mean(0)
        self.means = np.zeros((OUTPUTS, d))
        self.means[self.seen] = means - self.centre
        self.weight = self.means @ np.linalg.inv(drawn)
        self.gram = self.weight @ self.means.T

    def biases(self, values: F64) -> F64:
        """Biases with those of unseen classes below the lowest of the others."""
        out = np.full(OUTPUTS, values[self.seen].min() + UNSEEN_BIAS)
        out[self.seen] = values[self.seen]
        return out


def solve(z: F64, labels: NDArray, shrinkage: float | None) -> F64:
    """Parameters of a moments module."""
    out = []
    for k in range(EXITS):
        exit_ = Discriminant(z[:, k], labels, shrinkage)
        bias = -exit_.weight @ exit_.centre - 0.5 * np.diag(exit_.gram)
        out += [TEMPERATURE * exit_.weight.ravel(), exit_.biases(TEMPERATURE * bias)]
    return np.concatenate(out)


def ladder_start(z: F64, labels: NDArray, shrinkage: float | None) -> F64:
    """Starting parameters of a ladder; the rank here does not exceed the number of class differences."""
    exits = [Discriminant(z[:, k], labels, shrinkage) for k in range(EXITS)]
    _, basis = spectrum(sum(e.gram for e in exits) / EXITS)
    q, out, state = basis[:RANK], [], np.zeros((RANK, OUTPUTS))
    assert len(q) == RANK
    for k, exit_ in enumerate(exits):
        values, vectors = spectrum(exit_.gram)
        root = vectors.T @ np.diag(values**0.5) @ vectors
        inverse_root = vectors.T @ np.diag(values**-0.5) @ vectors
        down = q @ inverse_root @ exit_.weight
        open_ = k / (k + 1)
        state = open_ * state + (1 - open_) * (q @ root)
        variance = (1 + k * CORRELATION) / (k + 1)
        scale = TEMPERATURE / variance
        out += [down.ravel(), -down @ exit_.centre] + ([np.full(RANK, np.log(k))] if k else [])
        out += [scale * state.T.ravel(), exit_.biases(-0.5 * scale * (state**2).sum(0))]
    return np.concatenate(out)


def weighted(params: F64) -> F64:
    """A solved module whose classes are weighed."""
    out, width = params.copy(), OUTPUTS * (FEATURES + 1)
    for k in range(EXITS):
        out[(k + 1) * width - OUTPUTS : (k + 1) * width] += np.log(CLASS_WEIGHTS)
    return out
